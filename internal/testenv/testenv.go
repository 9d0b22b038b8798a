// Package testenv says what a test needs of the machine and skips it, with the
// reason, where that is missing. With LIGHTER_TEST_STRICT=1 (continuous
// integration) a missing need is a failure: a silent skip is a lie.
package testenv

import (
	"os"
	"os/exec"
	"testing"
)

// Requirement is something that a test needs.
type Requirement struct {
	name    string
	missing func() string // "" when met, else what to do
}

// Root is the effective user 0 with CAP_SYS_ADMIN in practice: the tests make
// namespaces and mounts.
var Root = Requirement{"root", func() string {
	if os.Geteuid() == 0 {
		return ""
	}
	return "run the tests as root"
}}

// Program is an executable on PATH, installed by the named Debian package.
func Program(name, debianPackage string) Requirement {
	return Requirement{name, func() string {
		if _, err := exec.LookPath(name); err == nil {
			return ""
		}
		return "apt-get install " + debianPackage
	}}
}

// Need skips t, or fails it in strict mode, unless every requirement is met.
func Need(t testing.TB, needs ...Requirement) {
	t.Helper()
	for _, n := range needs {
		remedy := n.missing()
		if remedy == "" {
			continue
		}
		if os.Getenv("LIGHTER_TEST_STRICT") == "1" {
			t.Fatalf("needs %s: %s", n.name, remedy)
		}
		t.Skipf("needs %s: %s", n.name, remedy)
	}
}
