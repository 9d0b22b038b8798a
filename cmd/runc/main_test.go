package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// asProgram makes the test binary behave as runc.
const asProgram = "LIGHTER_TEST_RUNC"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		os.Exit(start(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// program executes it and returns its exit code and output.
func program(t *testing.T, dir string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), asProgram+"=1")
	// Files, not pipes: a created container keeps its standard output open, and
	// waiting for the end of a pipe would be waiting for the container.
	out, errOut := output(t), output(t)
	cmd.Stdout, cmd.Stderr = out, errOut
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), content(t, out), content(t, errOut)
}

func output(t *testing.T) *os.File {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "output")
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func content(t *testing.T, f *os.File) string {
	t.Helper()
	defer f.Close()
	raw, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// bundle returns a directory with a busybox root and a configuration that runs
// args.
func bundle(t *testing.T, args ...string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes namespaces and mounts")
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skip("needs a static /bin/busybox")
	}
	dir := t.TempDir()
	bin := filepath.Join(dir, "rootfs/bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bin, "busybox"), busybox, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, a := range []string{"sh", "true", "cat", "sleep", "echo", "readlink", "id"} {
		if err := os.Symlink("busybox", filepath.Join(bin, a)); err != nil {
			t.Fatal(err)
		}
	}
	s := exampleSpec(false)
	s.Root.Readonly = false // /proc and the like are made
	s.Process.Terminal, s.Process.Args, s.Process.Rlimits = false, args, nil
	raw, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), raw, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestUsage(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct {
		args           []string
		code           int
		stdout, stderr string // substrings
	}{
		{[]string{"--version"}, 0, "runc version " + version + "\nproduct: Lighter", ""},
		{[]string{"-v"}, 0, "\nspec: 1.3.0\ngo: go1.", ""},
		{[]string{"--help"}, 0, "COMMANDS:", ""},
		{[]string{"help", "exec"}, 0, "--console-socket", ""},
		{[]string{"create", "--help"}, 0, "--no-new-keyring", ""},
		{[]string{"nonsense"}, 3, "", "No help topic"},
		{[]string{"--nonsense", "list"}, 1, "", "flag provided but not defined: -nonsense"},
		{[]string{"--log-format", "xml", "list"}, 1, "", "invalid format"},
		{[]string{"--root", dir, "list"}, 0, "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n", ""},
		{[]string{"--root", dir, "list", "-q"}, 0, "", ""},
		{[]string{"--root", dir, "list", "--format=json"}, 0, "[]\n", ""},
		{[]string{"--root", dir, "state"}, 1, "", "wrong number of arguments"},
		{[]string{"--root", dir, "state", "none"}, 1, "", `container \"none\" does not exist`},
		{[]string{"--root", dir, "delete", "none"}, 1, "", "does not exist"},
		{[]string{"--root", dir, "delete", "-f", "none"}, 0, "", ""},
		{[]string{"--root", dir, "kill", "none", "NOSIG"}, 1, "", "unknown signal"},
		{[]string{"--root", dir, "exec", "none", "true"}, 255, "", "does not exist"},
		{[]string{"checkpoint", "x"}, 1, "", "not implemented"},
		{[]string{"restore", "x"}, 1, "", "not implemented"},
		{[]string{"events", "x"}, 1, "", "does not exist"},
		{[]string{"--systemd-cgroup", "list"}, 1, "", "systemd"},
	} {
		code, stdout, stderr := program(t, dir, tt.args...)
		if code != tt.code || !strings.Contains(stdout, tt.stdout) || !strings.Contains(stderr, tt.stderr) {
			t.Errorf("%q: code %d, want %d; stdout %q, want %q; stderr %q, want %q", tt.args, code, tt.code, stdout, tt.stdout, stderr, tt.stderr)
		}
	}
}

func TestSpec(t *testing.T) {
	dir := t.TempDir()
	if code, _, stderr := program(t, dir, "spec"); code != 0 {
		t.Fatalf("code %d: %s", code, stderr)
	}
	if code, _, stderr := program(t, dir, "spec"); code != 1 || !strings.Contains(stderr, "exists") {
		t.Errorf("second time: code %d, %s", code, stderr)
	}
}

func TestFeatures(t *testing.T) {
	_, stdout, _ := program(t, t.TempDir(), "features")
	var f struct {
		OCIVersionMax string
		MountOptions  []string
	}
	if err := json.Unmarshal([]byte(stdout), &f); err != nil || f.OCIVersionMax != "1.3.0" || len(f.MountOptions) < 50 {
		t.Errorf("error %v: %s", err, stdout)
	}
}

