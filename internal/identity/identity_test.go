package identity

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "id")
	made, err := Load(path)
	if err != nil || !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(made) {
		t.Fatalf("Load() = %q, %v, want a UUID", made, err)
	}
	if again, err := Load(path); err != nil || again != made {
		t.Errorf("a second Load() = %q, %v, want %q", again, err, made)
	}
	if err := os.WriteFile(path, []byte("chosen\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := Load(path); err != nil || got != "chosen" {
		t.Errorf("Load() of a chosen identity = %q, %v", got, err)
	}
}
