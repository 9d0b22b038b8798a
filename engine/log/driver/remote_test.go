package driver

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	ctrlog "lighter/engine/log"
	"lighter/engine/log/delivery"
)

var when = time.Date(2026, 1, 2, 3, 4, 5, 678900000, time.UTC)

var twoLines = []ctrlog.Entry{
	{Time: when, Text: []byte("hello")},
	{Time: when.Add(time.Second), Stderr: true, Text: []byte("oops")},
}

func open(t *testing.T, name string, opts map[string]string) delivery.Sink {
	t.Helper()
	if err := Check(name, opts); err != nil {
		t.Fatal(err)
	}
	sink, err := Open(context.Background(), name, testInfo(opts))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sink.Close() })
	return sink
}

func send(t *testing.T, sink delivery.Sink, entries []ctrlog.Entry) {
	t.Helper()
	if n, err := sink.Send(context.Background(), entries); err != nil || n != len(entries) {
		t.Fatalf("sent %d of %d: %v", n, len(entries), err)
	}
}

// listen returns what comes on connections, or packets, of a network.
func listen(t *testing.T, network, address string) (addr string, got <-chan []byte) {
	t.Helper()
	ch := make(chan []byte, 100)
	if strings.HasPrefix(network, "udp") || network == "unixgram" {
		pc, err := net.ListenPacket(network, address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { pc.Close() })
		go func() {
			buf := make([]byte, 64<<10)
			for {
				n, _, err := pc.ReadFrom(buf)
				if err != nil {
					return
				}
				ch <- bytes.Clone(buf[:n])
			}
		}()
		return pc.LocalAddr().String(), ch
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	return l.Addr().String(), serve(t, l)
}

func serve(t *testing.T, l net.Listener) <-chan []byte {
	t.Cleanup(func() { l.Close() })
	ch := make(chan []byte, 100)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				buf := make([]byte, 64<<10)
				for {
					n, err := conn.Read(buf)
					if err != nil {
						return
					}
					ch <- bytes.Clone(buf[:n])
				}
			}()
		}
	}()
	return ch
}

// take returns what came up to and with the text end.
func take(t *testing.T, got <-chan []byte, end string) string {
	t.Helper()
	var all []byte
	limit := time.After(10 * time.Second)
	for {
		select {
		case b := <-got:
			if all = append(all, b...); bytes.HasSuffix(all, []byte(end)) {
				return string(all)
			}
		case <-limit:
			t.Fatalf("got %q, want it to end in %q", all, end)
		}
	}
}

func TestSyslog(t *testing.T) {
	local := when.Local()
	pid := os.Getpid()
	for format, want := range map[string]string{
		"":             fmt.Sprintf("<30>%s tag[%d]: hello\n<27>%s tag[%d]: oops\n", local.Format(time.Stamp), pid, local.Add(time.Second).Format(time.Stamp), pid),
		"rfc3164":      fmt.Sprintf("<30>%s host tag[%d]: hello\n<27>%s host tag[%d]: oops\n", local.Format(time.Stamp), pid, local.Add(time.Second).Format(time.Stamp), pid),
		"rfc5424":      fmt.Sprintf("<30>1 %s host tag %d tag - hello\n<27>1 %s host tag %d tag - oops\n", local.Format(time.RFC3339), pid, local.Add(time.Second).Format(time.RFC3339), pid),
		"rfc5424micro": fmt.Sprintf("<30>1 %s host tag %d tag - hello\n<27>1 %s host tag %d tag - oops\n", local.Format("2006-01-02T15:04:05.000000Z07:00"), pid, local.Add(time.Second).Format("2006-01-02T15:04:05.000000Z07:00"), pid),
	} {
		for _, network := range []string{"tcp", "udp", "unix", "unixgram"} {
			address := "127.0.0.1:0"
			if strings.HasPrefix(network, "unix") {
				address = filepath.Join(t.TempDir(), "s")
			}
			address, got := listen(t, network, address)
			sink := open(t, "syslog", map[string]string{"syslog-address": network + "://" + address, "syslog-format": format, "tag": "tag"})
			send(t, sink, twoLines)
			if text := take(t, got, "oops\n"); text != want {
				t.Errorf("%s over %s: got %q, want %q", format, network, text, want)
			}
		}
	}
}

