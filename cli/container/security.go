package container

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/moby/moby/api/types/container"
)

// securityOptions sets h's security options. A seccomp profile's path is replaced
// by its content, which the engine, perhaps on another machine, could not read;
// systempaths=unconfined, which the engine does not know, becomes empty lists of
// masked and read-only paths.
func securityOptions(h *container.HostConfig, opts []string) error {
	h.SecurityOpt = []string{}
	for _, opt := range opts {
		if key, value, _ := strings.Cut(opt, "="); key == "systempaths" {
			if value != "unconfined" {
				return fmt.Errorf("invalid --security-opt: %q: only systempaths=unconfined is known", opt)
			}
			h.MaskedPaths, h.ReadonlyPaths = []string{}, []string{}
			continue
		}
		if path, ok := strings.CutPrefix(opt, "seccomp="); ok && path != "unconfined" && path != "builtin" {
			raw, err := os.ReadFile(path)
			if err != nil {
				return fmt.Errorf("opening seccomp profile (%s) failed: %w", path, err)
			}
			var compact bytes.Buffer
			if err := json.Compact(&compact, raw); err != nil {
				return fmt.Errorf("compacting json for seccomp profile (%s) failed: %w", path, err)
			}
			opt = "seccomp=" + compact.String()
		}
		h.SecurityOpt = append(h.SecurityOpt, opt)
	}
	return nil
}