// A container through the command line, each command a process of its own.
func TestLifecycle(t *testing.T) {
	dir := bundle(t, "sh", "-c", "sleep 1000")
	root := filepath.Join(t.TempDir(), "state")
	id := "lighter-cli-" + filepath.Base(filepath.Dir(dir))
	run := func(wantCode int, args ...string) string {
		t.Helper()
		code, stdout, stderr := program(t, dir, append([]string{"--root", root}, args...)...)
		if code != wantCode {
			t.Fatalf("%q: code %d, want %d: %s", args, code, wantCode, stderr)
		}
		return stdout
	}
	t.Cleanup(func() { program(t, dir, "--root", root, "delete", "-f", id) })
	pidFile := filepath.Join(dir, "pid")
	run(0, "create", "--pid-file", pidFile, id)
	status := func(want string) {
		t.Helper()
		var s stateJSON
		if err := json.Unmarshal([]byte(run(0, "state", id)), &s); err != nil || s.Status != want {
			t.Fatalf("status %q, error %v; want %s", s.Status, err, want)
		}
	}
	status("created")
	if raw, err := os.ReadFile(pidFile); err != nil || len(raw) == 0 {
		t.Errorf("pid file: %q, error %v", raw, err)
	}
	run(0, "start", id)
	status("running")
	if out := run(0, "exec", id, "echo", "-n", "hello"); out != "hello" {
		t.Errorf("exec: got %q", out)
	}
	run(7, "exec", id, "sh", "-c", "exit 7")
	run(255, "exec", id, "no-such-program")
	if out := run(0, "exec", "--user", "12:34", "-g", "5", "-e", "A=b", "--cwd", "/dev", id, "sh", "-c", "id -u; id -G; echo $A; pwd"); out != "12\n34 5\nb\n/dev\n" {
		t.Errorf("exec with flags: got %q", out)
	}
	run(0, "pause", id)
	status("paused")
	run(0, "resume", id)
	if out := run(0, "ps", "--format", "json", id); !strings.HasPrefix(out, "[") {
		t.Errorf("ps: got %q", out)
	}
	run(0, "update", "--pids-limit", "50", id)
	run(1, "delete", id)
	run(0, "delete", "--force", id)
	run(1, "state", id)
}

// The exit code of run is the program's; the error is the last line of the log.
func TestRun(t *testing.T) {
	dir := bundle(t, "sh", "-c", "exit 23")
	root := filepath.Join(t.TempDir(), "state")
	if code, _, stderr := program(t, dir, "--root", root, "run", "lighter-cli-run"); code != 23 {
		t.Errorf("code %d, want 23: %s", code, stderr)
	}
	dir = bundle(t, "nothing-here")
	log := filepath.Join(dir, "log.json")
	code, _, stderr := program(t, dir, "--root", root, "--log", log, "--log-format", "json", "run", "lighter-cli-run")
	raw, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	var record struct{ Level, Msg, Time string }
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &record); err != nil {
		t.Fatal(err)
	}
	want := `runc run failed: unable to start container process: exec: "nothing-here": executable file not found in $PATH`
	if code != 1 || record.Level != "error" || record.Msg != want || record.Time == "" || strings.TrimSpace(stderr) != want {
		t.Errorf("code %d, record %+v, stderr %q; want 1, %q", code, record, stderr, want)
	}
}

