package engine

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"lighter/internal/testenv"
	"lighter/internal/version"
	"lighter/test/harness"
)

// badRequest is a request that must fail, and how.
type badRequest struct {
	method, target, body string
	status               int
	message              string // a part
}

// refuse sends the request and wants its error, and that nothing has changed.
func (b badRequest) refuse(t *testing.T, d *harness.Daemon) {
	t.Helper()
	d.Unchanged(t, func() {
		t.Helper()
		b.check(t, d.Request(t, b.method, b.target, b.body))
	})
}

func (b badRequest) check(t *testing.T, got harness.Answer) {
	t.Helper()
	if got.Status != b.status {
		t.Errorf("%s %s %s\n = %d %q, want %d", b.method, b.target, tail(b.body), got.Status, tail(got.Body), b.status)
		return
	}
	if b.status == http.StatusNotModified {
		if got.Body != "" {
			t.Errorf("%s %s has the body %q, want none", b.method, b.target, got.Body)
		}
		return
	}
	message, ok := got.Message()
	if !ok || !strings.Contains(message, b.message) || message == "" {
		t.Errorf("%s %s %s\n = %d %q, want {\"message\"} with %q in it", b.method, b.target, tail(b.body), got.Status, tail(got.Body), b.message)
	}
}

// What is no request to this API at all.
func TestBadRequestLine(t *testing.T) {
	testenv.Need(t, testenv.Root)
	d := harness.Start(t, harness.Options{})
	d.Settle(t)
	for _, tc := range []badRequest{
		{"GET", "/", "", 404, "page not found"},
		{"GET", "/no/such/path", "", 404, "page not found"},
		{"GET", "/v" + version.APIMax + "/no/such/path", "", 404, "page not found"},
		{"GET", "/v" + version.APIMax, "", 404, "page not found"},
		{"GET", "/containers", "", 404, "page not found"},
		{"GET", "/containers//json", "", 404, "page not found"},
		{"GET", "/containers/create", "", 404, "page not found"},
		{"PATCH", "/containers/json", "", 404, "page not found"},
		{"DELETE", "/info", "", 404, "page not found"},
		{"GET", "/vx.y/info", "", 404, "page not found"},
		{"GET", "/v1.10/info", "", 400, "client version 1.10 is too old. Minimum supported API version is " + version.APIMin + ", please upgrade your client to a newer version"},
		{"GET", "/v9.99/info", "", 400, "client version 9.99 is too new. Maximum supported API version is " + version.APIMax},
		{"GET", "/v1/info", "", 400, "invalid API version"},
		{"GET", "/v99999999999999999999.1/info", "", 400, "invalid API version"},
	} {
		tc.refuse(t, d)
	}
	// A header of any size ends one connection, not the daemon.
	huge := http.Header{"X-Large": {strings.Repeat("x", 2<<20)}}
	if got := d.RequestAs(t, "GET", "/_ping", huge, nil); got.Status != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("a header of 2 MiB = %d, want %d", got.Status, http.StatusRequestHeaderFieldsTooLarge)
	}
	if got := d.Request(t, "GET", "/_ping", ""); got.Body != "OK" {
		t.Errorf("ping after it = %+v", got)
	}
}