func TestSyslogTLS(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "log"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
	if err != nil {
		t.Fatal(err)
	}
	got := serve(t, l)
	opts := map[string]string{
		"syslog-address": "tcp+tls://" + l.Addr().String(), "syslog-format": "rfc5424", "tag": "tag", "syslog-facility": "local7",
		"syslog-tls-ca-cert": ca,
	}
	send(t, open(t, "syslog", opts), twoLines[:1])
	msg := fmt.Sprintf("<190>1 %s host tag %d tag - hello\n", when.Local().Format(time.RFC3339), os.Getpid())
	if text, want := take(t, got, "hello\n"), fmt.Sprintf("%d %s", len(msg), msg); text != want {
		t.Errorf("got %q, want %q", text, want)
	}
	delete(opts, "syslog-tls-ca-cert")
	if _, err := Open(context.Background(), "syslog", testInfo(opts)); err == nil {
		t.Error("a certificate of an unknown authority is accepted")
	}
}

// A connection that the receiver has closed is noticed before lines go into it.
func TestClosedConnectionIsNoticed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	sink := open(t, "syslog", map[string]string{"syslog-address": "tcp://" + l.Addr().String()})
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	s := sink.(*syslog)
	deadline := time.Now().Add(10 * time.Second)
	for !s.hungUp() && time.Now().Before(deadline) {
	}
	if n, err := sink.Send(context.Background(), twoLines); n != 0 || err == nil {
		t.Errorf("sent %d, %v into a closed connection", n, err)
	}
}

// unpack decodes the MessagePack that the driver may send.
func unpack(r *bufio.Reader) (any, error) {
	head, err := r.ReadByte()
	if err != nil {
		return nil, err
	}
	text := func(n int) (any, error) {
		b := make([]byte, n)
		_, err := io.ReadFull(r, b)
		return string(b), err
	}
	number := func(n int) int {
		var b [8]byte
		io.ReadFull(r, b[8-n:])
		return int(binary.BigEndian.Uint64(b[:]))
	}
	list := func(n int) (out []any, err error) {
		for range n {
			v, err := unpack(r)
			if err != nil {
				return nil, err
			}
			out = append(out, v)
		}
		return out, nil
	}
	switch {
	case head&0xf0 == 0x80:
		pairs, err := list(2 * int(head&15))
		m := map[any]any{}
		for i := 0; i+1 < len(pairs); i += 2 {
			m[pairs[i]] = pairs[i+1]
		}
		return m, err
	case head&0xf0 == 0x90:
		return list(int(head & 15))
	case head&0xe0 == 0xa0:
		return text(int(head & 31))
	case head == 0xd9:
		return text(number(1))
	case head == 0xda:
		return text(number(2))
	case head == 0xd3:
		return number(8), nil
	case head == 0xd7:
		typ := number(1)
		return []any{typ, number(4), number(4)}, nil
	}
	return nil, fmt.Errorf("unexpected byte %#x", head)
}