// A program that executes its parent's binary, which a container reaches as
// /proc/self/exe, finds it on a file system that it cannot write to
// (CVE-2019-5736).
func TestSealed(t *testing.T) {
	dir := bundle(t, "/proc/self/exe", "--version")
	code, stdout, stderr := program(t, dir, "--root", filepath.Join(t.TempDir(), "state"), "run", "lighter-cli-sealed")
	// The container does run this program, for it has no other to execute by
	// that name. That is harmless as long as the file cannot be changed.
	if code == 0 && !strings.Contains(stdout, "runc version") {
		t.Errorf("code %d, stdout %q, stderr %q", code, stdout, stderr)
	}
	before, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	dir = bundle(t, "sh", "-c", "true")
	script := "#!/proc/self/exe\n"
	if err := os.WriteFile(filepath.Join(dir, "rootfs/evil"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	// While a created container waits, its init is still this program.
	root := filepath.Join(t.TempDir(), "state")
	pidFile := filepath.Join(dir, "pid")
	if code, _, stderr := program(t, dir, "--root", root, "create", "--pid-file", pidFile, "lighter-cli-parked"); code != 0 {
		t.Fatalf("create: code %d: %s", code, stderr)
	}
	defer program(t, dir, "--root", root, "delete", "-f", "lighter-cli-parked")
	pid, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	// A write is refused for now because the program runs (ETXTBSY); once nothing
	// runs it, because of its mount.
	var st unix.Statfs_t
	if err := unix.Statfs("/proc/"+string(pid)+"/exe", &st); err != nil || st.Flags&unix.ST_RDONLY == 0 {
		t.Errorf("the parked init's program is not on a read-only mount: flags %#x, error %v", st.Flags, err)
	}
	after, err := os.ReadFile(os.Args[0])
	if err != nil || !bytes.Equal(before, after) {
		t.Error("the program has changed")
	}
}

func TestParseBytes(t *testing.T) {
	for s, want := range map[string]int64{"0": 0, "-1": -1, "10": 10, "2k": 2048, "2KB": 2048, "3m": 3 << 20, "1g": 1 << 30, "1t": 1 << 40, "7b": 7} {
		if got, err := parseBytes(s); err != nil || got != want {
			t.Errorf("%q: got %d, error %v; want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "x", "1x", "k", "9999999999g", "1.5m"} {
		if _, err := parseBytes(s); err == nil {
			t.Errorf("%q: no error", s)
		}
	}
}

func TestParseSignal(t *testing.T) {
	for s, want := range map[string]int{"9": 9, "KILL": 9, "sigterm": 15, "SIGRTMIN+3": 37, "RTMAX-1": 63, "0": 0} {
		if got, err := parseSignal(s); err != nil || int(got) != want {
			t.Errorf("%q: got %d, error %v; want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "65", "-1", "FOO", "RTMIN+99"} {
		if _, err := parseSignal(s); err == nil {
			t.Errorf("%q: no error", s)
		}
	}
}

// The failure of execve itself is one line, without the log's form around it.
func TestRun_execveError(t *testing.T) {
	dir := bundle(t, "/script")
	if err := os.WriteFile(filepath.Join(dir, "rootfs/script"), []byte("#!/no/such/interpreter\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	code, _, stderr := program(t, dir, "--root", filepath.Join(t.TempDir(), "state"), "run", "lighter-cli-execve")
	if want := "exec /script: no such file or directory\n"; code != 1 || stderr != want {
		t.Errorf("code %d, %q; want 1, %q", code, stderr, want)
	}
}

func TestRun_debug(t *testing.T) {
	dir := bundle(t, "true")
	root, log := filepath.Join(t.TempDir(), "state"), filepath.Join(dir, "log")
	code, _, stderr := program(t, dir, "--root", root, "--debug", "--log", log, "run", "lighter-cli-debug")
	raw, err := os.ReadFile(log)
	if err != nil || code != 0 || stderr != "" {
		t.Fatalf("code %d, %v: %s", code, err, stderr)
	}
	for _, want := range []string{"level=debug", `msg="plan compiled"`, `msg="init forked"`, `msg="init is set up"`} {
		if !strings.Contains(string(raw), want) {
			t.Errorf("no %s in\n%s", want, raw)
		}
	}
}

func TestSubgroups(t *testing.T) {
	for _, tt := range []struct {
		list []string
		want string
	}{
		{nil, "map[]"}, {[]string{"/"}, "map[:/]"}, {[]string{"cpu,cpuacct:sub", "pids:/x"}, "map[cpu,cpuacct:sub pids:/x]"},
		{[]string{"a", "b"}, ""}, {[]string{"cpu:a", "cpu:b"}, ""},
	} {
		m, err := subgroups(tt.list)
		if got := fmt.Sprint(m); (err == nil) != (tt.want != "") || err == nil && got != tt.want {
			t.Errorf("%q: got %s, %v; want %s", tt.list, got, err, tt.want)
		}
	}
}

// A user is digits in range, and nothing becomes 0 by accident (CVE-2026-30892,
// CVE-2024-40635, CVE-2016-3697).
func TestExec_user(t *testing.T) {
	for s, want := range map[string]uint32{"0": 0, "1": 1, "65534": 65534, "4294967294": 1<<32 - 2} {
		if n, err := parseID(s); err != nil || n != want {
			t.Errorf("%q: got %d, %v", s, n, err)
		}
	}
	for _, s := range []string{"", "-1", "+1", " 1", "1 ", "0x1", "1e3", "root", "4294967295", "4294967296", "18446744073709551616"} {
		if n, err := parseID(s); err == nil {
			t.Errorf("%q is %d", s, n)
		}
	}
	dir := bundle(t, "sleep", "1000")
	root := filepath.Join(t.TempDir(), "state")
	const id = "lighter-cli-user"
	t.Cleanup(func() { program(t, dir, "--root", root, "delete", "--force", id) })
	if code, _, stderr := program(t, dir, "--root", root, "run", "--detach", id); code != 0 {
		t.Fatal(stderr)
	}
	for user, want := range map[string]string{"1": "uid=1 gid=0", "1:1": "uid=1 gid=1", "0:5": "uid=0 gid=5", "1:": "", ":1": "", "nobody": "", "nobody:0": ""} {
		code, stdout, stderr := program(t, dir, "--root", root, "exec", "--user", user, id, "id")
		if (code == 0) != (want != "") || want != "" && !strings.HasPrefix(stdout, want) {
			t.Errorf("--user %s: code %d, %q, %q; want %q", user, code, stdout, stderr, want)
		}
	}
}
