package cli

import (
	"os"
	"testing"

	"lighter/cli/session"
)

// BenchmarkTree is what every invocation pays before its command runs.
func BenchmarkTree(b *testing.B) {
	for _, word := range []string{"", "version", "ps", "run", "network"} {
		b.Run(word, func(b *testing.B) {
			for b.Loop() {
				newRoot(&session.Session{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}, word)
			}
		})
	}
}