func TestFluentd(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	got := make(chan []any, 10)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		r := bufio.NewReader(conn)
		for {
			v, err := unpack(r)
			if err != nil {
				return
			}
			msg := v.([]any)
			if chunk, ok := msg[3].(map[any]any)["chunk"].(string); ok {
				conn.Write(packMap(nil, map[string]string{"ack": chunk}))
			}
			got <- msg
		}
	}()
	sink := open(t, "fluentd", map[string]string{
		"fluentd-address": l.Addr().String(), "fluentd-request-ack": "true", "fluentd-sub-second-precision": "true", "tag": "docker.{{.Name}}", "labels": "team",
	})
	long := ctrlog.Entry{Time: when, Text: bytes.Repeat([]byte("x"), 16<<10), Partial: ctrlog.Partial{ID: "p", Ordinal: 1}}
	send(t, sink, append(slices.Clone(twoLines), long))
	for i, want := range []map[any]any{
		{"container_id": testInfo(nil).ID, "container_name": "/web", "source": "stdout", "log": "hello", "team": "a"},
		{"container_id": testInfo(nil).ID, "container_name": "/web", "source": "stderr", "log": "oops", "team": "a"},
		{"container_id": testInfo(nil).ID, "container_name": "/web", "source": "stdout", "log": string(long.Text), "team": "a",
			"partial_message": "true", "partial_id": "p", "partial_ordinal": "1", "partial_last": "false"},
	} {
		msg := <-got
		if msg[0] != "docker.web" || fmt.Sprint(msg[2]) != fmt.Sprint(want) {
			t.Errorf("message %d is %v of %v, want %v", i, msg[2], msg[0], want)
		}
		if stamp := msg[1].([]any); i == 0 && (stamp[0] != 0 || stamp[1] != int(when.Unix()) || stamp[2] != 678900000) {
			t.Errorf("time is %v", stamp)
		}
	}
}

func TestGELF(t *testing.T) {
	check := func(raw []byte, text string, level float64) {
		t.Helper()
		var m map[string]any
		if err := json.Unmarshal(raw, &m); err != nil {
			t.Fatalf("%q: %v", raw, err)
		}
		if m["short_message"] != text || m["version"] != "1.1" || m["host"] != "host" || m["level"] != level || m["_tag"] != "0123456789ab" ||
			m["_container_name"] != "web" || m["_STAGE"] != "prod" || m["timestamp"] == nil {
			t.Errorf("message is %v", m)
		}
	}
	addr, got := listen(t, "tcp", "127.0.0.1:0")
	send(t, open(t, "gelf", map[string]string{"gelf-address": "tcp://" + addr, "env": "STAGE"}), twoLines)
	parts := bytes.Split([]byte(take(t, got, "\x00")), []byte{0})
	check(parts[0], "hello", 6)
	check(parts[1], "oops", 3)

	addr, got = listen(t, "udp", "127.0.0.1:0")
	send(t, open(t, "gelf", map[string]string{"gelf-address": "udp://" + addr, "env": "STAGE"}), twoLines[:1])
	z, err := gzip.NewReader(bytes.NewReader(<-got))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	check(raw, "hello", 6)

	long := strings.Repeat("0123456789", 500)
	sink := open(t, "gelf", map[string]string{"gelf-address": "udp://" + addr, "env": "STAGE", "gelf-compression-type": "none"})
	send(t, sink, []ctrlog.Entry{{Time: when, Text: []byte(long)}})
	var whole []byte
	for n, count := 0, 1; n < count; n++ {
		chunk := <-got
		if chunk[0] != 0x1e || chunk[1] != 0x0f || int(chunk[10]) != n || len(chunk) > gelfChunk {
			t.Fatalf("chunk %d starts with %x", n, chunk[:12])
		}
		count = int(chunk[11])
		whole = append(whole, chunk[12:]...)
	}
	check(whole, long, 6)
}