// Every route that reads JSON refuses what is none, before it does anything.
func TestBadBody(t *testing.T) {
	testenv.Need(t, testenv.Root)
	d := harness.Start(t, harness.Options{})
	d.Busybox()
	d.OK("create", "--name", "here", "busybox", "true")
	d.OK("network", "create", "net")
	d.Settle(t)
	huge := `{"Image":"` + strings.Repeat("x", 9<<20) + `"}`
	for _, route := range []struct {
		target   string
		optional bool // an empty body is as good as {}
	}{
		{"/containers/create?name=new", false},
		{"/containers/here/update", false},
		{"/containers/here/exec", false},
		{"/commit?container=here&repo=new", true},
		{"/exec/none/start", true},
		{"/networks/create", false},
		{"/networks/net/connect", false},
		{"/networks/net/disconnect", false},
		{"/volumes/create", true},
	} {
		t.Run(strings.Trim(route.target, "/"), func(t *testing.T) {
			for _, tc := range []struct{ name, body, message string }{
				{"not JSON", "nonsense", "invalid JSON: "},
				{"cut off", `{"Image":"busy`, "invalid JSON: "},
				{"of another kind", `[1, 2]`, "invalid JSON: "},
				{"two values", `{} {}`, "unexpected content after JSON"},
				{"huge", huge, "request body is larger than 8388608 bytes"},
				{"deep", strings.Repeat(`{"a":`, 20000), "invalid JSON: "},
			} {
				t.Run(tc.name, func(t *testing.T) {
					badRequest{"POST", route.target, tc.body, 400, tc.message}.refuse(t, d)
				})
			}
			if !route.optional {
				badRequest{"POST", route.target, "", 400, "invalid JSON: EOF"}.refuse(t, d)
			}
			for contentType, message := range map[string]string{
				"text/plain":                        "unsupported Content-Type header (text/plain): must be 'application/json'",
				"application/x-www-form-urlencoded": "unsupported Content-Type header (application/x-www-form-urlencoded): must be 'application/json'",
				"application/json/x":                "malformed Content-Type header (application/json/x)",
				"":                                  "Content-Type header ()",
			} {
				d.Unchanged(t, func() {
					header := http.Header{}
					if contentType != "" {
						header.Set("Content-Type", contentType)
					}
					got := d.RequestAs(t, "POST", route.target, header, strings.NewReader("{}"))
					badRequest{"POST", route.target + " as " + contentType, "{}", 400, message}.check(t, got)
				})
			}
		})
	}
	d.OK("rm", "here")
	d.OK("network", "rm", "net")
}

