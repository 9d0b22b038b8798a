// docker is the command line: it drives an engine through the Engine API.
package main

import (
	"context"
	"os"

	"lighter/cli"
)

func main() { os.Exit(cli.Run(context.Background(), os.Args[1:])) }