func TestSplunk(t *testing.T) {
	var bodies []string
	var verified bool
	fail := false
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path != "/services/collector/event/1.0":
			t.Errorf("path %s", r.URL.Path)
		case r.Method == http.MethodOptions:
			verified = true
			return
		case fail:
			http.Error(w, "busy", http.StatusServiceUnavailable)
			return
		}
		if r.Header.Get("Authorization") != "Splunk secret" || len(r.Header.Get("X-Splunk-Request-Channel")) != 36 {
			t.Errorf("headers %v", r.Header)
		}
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			t.Error(err)
			return
		}
		b, _ := io.ReadAll(z)
		bodies = append(bodies, string(b))
	}))
	defer srv.Close()
	opts := map[string]string{
		"splunk-url": srv.URL, "splunk-token": "secret", "splunk-gzip": "true", "splunk-index-acknowledgment": "true", "splunk-index": "main",
		"splunk-format": "json", "labels": "team",
	}
	sink := open(t, "splunk", opts)
	send(t, sink, append(slices.Clone(twoLines), ctrlog.Entry{Time: when, Text: []byte(`{"a":1}`)}))
	want := `{"event":{"line":"hello","source":"stdout","tag":"0123456789ab","attrs":{"team":"a"}},"time":"1767323045.678900","host":"host","index":"main"}
{"event":{"line":"oops","source":"stderr","tag":"0123456789ab","attrs":{"team":"a"}},"time":"1767323046.678900","host":"host","index":"main"}
{"event":{"line":{"a":1},"source":"stdout","tag":"0123456789ab","attrs":{"team":"a"}},"time":"1767323045.678900","host":"host","index":"main"}
`
	if !verified || len(bodies) != 1 || bodies[0] != want {
		t.Errorf("verified %v, got %q, want %q", verified, bodies, want)
	}
	fail = true
	if n, err := sink.Send(context.Background(), twoLines); n != 0 || err == nil || err.Error() != "splunk: failed to send event - 503 Service Unavailable - busy\n" {
		t.Errorf("sent %d, %v", n, err)
	}
	fail = false
	opts["splunk-format"], opts["tag"] = "raw", "t"
	send(t, open(t, "splunk", opts), twoLines[:1])
	if want := `{"event":"t team=a hello","time":"1767323045.678900","host":"host","index":"main"}` + "\n"; bodies[1] != want {
		t.Errorf("raw: got %q, want %q", bodies[1], want)
	}
}

// The example of AWS's own documentation.
func TestAWSSignature(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
	t.Setenv("AWS_SESSION_TOKEN", "")
	req, err := http.NewRequest(http.MethodGet, "https://example.amazonaws.com/", nil)
	if err != nil {
		t.Fatal(err)
	}
	s := awsSigner{region: "us-east-1", service: "service"}
	if err := s.sign(context.Background(), req, nil, time.Date(2015, 8, 30, 12, 36, 0, 0, time.UTC)); err != nil {
		t.Fatal(err)
	}
	const want = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders=host;x-amz-date, " +
		"Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"
	if got := req.Header.Get("Authorization"); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestAWSLogs(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "id")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	var calls []string
	group := false
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if !strings.HasPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 Credential=id/") || r.Header.Get("Content-Type") != "application/x-amz-json-1.1" {
			t.Errorf("headers %v", r.Header)
		}
		action := strings.TrimPrefix(r.Header.Get("X-Amz-Target"), "Logs_20140328.")
		calls = append(calls, action+" "+string(body))
		switch {
		case action == "CreateLogGroup":
			group = true
		case action == "CreateLogStream" && !group:
			w.WriteHeader(http.StatusBadRequest)
			io.WriteString(w, `{"__type":"com.amazonaws#ResourceNotFoundException","message":"no group"}`)
			return
		}
		io.WriteString(w, "{}")
	}))
	defer srv.Close()
	opts := map[string]string{"awslogs-endpoint": srv.URL, "awslogs-region": "eu-west-1", "awslogs-group": "g", "tag": "{{.Name}}"}
	if _, err := Open(context.Background(), "awslogs", testInfo(opts)); err == nil ||
		err.Error() != "failed to create Cloudwatch log stream: CreateLogStream: ResourceNotFoundException: no group" {
		t.Errorf("without the group: %v", err)
	}
	calls = nil
	opts["awslogs-create-group"] = "true"
	opts["awslogs-datetime-format"] = `\[%H:%M\]`
	sink := open(t, "awslogs", opts)
	send(t, sink, []ctrlog.Entry{
		{Time: when, Text: []byte("[10:00] first")}, {Time: when, Text: []byte("  more")}, {Time: when.Add(time.Second), Text: []byte("[10:01] second")},
	})
	want := []string{
		`CreateLogStream {"logGroupName":"g","logStreamName":"web"}`, `CreateLogGroup {"logGroupName":"g"}`, `CreateLogStream {"logGroupName":"g","logStreamName":"web"}`,
		`PutLogEvents {"logEvents":[{"message":"[10:00] first\n  more\n","timestamp":1767323045678},{"message":"[10:01] second\n","timestamp":1767323046678}],"logGroupName":"g","logStreamName":"web"}`,
	}
	if !slices.Equal(calls, want) {
		t.Errorf("calls %q, want %q", calls, want)
	}
}

