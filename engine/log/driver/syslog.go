package driver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-connections/tlsconfig"

	ctrlog "lighter/engine/log"
	"lighter/engine/log/delivery"
)

var syslogKeys = append([]string{
	"syslog-address", "syslog-facility", "syslog-format",
	"syslog-tls-ca-cert", "syslog-tls-cert", "syslog-tls-key", "syslog-tls-skip-verify",
}, attributeKeys...)

const syslogTLS = "tcp+tls"

// syslogFacilities are the names of RFC 5424's facilities by number; what has no
// name here can be given by its number.
var syslogFacilities = []string{
	"kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
	"", "", "", "", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
}

const (
	facilityDaemon = 3
	severityError  = 3
	severityInfo   = 6
)

func checkSyslog(opts map[string]string) error {
	if _, _, err := syslogAddress(opts["syslog-address"]); err != nil {
		return err
	}
	if _, err := syslogFacility(opts["syslog-facility"]); err != nil {
		return err
	}
	switch opts["syslog-format"] {
	case "", "rfc3164", "rfc5424", "rfc5424micro":
		return nil
	}
	return errors.New("Invalid syslog format") //nolint:staticcheck // Docker's text
}

// syslogAddress returns the network and address to dial; empty for the local
// daemon.
func syslogAddress(s string) (network, address string, err error) {
	if s == "" {
		return "", "", nil
	}
	u, err := url.Parse(s)
	if err != nil {
		return "", "", err
	}
	switch u.Scheme {
	case "unix", "unixgram":
		if _, err := os.Stat(u.Path); err != nil {
			return "", "", err
		}
		return u.Scheme, u.Path, nil
	case "udp", "tcp", syslogTLS:
	default:
		return "", "", fmt.Errorf("unsupported scheme: '%s'", u.Scheme)
	}
	if u.Port() == "" {
		if strings.HasSuffix(u.Host, ":") || u.Hostname() == "" {
			return "", "", fmt.Errorf("invalid syslog address %q: a host is missing", s)
		}
		return u.Scheme, net.JoinHostPort(u.Hostname(), "514"), nil
	}
	return u.Scheme, u.Host, nil
}

func syslogFacility(s string) (int, error) {
	if s == "" {
		return facilityDaemon, nil
	}
	for n, name := range syslogFacilities {
		if name == s {
			return n, nil
		}
	}
	if n, err := strconv.Atoi(s); err == nil && 0 <= n && n <= 23 {
		return n, nil
	}
	return 0, errors.New("invalid syslog facility")
}

// syslog sends RFC 3164 or RFC 5424 messages.
type syslog struct {
	*stream
	datagrams bool
	counted   bool // RFC 5425: each message is preceded by its length
	format    string
	facility  int
	host, tag string
	pid       int
}

func openSyslog(ctx context.Context, info Info) (delivery.Sink, error) {
	tag, err := info.Tag(defaultTag)
	if err != nil {
		return nil, err
	}
	network, address, err := syslogAddress(info.Options["syslog-address"])
	if err != nil {
		return nil, err
	}
	facility, err := syslogFacility(info.Options["syslog-facility"])
	if err != nil {
		return nil, err
	}
	s := &syslog{format: info.Options["syslog-format"], facility: facility, host: info.Hostname, tag: tag, pid: os.Getpid()}
	switch network {
	case "":
		s.stream, err = dialLocalSyslog(ctx)
	case syslogTLS:
		s.stream, err = dialSyslogTLS(ctx, address, info.Options)
		s.counted = strings.HasPrefix(s.format, "rfc5424")
	default:
		s.stream, err = dial(ctx, network, address)
	}
	if err != nil {
		return nil, err
	}
	if n := s.RemoteAddr().Network(); n == "udp" || n == "unixgram" {
		s.datagrams = true
	}
	return s, nil
}

func dialLocalSyslog(ctx context.Context) (*stream, error) {
	for _, network := range []string{"unixgram", "unix"} {
		for _, path := range []string{"/dev/log", "/var/run/syslog", "/var/run/log"} {
			if s, err := dial(ctx, network, path); err == nil {
				return s, nil
			}
		}
	}
	return nil, errors.New("Unix syslog delivery error") //nolint:staticcheck // Docker's text
}

func dialSyslogTLS(ctx context.Context, address string, opts map[string]string) (*stream, error) {
	_, skip := opts["syslog-tls-skip-verify"]
	cfg, err := tlsconfig.Client(tlsconfig.Options{
		CAFile: opts["syslog-tls-ca-cert"], CertFile: opts["syslog-tls-cert"], KeyFile: opts["syslog-tls-key"], InsecureSkipVerify: skip,
	})
	if err != nil {
		return nil, err
	}
	d := &tls.Dialer{NetDialer: &net.Dialer{Timeout: dialTimeout}, Config: cfg}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return &stream{Conn: conn}, nil
}

// Send implements delivery.Sink. The protocol has no answer: what is written
// counts as delivered.
func (s *syslog) Send(_ context.Context, entries []ctrlog.Entry) (int, error) {
	var buf []byte
	for i, e := range entries {
		if len(e.Text) == 0 {
			continue
		}
		msg := s.message(e)
		if s.datagrams {
			if err := s.write(msg); err != nil {
				return i, err
			}
			continue
		}
		if s.counted {
			buf = append(strconv.AppendInt(buf, int64(len(msg)), 10), ' ')
		}
		buf = append(buf, msg...)
	}
	if len(buf) > 0 {
		if err := s.write(buf); err != nil {
			return 0, err
		}
	}
	return len(entries), nil
}

func (s *syslog) message(e ctrlog.Entry) []byte {
	severity := severityInfo
	if e.Stderr {
		severity = severityError
	}
	pri := s.facility<<3 | severity
	at := e.Time.Local()
	switch s.format {
	case "rfc3164":
		return fmt.Appendf(nil, "<%d>%s %s %s[%d]: %s\n", pri, at.Format(time.Stamp), s.host, s.tag, s.pid, e.Text)
	case "rfc5424":
		return fmt.Appendf(nil, "<%d>1 %s %s %s %d %s - %s\n", pri, at.Format(time.RFC3339), s.host, s.tag, s.pid, s.tag, e.Text)
	case "rfc5424micro":
		return fmt.Appendf(nil, "<%d>1 %s %s %s %d %s - %s\n", pri, at.Format("2006-01-02T15:04:05.000000Z07:00"), s.host, s.tag, s.pid, s.tag, e.Text)
	}
	return fmt.Appendf(nil, "<%d>%s %s[%d]: %s\n", pri, at.Format(time.Stamp), s.tag, s.pid, e.Text)
}
