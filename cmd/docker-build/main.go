// docker-build is docker's build command. It is a program of its own because it
// links BuildKit's client, which would double the start-up time of every other
// command; docker executes it with its own arguments.
package main

import (
	"context"
	"os"

	"lighter/cli"
	"lighter/cli/build"
)

func main() { os.Exit(cli.RunBuild(context.Background(), os.Args[1:], build.Command)) }
