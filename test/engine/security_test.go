package engine

import (
	"os"
	"syscall"
	"testing"

	"lighter/test/harness"
)

// TestSecurityNullDevice: what a container gets of the host's /dev/null, as
// standard input and as cover of masked files, works as a device, but its owner
// and mode cannot be changed. Root in the container owns the inode.
func TestSecurityNullDevice(t *testing.T) {
	d := harness.Start(t, harness.Options{})
	d.Busybox()
	before := nullDevice(t)
	t.Cleanup(func() { // the machine needs it, whatever happened
		os.Chown("/dev/null", int(before.Uid), int(before.Gid))
		os.Chmod("/dev/null", os.FileMode(before.Mode&0o777))
	})
	const attack = `for f in /proc/self/fd/0 /proc/keys /proc/interrupts; do
	test -c $f || continue
	if chmod 667 $f || chown 7 $f || touch -t 200001010000 $f; then echo changed $f; fi
	echo data >$f || echo $f takes no data
	test -z "$(cat $f)" || echo $f gives data
done`
	d.OK("run", "-d", "--name", "victim", "busybox", "sleep", "1000")
	for name, args := range map[string][]string{
		"run":  {"run", "--rm", "busybox", "sh", "-c", attack},
		"exec": {"exec", "victim", "sh", "-c", attack},
	} {
		t.Run(name, func(t *testing.T) {
			if out := d.OK(args...); out != "" {
				t.Error(out)
			}
			if after := nullDevice(t); after.Mode != before.Mode || after.Uid != before.Uid || after.Mtim.Sec == 946684800 {
				t.Errorf("/dev/null of the host has mode %o and owner %d, had %o and %d", after.Mode, after.Uid, before.Mode, before.Uid)
			}
		})
	}
}

func nullDevice(t *testing.T) syscall.Stat_t {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat("/dev/null", &st); err != nil {
		t.Fatal(err)
	}
	return st
}

// TestSystemPaths: the paths that are hidden and read-only by default are not
// with systempaths=unconfined, and with nothing else.
func TestSystemPaths(t *testing.T) {
	d := harness.Start(t, harness.Options{})
	d.Busybox()
	const look = "cat /proc/kcore >/dev/null 2>&1; wc -l </proc/interrupts; grep -c ' /proc/sys proc ro' /proc/mounts"
	confined := d.Docker("run", "--rm", "busybox", "sh", "-c", look)
	if confined.Stdout != "0\n1\n" {
		t.Errorf("by default = %q %q", confined.Stdout, confined.Stderr)
	}
	free := d.Docker("run", "--rm", "--security-opt", "systempaths=unconfined", "busybox", "sh", "-c", look)
	if free.Stdout == confined.Stdout || free.Stdout[:2] == "0\n" || free.Stdout[len(free.Stdout)-2:] != "0\n" {
		t.Errorf("unconfined = %q %q", free.Stdout, free.Stderr)
	}
	if r := d.Docker("run", "--rm", "--security-opt", "systempaths=some", "busybox", "true"); r.Code != 125 {
		t.Errorf("an unknown value = %d %q", r.Code, r.Stderr)
	}
}
