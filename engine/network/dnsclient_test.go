package network

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

var questionTypes = map[string]dnsmessage.Type{
	"A": dnsmessage.TypeA, "AAAA": dnsmessage.TypeAAAA, "PTR": dnsmessage.TypePTR, "MX": dnsmessage.TypeMX, "TXT": dnsmessage.TypeTXT,
}

// lookup asks for NAME TYPE [SERVER] and returns the response code followed by
// the sorted answers; "+tc" follows the code of a truncated answer.
func lookup(network string, f []string) (string, error) {
	server := "127.0.0.11:53"
	if len(f) > 2 {
		server = f[2]
	}
	name, err := dnsmessage.NewName(f[0])
	if err != nil {
		return "", err
	}
	msg := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 4711, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: name, Type: questionTypes[f[1]], Class: dnsmessage.ClassINET}},
	}
	out, err := msg.Pack()
	if err != nil {
		return "", err
	}
	c, err := net.Dial(network, server)
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if network == "tcp" {
		out = append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...)
	}
	if _, err := c.Write(out); err != nil {
		return "", err
	}
	buf := make([]byte, 1<<16)
	var n int
	if network == "tcp" {
		if _, err = io.ReadFull(c, buf[:2]); err == nil {
			n, err = io.ReadFull(c, buf[:binary.BigEndian.Uint16(buf)])
		}
	} else {
		n, err = c.Read(buf)
	}
	if err != nil {
		return "", err
	}
	if err := msg.Unpack(buf[:n]); err != nil {
		return "", err
	}
	if msg.ID != 4711 || !msg.Response || len(msg.Questions) != 1 || msg.Questions[0].Name != name {
		return "", fmt.Errorf("not an answer to the question: %+v", msg.Header)
	}
	var answers []string
	for _, a := range msg.Answers {
		switch r := a.Body.(type) {
		case *dnsmessage.AResource:
			answers = append(answers, netip.AddrFrom4(r.A).String())
		case *dnsmessage.AAAAResource:
			answers = append(answers, netip.AddrFrom16(r.AAAA).String())
		case *dnsmessage.PTRResource:
			answers = append(answers, r.PTR.String())
		case *dnsmessage.TXTResource:
			answers = append(answers, strings.Join(r.TXT, ""))
		}
	}
	slices.Sort(answers)
	code := map[dnsmessage.RCode]string{0: "OK", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 5: "REFUSED"}[msg.RCode]
	if msg.Truncated {
		code += "+tc"
	}
	return strings.Join(append([]string{code}, answers...), " "), nil
}

// nameServer is a server on the host's side that answers by name: "x.test" has
// an address that says which server it is, "fail.test" is SERVFAIL, "big.test"
// does not fit UDP, "silent.test" is not answered, "nope.test" does not exist.
func nameServer(addr string, mark byte) (stop func(), err error) {
	pc, err := net.ListenPacket("udp4", addr)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp4", addr)
	if err != nil {
		pc.Close()
		return nil, err
	}
	go func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			if b := serverAnswer(buf[:n], mark, false); b != nil {
				pc.WriteTo(b, from)
			}
		}
	}()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			var size [2]byte
			io.ReadFull(c, size[:])
			buf := make([]byte, binary.BigEndian.Uint16(size[:]))
			io.ReadFull(c, buf)
			if b := serverAnswer(buf, mark, true); b != nil {
				c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...))
			}
			c.Close()
		}
	}()
	return func() { pc.Close(); l.Close() }, nil
}

func serverAnswer(query []byte, mark byte, stream bool) []byte {
	var m dnsmessage.Message
	if m.Unpack(query) != nil || len(m.Questions) != 1 {
		return nil
	}
	m.Response = true
	q := m.Questions[0]
	h := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 1}
	switch q.Name.String() {
	case "silent.test.":
		return nil
	case "fail.test.":
		m.RCode = dnsmessage.RCodeServerFailure
	case "big.test.":
		m.Truncated = !stream
		for i := range 100 {
			if stream {
				m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: [4]byte{198, 51, 100, byte(i)}}})
			}
		}
	case "x.test.", "fallback.test.", "bare.":
		if q.Type == dnsmessage.TypeA {
			m.Answers = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.AResource{A: [4]byte{198, 51, 100, mark}}}}
		}
	default:
		m.RCode = dnsmessage.RCodeNameError
	}
	if q.Name.String() == "fallback.test." && mark == 1 {
		m.Answers, m.RCode = nil, dnsmessage.RCodeServerFailure
	}
	b, err := m.Pack()
	if err != nil {
		return nil
	}
	return b
}