// Fields of the right JSON that mean nothing.
func TestBadFields(t *testing.T) {
	testenv.Need(t, testenv.Root)
	d := harness.Start(t, harness.Options{})
	d.Busybox()
	create := func(name, config string) badRequest {
		return badRequest{"POST", "/containers/create?name=" + name, `{"Image":"busybox","Cmd":["true"]` + config + `}`, 400, ""}
	}
	with := func(b badRequest, message string) badRequest { b.message = message; return b }
	d.Settle(t)
	host := func(fields string) badRequest { return create("new", `,"HostConfig":{`+fields+`}`) }
	for _, tc := range []badRequest{
		// the image and the command
		{"POST", "/containers/create", `null`, 400, "config cannot be empty in order to create a container"},
		{"POST", "/containers/create", `{}`, 400, ""},
		{"POST", "/containers/create", `{"Image":"no-such-image"}`, 404, "No such image: no-such-image:latest"},
		{"POST", "/containers/create", `{"Image":"UPPER"}`, 400, "invalid reference format"},
		{"POST", "/containers/create", `{"Image":"busybox"}`, 400, "no command specified"},
		{"POST", "/containers/create?platform=a/b/c/d/e", `{"Image":"busybox","Cmd":["true"]}`, 400, ""},
		// names
		with(create("a%2Fb", ""), "Invalid container name (a/b), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"),
		with(create("-x", ""), "Invalid container name (-x)"),
		with(create("a%0Ab", ""), "Invalid container name"),
		with(create("..", ""), "Invalid container name"),
		// ports
		with(host(`"PortBindings":{"x/tcp":[{}]}`), "invalid"),
		with(host(`"PortBindings":{"70000/tcp":[{}]}`), "invalid"),
		with(host(`"PortBindings":{"80/tcp":[{"HostPort":"70000"}]}`), "invalid"),
		with(host(`"PortBindings":{"80/tcp":[{"HostPort":"-1"}]}`), "invalid"),
		with(host(`"PortBindings":{"80/icmp":[{}]}`), "invalid proto: icmp"),
		with(host(`"PortBindings":{"80/tcp":[{"HostIp":"1.2.3"}]}`), ""),
		with(create("new", `,"ExposedPorts":{"x":{}}`), "invalid"),
		// volumes
		with(host(`"Binds":["/tmp:relative"]`), "invalid volume specification: '/tmp:relative'"),
		with(host(`"Binds":["/tmp:/"]`), "destination can't be '/'"),
		with(host(`"Binds":["a/b:/mnt"]`), "invalid"),
		with(host(`"Binds":["/tmp:/mnt:sideways"]`), `invalid mode: sideways`),
		with(host(`"Binds":[":"]`), "invalid volume specification"),
		with(host(`"Binds":["/tmp:/mnt","/var:/mnt"]`), "Duplicate mount point: /mnt"),
		with(host(`"Mounts":[{"Type":"bind","Source":"/no/such/source","Target":"/mnt"}]`), `invalid mount config for type "bind": bind source path does not exist: /no/such/source`),
		with(host(`"Mounts":[{"Type":"bind","Source":"relative","Target":"/mnt"}]`), `invalid mount path: 'relative' mount path must be absolute`),
		with(host(`"Mounts":[{"Type":"bind","Target":"/mnt"}]`), `invalid mount config for type "bind": field Source must not be empty`),
		with(host(`"Mounts":[{"Type":"volume","Source":"v"}]`), `invalid mount config for type "volume": field Target must not be empty`),
		with(host(`"Mounts":[{"Type":"tmpfs","Source":"x","Target":"/mnt"}]`), `invalid mount config for type "tmpfs": field Source must not be specified`),
		with(host(`"Mounts":[{"Type":"other","Target":"/mnt"}]`), `invalid mount config for type "other": mount type unknown`),
		with(host(`"Tmpfs":{"relative":""}`), "invalid"),
		with(host(`"VolumesFrom":["nobody"]`), "No such container: nobody"),
		with(create("new", `,"Volumes":{"relative":{}}`), "invalid"),
		// resources and modes
		with(host(`"Memory":1048576`), "Minimum memory limit allowed is 6MB"),
		with(host(`"NanoCpus":-1`), ""),
		with(host(`"NanoCpus":100000000000000`), "range of CPUs is from 0.01 to"),
		with(host(`"CpusetCpus":"x"`), "Invalid value x for cpuset cpus"),
		with(host(`"CpusetCpus":"4000"`), "Requested CPUs are not available"),
		with(host(`"RestartPolicy":{"Name":"sometimes"}`), "invalid restart policy"),
		with(host(`"AutoRemove":true,"RestartPolicy":{"Name":"always"}`), "can't create 'AutoRemove' container with restart policy"),
		with(host(`"CapAdd":["NOTHING"]`), `unknown capability: "CAP_NOTHING"`),
		with(host(`"SecurityOpt":["seccomp={"]`), "Decoding seccomp profile failed: unexpected end of JSON input"),
		with(host(`"SecurityOpt":["nonsense"]`), `invalid --security-opt`),
		with(host(`"IpcMode":"x"`), "invalid IPC mode: x"),
		with(host(`"PidMode":"x"`), "invalid PID mode: x"),
		with(host(`"ShmSize":-1`), "SHM size can not be less than 0"),
		with(host(`"OomScoreAdj":2000`), "range for oom score adj is [-1000, 1000]"),
		with(host(`"Ulimits":[{"Name":"nothing","Soft":1,"Hard":1}]`), "invalid"),
		with(host(`"Runtime":"nothing"`), `unknown or invalid runtime name: nothing`),
		with(host(`"LogConfig":{"Type":"nothing"}`), "nothing"),
		with(host(`"LogConfig":{"Type":"json-file","Config":{"max-size":"x"}}`), ""),
		with(host(`"ExtraHosts":["x"]`), `bad format for add-host: "x"`),

		with(create("new", `,"WorkingDir":"relative"`), "the working directory 'relative' is invalid, it needs to be an absolute path"),
		with(create("new", `,"StopSignal":"NOTHING"`), "invalid signal: NOTHING"),
		with(create("new", `,"Env":["=x"]`), "invalid environment variable: =x"),
		with(create("new", `,"Healthcheck":{"Interval":1}`), "Interval in Healthcheck cannot be less than 1ms"),
		with(create("new", `,"Image":5`), "invalid JSON: "),
		// other objects
		{"POST", "/volumes/create", `{"Name":"a/b"}`, 400, `"a/b" includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed`},
		{"POST", "/volumes/create", `{"Name":".."}`, 400, `invalid characters`},
		{"POST", "/volumes/create", `{"Name":"v","Driver":"nothing"}`, 404, `nothing`},
		{"POST", "/volumes/create", `{"Name":"vol","DriverOpts":{"nothing":"x"}}`, 400, `invalid option: "nothing"`},
		{"POST", "/networks/create", `{"Name":""}`, 400, ""},
		{"POST", "/networks/create", `{"Name":"a b","Driver":"nothing"}`, 404, `nothing`},
		{"POST", "/networks/create", `{"Name":"bridge"}`, 403, `operation is not permitted on predefined bridge network`},
		{"POST", "/networks/create", `{"Name":"n","IPAM":{"Config":[{"Subnet":"x"}]}}`, 400, ""},
		{"POST", "/networks/create", `{"Name":"n","IPAM":{"Config":[{"Subnet":"10.7.0.0/24","Gateway":"10.8.0.1"}]}}`, 400, ""},
		{"POST", "/networks/create", `{"Name":"n","IPAM":{"Config":[{"Subnet":"10.7.0.1/24"}]}}`, 400, ""},
		{"POST", "/images/create", ``, 400, ""},
		{"POST", "/images/create?fromSrc=-&repo=UPPER", ``, 400, "must be lowercase"},
		{"POST", "/images/create?fromImage=UPPER", ``, 400, "invalid reference format"},
		{"POST", "/images/busybox/tag?repo=UPPER", ``, 400, "invalid reference format"},
		{"POST", "/images/busybox/tag?repo=", ``, 400, ""},
		{"POST", "/images/busybox/tag?repo=x&tag=a%20b", ``, 400, "invalid tag format"},
		{"GET", "/containers/json?filters={", ``, 400, "invalid filter"},
		{"GET", `/containers/json?filters={"nothing":["x"]}`, ``, 400, "invalid filter 'nothing'"},
		{"GET", `/containers/json?filters={"status":["nothing"]}`, ``, 400, "invalid filter 'status=nothing'"},
		{"GET", "/containers/json?limit=x", ``, 400, ""},
		{"GET", `/images/json?filters={"nothing":["x"]}`, ``, 400, "invalid filter 'nothing'"},
		{"GET", `/networks?filters={"nothing":["x"]}`, ``, 400, "invalid filter 'nothing'"},
		{"GET", `/volumes?filters={"nothing":["x"]}`, ``, 400, "invalid filter 'nothing'"},
		{"GET", `/events?filters={"nothing":["x"]}`, ``, 400, "invalid filter 'nothing'"},
		{"GET", `/events?since=x`, ``, 400, ""},
		{"POST", `/containers/prune?filters={"nothing":["x"]}`, ``, 400, "invalid filter 'nothing'"},
		{"POST", `/images/prune?filters={"nothing":["x"]}`, ``, 400, "invalid filter 'nothing'"},
		{"POST", `/networks/prune?filters={"nothing":["x"]}`, ``, 400, "invalid filter 'nothing'"},
		{"POST", `/volumes/prune?filters={"nothing":["x"]}`, ``, 400, "invalid filter 'nothing'"},
	} {
		t.Run(fmt.Sprint(tc.method, tc.target, strings.TrimPrefix(tc.body, `{"Image":"busybox","Cmd":["true"]`)), func(t *testing.T) {
			tc.target = strings.NewReplacer(`"`, "%22", "{", "%7B", "}", "%7D").Replace(tc.target)
			tc.refuse(t, d)
		})
	}
}

