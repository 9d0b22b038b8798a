// Package engine tests the whole path, from a docker command line through
// dockerd, containerd, the shim and the runtime, with the real programs.
package engine

import (
	"testing"

	"lighter/internal/testenv"
	"lighter/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// eachMode runs f against a daemon that embeds containerd and one that uses a
// containerd of its own process.
func eachMode(t *testing.T, f func(t *testing.T, d *harness.Daemon), args ...string) {
	testenv.Need(t, testenv.Root)
	for name, external := range map[string]bool{"embedded": false, "external": true} {
		t.Run(name, func(t *testing.T) {
			d := harness.Start(t, harness.Options{External: external, Args: args})
			d.Busybox()
			f(t, d)
		})
	}
}

// eachCLI runs f with our command line, and with the stock one where there is
// one.
func eachCLI(t *testing.T, f func(t *testing.T, docker string)) {
	programs := map[string]string{"ours": harness.Bin(t, "docker")}
	if stock := harness.StockDocker(); stock != "" {
		programs["stock"] = stock
	}
	for name, docker := range programs {
		t.Run(name, func(t *testing.T) { f(t, docker) })
	}
}
