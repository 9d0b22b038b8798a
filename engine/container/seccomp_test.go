package container

import (
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestSeccompNeverEmpty: only "unconfined" means no filter (CVE-2023-2431).
func TestSeccompNeverEmpty(t *testing.T) {
	spec := &specs.Spec{Linux: &specs.Linux{}, Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{}}}
	for text, ok := range map[string]bool{
		"":                                   true,
		"builtin":                            true,
		`{"defaultAction":"SCMP_ACT_ERRNO"}`: true,
		"{}":                                 false,
		"null":                               false,
		`{"syscalls":[]}`:                    false,
	} {
		var p seccompProfiles
		made, err := p.profile(text, spec)
		if ok && (err != nil || made == nil || made.DefaultAction == "") || !ok && err == nil {
			t.Errorf("profile(%q) = %+v, %v", text, made, err)
		}
	}
	var p seccompProfiles
	if made, err := p.profile("unconfined", spec); made != nil || err != nil {
		t.Errorf("profile(unconfined) = %+v, %v", made, err)
	}
}