// Whatever acts on something says which one does not exist.
func TestUnknownObject(t *testing.T) {
	testenv.Need(t, testenv.Root)
	d := harness.Start(t, harness.Options{})
	d.Busybox()
	d.OK("create", "--name", "here", "busybox", "true")
	d.Settle(t)
	for _, tc := range []badRequest{
		{"GET", "/containers/ghost/json", "", 404, "No such container: ghost"},
		{"GET", "/containers/ghost/logs?stdout=1", "", 404, "No such container: ghost"},
		{"GET", "/containers/ghost/top", "", 404, "No such container: ghost"},
		{"GET", "/containers/ghost/stats", "", 404, "No such container: ghost"},
		{"GET", "/containers/ghost/changes", "", 404, "No such container: ghost"},
		{"GET", "/containers/ghost/export", "", 404, "No such container: ghost"},
		{"GET", "/containers/ghost/archive?path=/", "", 404, "No such container: ghost"},
		{"PUT", "/containers/ghost/archive?path=/", "", 404, "No such container: ghost"},
		{"POST", "/containers/ghost/start", "", 404, "No such container: ghost"},
		{"POST", "/containers/ghost/stop", "", 404, "No such container: ghost"},
		{"POST", "/containers/ghost/restart", "", 404, "No such container: ghost"},
		{"POST", "/containers/ghost/kill", "", 404, "No such container: ghost"},
		{"POST", "/containers/ghost/pause", "", 404, "No such container: ghost"},
		{"POST", "/containers/ghost/unpause", "", 404, "No such container: ghost"},
		{"POST", "/containers/ghost/rename?name=x", "", 404, "No such container: ghost"},
		{"POST", "/containers/ghost/update", "{}", 404, "No such container: ghost"},
		{"POST", "/containers/ghost/resize?h=1&w=1", "", 404, "No such container: ghost"},
		{"POST", "/containers/ghost/attach?stdout=1", "", 404, "No such container: ghost"},
		{"POST", "/containers/ghost/wait", "", 404, "No such container: ghost"},
		{"POST", "/containers/ghost/exec", `{"Cmd":["true"]}`, 404, "No such container: ghost"},
		{"DELETE", "/containers/ghost", "", 404, "No such container: ghost"},
		{"DELETE", "/containers/ghost?force=1", "", 404, "No such container: ghost"},
		{"POST", "/commit?container=ghost", "", 404, "No such container: ghost"},
		{"POST", "/exec/ghost/start", "{}", 404, "No such exec instance: ghost"},
		{"POST", "/exec/ghost/resize?h=1&w=1", "", 404, "No such exec instance: ghost"},
		{"GET", "/exec/ghost/json", "", 404, "No such exec instance: ghost"},
		{"GET", "/images/ghost/json", "", 404, "No such image: ghost:latest"},
		{"GET", "/images/ghost/history", "", 404, "No such image: ghost:latest"},
		{"GET", "/images/ghost/get", "", 404, "ghost"},
		{"POST", "/images/ghost/tag?repo=x", "", 404, "No such image: ghost:latest"},
		{"DELETE", "/images/ghost", "", 404, "No such image: ghost:latest"},
		{"GET", "/networks/ghost", "", 404, "network ghost not found"},
		{"DELETE", "/networks/ghost", "", 404, "network ghost not found"},
		{"POST", "/networks/ghost/connect", `{"Container":"here"}`, 404, "network ghost not found"},
		{"POST", "/networks/ghost/disconnect", `{"Container":"here"}`, 404, "network ghost not found"},
		{"POST", "/networks/bridge/connect", `{"Container":"ghost"}`, 404, "No such container: ghost"},
		{"POST", "/networks/bridge/disconnect", `{"Container":"ghost"}`, 404, "No such container: ghost"},
		{"GET", "/volumes/ghost", "", 404, "get ghost: no such volume"},
		{"DELETE", "/volumes/ghost", "", 404, "get ghost: no such volume"},
		{"GET", "/containers/here/archive?path=/no/such", "", 404, "Could not find the file /no/such in container here"},
		{"PUT", "/containers/here/archive?path=/no/such", "", 404, "Could not find the file /no/such in container here"},
		{"GET", "/containers/here/archive", "", 400, "cannot be empty"},
		{"GET", "/containers/here/logs", "", 400, "you must choose at least one stream"},
		{"GET", "/containers/here/logs?stdout=1&tail=x", "", 400, ""},
		{"GET", "/containers/here/logs?stdout=1&since=x", "", 400, ""},
		{"POST", "/containers/here/wait?condition=x", "", 400, `invalid condition: "x"`},
		{"POST", "/containers/here/resize?h=x&w=1", "", 400, ""},
		{"POST", "/containers/here/rename?name=", "", 400, "Neither old nor new names may be empty"},
		{"POST", "/containers/here/rename?name=a%2Fb", "", 400, "Invalid container name (a/b)"},
		{"POST", "/containers/here/rename?name=here", "", 400, "Renaming a container with the same name as its current name"},
		{"POST", "/containers/here/stop?t=x", "", 400, ""},
		{"POST", "/containers/here/kill?signal=NOTHING", "", 400, "nvalid signal: NOTHING"},
		{"POST", "/commit", "", 400, ""},
		{"POST", "/commit?container=here&repo=UPPER", "", 400, ""},
		{"POST", "/commit?container=here&changes=NOTHING%20x", "", 400, ""},
	} {
		t.Run(tc.method+tc.target, func(t *testing.T) { tc.refuse(t, d) })
	}
	d.OK("rm", "here")
}
