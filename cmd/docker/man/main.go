// man writes docker's manual pages from its command tree: man DIR.
package main

import (
	"fmt"
	"os"

	"lighter/cli"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: man DIR")
		os.Exit(2)
	}
	// The pages speak of any user's home.
	if err := os.Setenv("DOCKER_CONFIG", "~/.docker"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if err := cli.WriteMan(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "write the manual pages:", err)
		os.Exit(1)
	}
}
