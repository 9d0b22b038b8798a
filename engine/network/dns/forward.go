package dns

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"io"
	"net"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"lighter/internal/linux/netns"
)

const (
	// maxUpstreams is how many servers are tried (as Docker and glibc).
	maxUpstreams = 3
	// upstreamTimeout is how long one of them has to answer.
	upstreamTimeout = 4 * time.Second
)

// forward asks the upstream servers in turn over the network that the client
// uses, so that a truncated answer makes the client come back over TCP, as it
// should. It returns nil if none answers. One that fails or refuses is not the
// last word unless no other has a better one.
func (s *Server) forward(msg []byte, q *query, network string) []byte {
	var poor []byte
	for i, up := range s.cfg.Upstreams() {
		if i == maxUpstreams || s.ctx.Err() != nil {
			break
		}
		answer, err := s.ask(up, msg, q, network)
		if err != nil {
			s.cfg.Log.Debug("name server does not answer", "server", up.Addr.String(), "err", err)
			continue
		}
		switch rcode := dnsmessage.RCode(answer[3] & 0xf); rcode {
		case dnsmessage.RCodeServerFailure, dnsmessage.RCodeRefused:
			poor = answer
			continue
		}
		return answer
	}
	return poor
}

// ask sends msg to one server and returns its answer with the client's ID.
func (s *Server) ask(up Upstream, msg []byte, q *query, network string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(s.ctx, upstreamTimeout)
	defer cancel()
	c, err := s.dial(ctx, up, network)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()

	// An ID of our own, from a port of its own: the container cannot choose what
	// somebody else would have to guess.
	msg = bytes.Clone(msg)
	id := [2]byte{}
	rand.Read(id[:]) // never fails
	copy(msg, id[:])
	if network == "tcp" {
		msg = append(binary.BigEndian.AppendUint16(nil, uint16(len(msg))), msg...)
	}
	if _, err := c.Write(msg); err != nil {
		return nil, err
	}
	for {
		answer, err := receive(c, network)
		if err != nil {
			return nil, err
		}
		if answers(answer, id, q) {
			binary.BigEndian.PutUint16(answer, q.header.ID)
			return answer, nil
		}
	}
}

// dial connects to a server from the namespace that it is to be asked from.
func (s *Server) dial(ctx context.Context, up Upstream, network string) (c net.Conn, err error) {
	var d net.Dialer
	d.SetMultipathTCP(false)
	if up.Host {
		return d.DialContext(ctx, network, up.Addr.String())
	}
	err = netns.Do(s.ns, func() (err error) {
		// A single address is dialled on this thread.
		c, err = d.DialContext(ctx, network, up.Addr.String())
		return err
	})
	return c, err
}

func receive(c net.Conn, network string) ([]byte, error) {
	if network == "tcp" {
		var n [2]byte
		if _, err := io.ReadFull(c, n[:]); err != nil {
			return nil, err
		}
		buf := make([]byte, binary.BigEndian.Uint16(n[:]))
		_, err := io.ReadFull(c, buf)
		return buf, err
	}
	buf := make([]byte, 4096) // more than any path carries
	n, err := c.Read(buf)
	return buf[:n], err
}

// answers reports whether msg answers q, asked with id.
func answers(msg []byte, id [2]byte, q *query) bool {
	var p dnsmessage.Parser
	h, err := p.Start(msg)
	if err != nil || !h.Response || !bytes.Equal(msg[:2], id[:]) {
		return false
	}
	got, err := p.Question()
	if err == dnsmessage.ErrSectionDone {
		return h.RCode != dnsmessage.RCodeSuccess // some leave it out of a refusal
	}
	return err == nil && got.Type == q.question.Type && got.Class == q.question.Class &&
		bytes.EqualFold(got.Name.Data[:got.Name.Length], q.question.Name.Data[:q.question.Name.Length])
}
