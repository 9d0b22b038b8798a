package dns

import (
	"math/rand/v2"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// ttl is how long clients may keep our answers, in seconds (as Docker).
const ttl = 600

// query is a message that asks one question.
type query struct {
	header   dnsmessage.Header
	question dnsmessage.Question
	limit    int // bytes that the client takes in an answer
}

// parse reads a query; ok is false for what deserves no answer at all.
func parse(msg []byte, network string) (q query, ok bool, rcode dnsmessage.RCode) {
	var p dnsmessage.Parser
	h, err := p.Start(msg)
	if err != nil || h.Response {
		return q, false, 0
	}
	q.header, q.limit = h, minMessage
	if network == "tcp" {
		q.limit = maxMessage
	}
	if h.OpCode != 0 {
		return q, true, dnsmessage.RCodeNotImplemented
	}
	questions, err := p.AllQuestions()
	if err != nil || len(questions) != 1 {
		return q, true, dnsmessage.RCodeFormatError
	}
	q.question = questions[0]
	if p.SkipAllAnswers() != nil || p.SkipAllAuthorities() != nil {
		return q, true, dnsmessage.RCodeFormatError
	}
	for {
		r, err := p.AdditionalHeader()
		if err == dnsmessage.ErrSectionDone {
			return q, true, dnsmessage.RCodeSuccess
		}
		if err != nil {
			return q, true, dnsmessage.RCodeFormatError
		}
		if r.Type == dnsmessage.TypeOPT && network == "udp" {
			q.limit = max(minMessage, int(r.Class)) // RFC 6891 section 6.2.3
		}
		if err := p.SkipAdditional(); err != nil {
			return q, true, dnsmessage.RCodeFormatError
		}
	}
}

// handle answers msg, at once or, if it has to be passed on, later. reply may be
// called by another goroutine; msg is not used after handle returned.
func (s *Server) handle(msg []byte, network string, reply func([]byte)) {
	q, ok, rcode := parse(msg, network)
	switch {
	case !ok:
		return
	case rcode != dnsmessage.RCodeSuccess:
		reply(q.build(rcode, nil))
		return
	}
	if records, known := s.local(&q); known {
		reply(q.build(dnsmessage.RCodeSuccess, records))
		return
	}
	t := q.question.Type
	bare := !strings.Contains(strings.TrimSuffix(q.question.Name.String(), "."), ".")
	if s.cfg.KeepBare && bare && (t == dnsmessage.TypeA || t == dnsmessage.TypeAAAA) {
		reply(q.build(dnsmessage.RCodeSuccess, nil))
		return
	}
	select {
	case s.forwards <- struct{}{}:
	default:
		reply(q.build(dnsmessage.RCodeRefused, nil))
		return
	}
	msg = append([]byte(nil), msg...)
	s.wg.Go(func() {
		defer func() { <-s.forwards }()
		if answer := s.forward(msg, &q, network); answer != nil {
			reply(answer)
		} else if s.ctx.Err() == nil {
			reply(q.build(dnsmessage.RCodeServerFailure, nil))
		}
	})
}

// local answers what is ours to answer. A name of ours without a record of the
// type asked for has an empty answer: no other server knows better.
func (s *Server) local(q *query) (records []dnsmessage.ResourceBody, known bool) {
	name := strings.ToLower(strings.TrimSuffix(q.question.Name.String(), "."))
	if q.question.Class != dnsmessage.ClassINET {
		return nil, false
	}
	if q.question.Type == dnsmessage.TypePTR {
		addr, ok := reverseAddr(name)
		if !ok {
			return nil, false
		}
		host := s.cfg.Names.Reverse(addr)
		target, err := dnsmessage.NewName(host + ".")
		if host == "" || err != nil {
			return nil, false
		}
		return []dnsmessage.ResourceBody{&dnsmessage.PTRResource{PTR: target}}, true
	}
	addrs, known := s.cfg.Names.Lookup(name)
	for _, a := range addrs {
		switch {
		case q.question.Type == dnsmessage.TypeA && a.Is4():
			records = append(records, &dnsmessage.AResource{A: a.As4()})
		case q.question.Type == dnsmessage.TypeAAAA && a.Is6():
			records = append(records, &dnsmessage.AAAAResource{AAAA: a.As16()})
		}
	}
	rand.Shuffle(len(records), func(i, j int) { records[i], records[j] = records[j], records[i] })
	return records, known
}

// build makes the answer to q. What does not fit is left out and said to be.
func (q *query) build(rcode dnsmessage.RCode, records []dnsmessage.ResourceBody) []byte {
	msg := q.pack(rcode, records, false)
	for len(msg) > q.limit && len(records) > 0 {
		records = records[:min(len(records)-1, q.limit/16)] // a record takes 16 bytes or more
		msg = q.pack(rcode, records, true)
	}
	return msg
}

func (q *query) pack(rcode dnsmessage.RCode, records []dnsmessage.ResourceBody, truncated bool) []byte {
	b := dnsmessage.NewBuilder(make([]byte, 0, minMessage), dnsmessage.Header{
		ID: q.header.ID, Response: true, OpCode: q.header.OpCode, RecursionDesired: q.header.RecursionDesired,
		RecursionAvailable: true, RCode: rcode, Truncated: truncated,
	})
	b.EnableCompression()
	b.StartQuestions()
	if q.question.Name.Length > 0 {
		b.Question(q.question) // a name that was parsed packs
	}
	b.StartAnswers()
	for _, r := range records {
		h := dnsmessage.ResourceHeader{Name: q.question.Name, Class: dnsmessage.ClassINET, TTL: ttl}
		switch r := r.(type) {
		case *dnsmessage.AResource:
			b.AResource(h, *r)
		case *dnsmessage.AAAAResource:
			b.AAAAResource(h, *r)
		case *dnsmessage.PTRResource:
			b.PTRResource(h, *r)
		}
	}
	msg, err := b.Finish()
	if err != nil {
		return nil
	}
	return msg
}

// reverseAddr reads a name below in-addr.arpa or ip6.arpa (RFC 1035 section 3.5,
// RFC 3596 section 2.5).
func reverseAddr(name string) (netip.Addr, bool) {
	if rest, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		parts := strings.Split(rest, ".")
		if len(parts) != 4 {
			return netip.Addr{}, false
		}
		var a [4]byte
		for i, p := range parts {
			n, err := strconv.ParseUint(p, 10, 8)
			if err != nil {
				return netip.Addr{}, false
			}
			a[3-i] = byte(n)
		}
		return netip.AddrFrom4(a), true
	}
	rest, ok := strings.CutSuffix(name, ".ip6.arpa")
	if !ok || len(rest) != 63 {
		return netip.Addr{}, false
	}
	var a [16]byte
	for i := range 32 {
		n, err := strconv.ParseUint(rest[2*i:2*i+1], 16, 4)
		if err != nil || i < 31 && rest[2*i+1] != '.' {
			return netip.Addr{}, false
		}
		a[15-i/2] |= byte(n) << (4 * (i % 2))
	}
	return netip.AddrFrom16(a), true
}
