// Package identity keeps the UUID of an installation in a file.
package identity

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"

	"lighter/internal/atomicfile"
)

// Load returns the identity stored at path. An empty or missing file gets a new
// random UUID (RFC 9562, version 4); any other text is kept as it is: an
// administrator may have put it there.
func Load(path string) (string, error) {
	raw, err := os.ReadFile(path)
	if id := strings.TrimSpace(string(raw)); err == nil && id != "" {
		return id, nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("read the identity: %w", err)
	}
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	id := fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
	if err := atomicfile.Write(path, []byte(id), 0o600); err != nil {
		return "", fmt.Errorf("store the identity: %w", err)
	}
	return id, nil
}
