package dns

import (
	"log/slog"
	"net/netip"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

type fakeNames map[string][]netip.Addr

func (f fakeNames) Lookup(name string) ([]netip.Addr, bool) {
	addrs, ok := f[name]
	return addrs, ok
}

func (f fakeNames) Reverse(addr netip.Addr) string {
	for name, addrs := range f {
		for _, a := range addrs {
			if a == addr {
				return name + ".net"
			}
		}
	}
	return ""
}

func question(t testing.TB, name string, typ dnsmessage.Type, udpSize uint16) []byte {
	t.Helper()
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: 7, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: typ, Class: dnsmessage.ClassINET}}}
	if udpSize > 0 {
		m.Additionals = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName("."), Type: dnsmessage.TypeOPT, Class: dnsmessage.Class(udpSize)},
			Body:   &dnsmessage.OPTResource{}}}
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// offline is a server without sockets that has nobody to ask.
func offline(t testing.TB, names Names) *Server {
	return &Server{cfg: Config{Names: names, Upstreams: func() []Upstream { return nil }, Log: slog.New(slog.NewTextHandler(t.Output(), nil))},
		ctx: t.Context(), forwards: make(chan struct{}, 1)}
}

func (s *Server) answerOf(t testing.TB, msg []byte, network string) dnsmessage.Message {
	t.Helper()
	answers := make(chan []byte, 1)
	s.handle(msg, network, func(b []byte) { answers <- b })
	var m dnsmessage.Message
	if err := m.Unpack(<-answers); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestAnswersAreCutToWhatTheClientTakes(t *testing.T) {
	many := make([]netip.Addr, 300)
	for i := range many {
		many[i] = netip.AddrFrom4([4]byte{10, 0, byte(i / 256), byte(i)})
	}
	s := offline(t, fakeNames{"many": many})
	tests := []struct {
		network   string
		size      uint16
		truncated bool
		atMost    int
	}{
		{"udp", 0, true, 512},
		{"udp", 100, true, 512}, // smaller is not valid
		{"udp", 1232, true, 1232},
		{"udp", 8000, false, 8000},
		{"tcp", 0, false, 65535},
	}
	for _, tt := range tests {
		msg := question(t, "many.", dnsmessage.TypeA, tt.size)
		m := s.answerOf(t, msg, tt.network)
		packed, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		if m.Truncated != tt.truncated || len(packed) > tt.atMost || (len(m.Answers) == len(many)) == tt.truncated || len(m.Answers) == 0 {
			t.Errorf("%s with %d bytes: truncated %v, %d answers in %d bytes", tt.network, tt.size, m.Truncated, len(m.Answers), len(packed))
		}
	}
}

func TestReverseAddr(t *testing.T) {
	tests := []struct{ name, want string }{
		{"2.0.18.172.in-addr.arpa", "172.18.0.2"},
		{"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa", "2001:db8::1"},
		{"0.18.172.in-addr.arpa", ""},
		{"256.0.18.172.in-addr.arpa", ""},
		{"x.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa", ""},
		{"example.org", ""},
	}
	for _, tt := range tests {
		got, ok := reverseAddr(tt.name)
		if ok != (tt.want != "") || ok && got.String() != tt.want {
			t.Errorf("reverseAddr(%s) = %s, %v, want %q", tt.name, got, ok, tt.want)
		}
	}
}

func TestBadQueries(t *testing.T) {
	s := offline(t, fakeNames{"a": {netip.MustParseAddr("10.0.0.1")}})
	good := question(t, "a.", dnsmessage.TypeA, 0)
	notify := append([]byte(nil), good...)
	notify[2] |= 4 << 3
	twice := append([]byte(nil), good...)
	twice[5] = 2
	if m := s.answerOf(t, notify, "udp"); m.RCode != dnsmessage.RCodeNotImplemented {
		t.Errorf("NOTIFY: %v", m.RCode)
	}
	if m := s.answerOf(t, twice, "udp"); m.RCode != dnsmessage.RCodeFormatError {
		t.Errorf("two questions, one there: %v", m.RCode)
	}
	// An answer that is answered makes two servers talk for ever.
	response := append([]byte(nil), good...)
	response[2] |= 0x80
	for _, msg := range [][]byte{response, good[:5], nil} {
		s.handle(msg, "udp", func([]byte) { t.Errorf("%x is answered", msg) })
	}
	// More than the bound: refused, not queued.
	s.forwards <- struct{}{}
	if m := s.answerOf(t, question(t, "other.", dnsmessage.TypeA, 0), "udp"); m.RCode != dnsmessage.RCodeRefused {
		t.Errorf("too many: %v", m.RCode)
	}
}

func FuzzHandle(f *testing.F) {
	f.Add([]byte{}, true)
	f.Add(question(f, "a.", dnsmessage.TypeA, 1232), false)
	f.Add(question(f, "1.0.0.10.in-addr.arpa.", dnsmessage.TypePTR, 0), true)
	f.Fuzz(func(t *testing.T, msg []byte, stream bool) {
		s := offline(t, fakeNames{"a": {netip.MustParseAddr("10.0.0.1")}})
		network := "udp"
		if stream {
			network = "tcp"
		}
		s.handle(msg, network, func(b []byte) {
			var p dnsmessage.Parser
			h, err := p.Start(b)
			if err != nil || !h.Response || len(b) > maxMessage {
				t.Errorf("answer to %x: %x, %v", msg, b, err)
			}
		})
		s.wg.Wait()
	})
}

func BenchmarkServer_local(b *testing.B) {
	s := offline(b, fakeNames{"web": {netip.MustParseAddr("172.18.0.2")}})
	msg := question(b, "web.", dnsmessage.TypeA, 1232)
	b.ReportAllocs()
	for b.Loop() {
		s.handle(msg, "udp", func([]byte) {})
	}
}
