package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestWriteMan(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "man1")
	if err := WriteMan(dir); err != nil {
		t.Fatal(err)
	}
	for page, want := range map[string][]string{
		"docker.1":             {".SH NAME\ndocker \\- ", ".SH COMMON COMMANDS\n", ".BR docker\\-run (1)\n", "\\-\\-tlsverify\n"},
		"docker-run.1":         {".B docker run [OPTIONS] IMAGE", ".B \\-d, \\-\\-detach\n", ".SH SEE ALSO\n.BR docker (1)\n"},
		"docker-context-use.1": {".SH SEE ALSO\n.BR docker\\-context (1)\n"},
	} {
		text, err := os.ReadFile(filepath.Join(dir, page))
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range want {
			if !strings.Contains(string(text), w) {
				t.Errorf("%s lacks %q", page, w)
			}
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "docker-system-dial-stdio.1")); err == nil {
		t.Error("a hidden command has a page")
	}
}

func TestRoff(t *testing.T) {
	if got, want := roff("a-b\n.c\n'd\\"), "a\\-b\n\\&.c\n\\&'d\\e"; got != want {
		t.Errorf("roff = %q, want %q", got, want)
	}
}