func TestGCPLogs(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	var writes []map[string]any
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			if r.FormValue("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer" || strings.Count(r.FormValue("assertion"), ".") != 2 {
				t.Errorf("token request %v", r.Form)
			}
			io.WriteString(w, `{"access_token":"tok","expires_in":3600}`)
			return
		}
		if r.URL.Path != "/v2/entries:write" || r.Header.Get("Authorization") != "Bearer tok" {
			t.Errorf("request %s %v", r.URL, r.Header)
		}
		var m map[string]any
		json.NewDecoder(r.Body).Decode(&m)
		writes = append(writes, m)
		io.WriteString(w, "{}")
	}))
	defer srv.Close()
	account, err := json.Marshal(map[string]string{
		"type": "service_account", "client_email": "me@x", "token_uri": srv.URL + "/token",
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "account.json")
	if err := os.WriteFile(file, account, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", file)
	t.Setenv("GCPLOGS_ENDPOINT", srv.URL)
	sink := open(t, "gcplogs", map[string]string{"gcp-project": "p", "gcp-log-cmd": "true", "gcp-meta-zone": "z", "gcp-meta-id": "7", "labels": "team"})
	send(t, sink, twoLines)
	if len(writes) != 2 || writes[0]["dryRun"] != true {
		t.Fatalf("writes %v", writes)
	}
	got := writes[1]
	entry := got["entries"].([]any)[0].(map[string]any)
	payload := entry["jsonPayload"].(map[string]any)
	container := payload["container"].(map[string]any)
	if got["logName"] != "projects/p/logs/gcplogs-docker-driver" || fmt.Sprint(got["resource"]) != "map[labels:map[instance_id:7 zone:z] type:gce_instance]" ||
		entry["timestamp"] != "2026-01-02T03:04:05.6789Z" || payload["message"] != "hello" || container["name"] != "/web" ||
		container["command"] != "httpd -f" || fmt.Sprint(container["metadata"]) != "map[team:a]" {
		t.Errorf("write %v", got)
	}
}

func TestJournald(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	sink, err := dialJournald(path, testInfo(map[string]string{"labels": "team", "tag": "t"}))
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	send(t, sink, []ctrlog.Entry{{Time: when, Stderr: true, Text: []byte("a\nb"), Partial: ctrlog.Partial{ID: "p", Ordinal: 2, Last: true}}})
	buf := make([]byte, 64<<10)
	n, err := conn.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"MESSAGE\n\x03\x00\x00\x00\x00\x00\x00\x00a\nb\n", "PRIORITY=3\n", "CONTAINER_NAME=web\n", "CONTAINER_TAG=t\n", "IMAGE_NAME=busybox:latest\n",
		"CONTAINER_ID=0123456789ab\n", "TEAM=a\n", "SYSLOG_TIMESTAMP=2026-01-02T03:04:05.6789Z\n", "CONTAINER_PARTIAL_LAST=true\n", "CONTAINER_LOG_ORDINAL=1\n",
	} {
		if !bytes.Contains(buf[:n], []byte(want)) {
			t.Errorf("%q is missing in %q", want, buf[:n])
		}
	}
	if got := journalField("_my-key.1"); got != "MY_KEY_1" {
		t.Errorf("field %q", got)
	}
	if _, err := dialJournald(path+"x", testInfo(nil)); err == nil || err.Error() != "journald is not enabled on this host" {
		t.Errorf("without a journal: %v", err)
	}
}
