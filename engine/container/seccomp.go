package container

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// seccompProfiles caches profiles, which depend on the capabilities: making one
// filters some 400 rules.
type seccompProfiles struct {
	mu sync.Mutex
	m  map[string]*specs.LinuxSeccomp // never changed once stored
}

// maxProfiles bounds the cache; it is emptied when full.
const maxProfiles = 64

// profile returns the filter for text (a profile as JSON, or "" and "builtin"
// for the default one) and the capabilities of spec; nil for "unconfined".
func (p *seccompProfiles) profile(text string, spec *specs.Spec) (*specs.LinuxSeccomp, error) {
	if text == "unconfined" {
		return nil, nil
	}
	caps := slices.Sorted(slices.Values(spec.Process.Capabilities.Bounding))
	key := strings.Join(caps, ",") + "\x00" + text
	p.mu.Lock()
	cached := p.m[key]
	p.mu.Unlock()
	if cached != nil {
		return cached, nil
	}
	var made *specs.LinuxSeccomp
	var err error
	if text == "" || text == "builtin" {
		made, err = seccomp.GetDefaultProfile(spec)
	} else {
		made, err = seccomp.LoadProfile(text, spec)
	}
	if err == nil && (made == nil || made.DefaultAction == "") {
		// "{}" would be no filter at all (CVE-2023-2431); whoever wants that says
		// "unconfined".
		err = errors.New("defaultAction is missing")
	}
	if err != nil {
		return nil, fmt.Errorf("seccomp profile: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.m == nil || len(p.m) >= maxProfiles {
		p.m = make(map[string]*specs.LinuxSeccomp)
	}
	p.m[key] = made
	return made, nil
}
