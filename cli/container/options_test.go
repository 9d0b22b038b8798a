package container

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/spf13/cobra"
)

func TestPublish(t *testing.T) {
	for _, tc := range []struct {
		spec string
		want map[string]string // port -> "ip hostport"
		err  string
	}{
		{spec: "80", want: map[string]string{"80/tcp": "invalid IP "}},
		{spec: "8080:80", want: map[string]string{"80/tcp": "invalid IP 8080"}},
		{spec: "127.0.0.1:8080:80/udp", want: map[string]string{"80/udp": "127.0.0.1 8080"}},
		{spec: "[::1]:8080:80", want: map[string]string{"80/tcp": "::1 8080"}},
		{spec: "127.0.0.1::80", want: map[string]string{"80/tcp": "127.0.0.1 "}},
		{spec: "8000-8001:80-81", want: map[string]string{"80/tcp": "invalid IP 8000", "81/tcp": "invalid IP 8001"}},
		{spec: "8000-8009:80", want: map[string]string{"80/tcp": "invalid IP 8000-8009"}},
		{spec: "8000-8002:80-81", err: "invalid ranges specified"},
		{spec: "80/icmp", err: "invalid proto: icmp"},
		{spec: "x:80", err: "invalid hostPort: x"},
		{spec: "8080:x", err: "invalid containerPort: x"},
		{spec: "8080:", err: "no port specified"},
		{spec: "300.0.0.1:1:2", err: "invalid IP address"},
		{spec: "8080:99999", err: "invalid containerPort"},
	} {
		exposed, bindings := network.PortSet{}, network.PortMap{}
		err := publish(tc.spec, exposed, bindings)
		if tc.err != "" {
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("publish(%q) error = %v, want %q", tc.spec, err, tc.err)
			}
			continue
		}
		if err != nil || len(bindings) != len(tc.want) || len(exposed) != len(tc.want) {
			t.Errorf("publish(%q) = %v, %v, want %v", tc.spec, bindings, err, tc.want)
			continue
		}
		for p, list := range bindings {
			if got := list[0].HostIP.String() + " " + list[0].HostPort; len(list) != 1 || got != tc.want[p.String()] {
				t.Errorf("publish(%q)[%s] = %q, want %q", tc.spec, p, got, tc.want[p.String()])
			}
		}
	}
}

func TestParseMount(t *testing.T) {
	m, err := parseMount("type=bind,src=/a,dst=/b,ro,bind-propagation=rslave")
	if err != nil || m.Type != mount.TypeBind || m.Source != "/a" || m.Target != "/b" || !m.ReadOnly || m.BindOptions.Propagation != mount.PropagationRSlave {
		t.Errorf("parseMount = %+v, %v", m, err)
	}
	m, err = parseMount("type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1770")
	if err != nil || m.TmpfsOptions.SizeBytes != 1<<20 || m.TmpfsOptions.Mode != 0o1770 {
		t.Errorf("parseMount = %+v, %v", m, err)
	}
	for spec, want := range map[string]string{
		"type=bind,src=/a":                     "target is required",
		"type=bind,dst=/b,volume-nocopy":       "cannot mix 'volume-*'",
		"dst=/b,frob=1":                        "unknown option 'frob'",
		"dst=/b,ro=maybe":                      "invalid value for 'ro'",
		"type=bind,dst=/b,bind-recursive=oops": "bind-recursive",
	} {
		if _, err := parseMount(spec); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("parseMount(%q) error = %v, want %q", spec, err, want)
		}
	}
}

func TestBuild(t *testing.T) {
	var o createOptions
	cmd := &cobra.Command{}
	o.register(cmd.Flags())
	t.Setenv("FROM_HERE", "yes")
	err := cmd.Flags().Parse(strings.Fields("-it -e A=1 -e FROM_HERE -e NOT_SET_ANYWHERE -m 64m --cpus 1.5 --pids-limit 9 --entrypoint= --restart on-failure:3 --device /dev/fuse:/dev/f:r --network name=n,alias=x,ip=10.0.0.9 -v /h:/c:ro -v anon"))
	if err != nil {
		t.Fatal(err)
	}
	networking, err := o.build(cmd, "busybox", []string{"sh"})
	if err != nil {
		t.Fatal(err)
	}
	c, h := o.config, o.host
	if !slices.Equal(c.Env, []string{"A=1", "FROM_HERE=yes"}) {
		t.Errorf("env = %q", c.Env)
	}
	if h.Memory != 64<<20 || h.NanoCPUs != 1.5e9 || *h.PidsLimit != 9 {
		t.Errorf("resources = %+v", h.Resources)
	}
	if !c.Tty || !c.OpenStdin || !c.StdinOnce || !c.AttachStdin || !slices.Equal(c.Entrypoint, []string{""}) {
		t.Errorf("config = %+v", c)
	}
	if want := (container.RestartPolicy{Name: "on-failure", MaximumRetryCount: 3}); h.RestartPolicy != want {
		t.Errorf("restart = %+v, want %+v", h.RestartPolicy, want)
	}
	if want := (container.DeviceMapping{PathOnHost: "/dev/fuse", PathInContainer: "/dev/f", CgroupPermissions: "r"}); h.Devices[0] != want {
		t.Errorf("device = %+v, want %+v", h.Devices[0], want)
	}
	e := networking.EndpointsConfig["n"]
	if h.NetworkMode != "n" || e == nil || !slices.Equal(e.Aliases, []string{"x"}) || e.IPAMConfig.IPv4Address != netip.MustParseAddr("10.0.0.9") {
		t.Errorf("network = %s, %+v", h.NetworkMode, e)
	}
	if _, anonymous := c.Volumes["anon"]; !anonymous || !slices.Equal(h.Binds, []string{"/h:/c:ro"}) {
		t.Errorf("volumes = %v, %v", c.Volumes, h.Binds)
	}
}

func TestBuildRefuses(t *testing.T) {
	for args, want := range map[string]string{
		"--rm --restart always":         "cannot specify both --restart and --rm",
		"-a elsewhere":                  "valid streams are",
		"--memory lots":                 "--memory",
		"--restart sometimes":           "unknown policy",
		"--dns example.com":             "is not an ip address",
		"--no-healthcheck --health-cmd": "conflicts with --health-*",
		"--env-file /no/such/file":      "no such file",
		"--security-opt seccomp=/none":  "opening seccomp profile",
	} {
		var o createOptions
		cmd := &cobra.Command{}
		o.register(cmd.Flags())
		fields := strings.Fields(args)
		if fields[len(fields)-1] == "--health-cmd" {
			fields = append(fields, "true")
		}
		if err := cmd.Flags().Parse(fields); err != nil {
			t.Fatalf("%s: %v", args, err)
		}
		if _, err := o.build(cmd, "busybox", nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error = %v, want %q", args, err, want)
		}
	}
}
