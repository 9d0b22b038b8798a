package bridge

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// replyTimeout bounds the wait for the kernel's answer to a batch. Requests are
// carried out before sendmsg(2) returns; only a lost answer makes it expire.
const replyTimeout = 10 * time.Second

// socket is a NETLINK_ROUTE socket in one network namespace. It is used by one
// goroutine at a time.
type socket struct {
	fd  int
	seq uint32
	buf []byte // receive buffer
}

// openSocket opens a socket in the network namespace of the calling thread.
func openSocket() (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	tv := unix.NsecToTimeval(int64(replyTimeout))
	err = errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv),
		// Answers echo only the header of a failed request, so that those of a
		// whole batch fit the receive buffer, and carry the kernel's message.
		unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1),
		unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1),
	)
	if err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("setsockopt", err)
	}
	return &socket{fd: fd, buf: make([]byte, 64<<10)}, nil
}

// Close closes the socket.
func (s *socket) Close() error { return unix.Close(s.fd) }

// batch is a sequence of requests that are sent with one system call. The kernel
// carries them out in order; one that fails does not stop those after it.
type batch struct {
	reqs  []*nl.NetlinkRequest
	names []string // what each does, for errors
	mayBe [][]syscall.Errno
}

// add appends a request and returns it to be filled. Errors in accept count as success.
func (b *batch) add(name string, proto, flags int, accept ...syscall.Errno) *nl.NetlinkRequest {
	req := &nl.NetlinkRequest{NlMsghdr: unix.NlMsghdr{
		Len:   unix.SizeofNlMsghdr,
		Type:  uint16(proto),
		Flags: unix.NLM_F_REQUEST | unix.NLM_F_ACK | uint16(flags),
	}}
	b.reqs = append(b.reqs, req)
	b.names = append(b.names, name)
	b.mayBe = append(b.mayBe, accept)
	return req
}

// do sends b and waits for the answers. It returns the payloads of the answers
// that are no acknowledgements, and the first error, which names its request.
func (s *socket) do(b *batch) ([][]byte, error) {
	if len(b.reqs) == 0 {
		return nil, nil
	}
	var out []byte
	first := s.seq + 1
	for _, r := range b.reqs {
		s.seq++
		r.Seq = s.seq
		out = append(out, r.Serialize()...)
	}
	if err := retryEINTR(func() error {
		return unix.Sendto(s.fd, out, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	}); err != nil {
		return nil, os.NewSyscallError("sendto", err)
	}
	var replies [][]byte
	var failed error
	for pending := len(b.reqs); pending > 0; {
		var n int
		if err := retryEINTR(func() (err error) {
			n, _, err = unix.Recvfrom(s.fd, s.buf, 0)
			return err
		}); err != nil {
			return nil, os.NewSyscallError("recvfrom", err)
		}
		msgs, err := syscall.ParseNetlinkMessage(s.buf[:n])
		if err != nil {
			return nil, fmt.Errorf("parse netlink answer: %w", err)
		}
		for _, m := range msgs {
			i := int(m.Header.Seq - first)
			if i < 0 || i >= len(b.reqs) {
				continue // left over from a batch that was given up
			}
			switch m.Header.Type {
			case unix.NLMSG_ERROR:
				pending--
				if errno := errorOf(m); errno != 0 && failed == nil && !accepted(errno, b.mayBe[i]) {
					failed = fmt.Errorf("%s: %w", b.names[i], errnoError{errno, messageOf(m)})
				}
			case unix.NLMSG_DONE:
				pending--
			default:
				replies = append(replies, append([]byte(nil), m.Data...))
			}
		}
	}
	return replies, failed
}

func accepted(errno syscall.Errno, list []syscall.Errno) bool {
	for _, e := range list {
		if e == errno {
			return true
		}
	}
	return false
}

// errorOf returns the error number of an NLMSG_ERROR; 0 is an acknowledgement.
func errorOf(m syscall.NetlinkMessage) syscall.Errno {
	if len(m.Data) < 4 {
		return unix.EPROTO
	}
	return syscall.Errno(-int32(binary.NativeEndian.Uint32(m.Data)))
}

// messageOf returns the kernel's explanation in an NLMSG_ERROR, if any.
func messageOf(m syscall.NetlinkMessage) string {
	const flagACKTLVs = 0x200 // NLM_F_ACK_TLVS
	head := 4 + unix.SizeofNlMsghdr
	if m.Header.Flags&flagACKTLVs == 0 || len(m.Data) < head {
		return ""
	}
	attrs, err := nl.ParseRouteAttr(m.Data[head:])
	if err != nil {
		return ""
	}
	for _, a := range attrs {
		if a.Attr.Type == nl.NLMSGERR_ATTR_MSG {
			return nl.BytesToString(a.Value)
		}
	}
	return ""
}

// errnoError is an error number with the kernel's explanation.
type errnoError struct {
	errno syscall.Errno
	text  string
}

func (e errnoError) Error() string {
	if e.text == "" {
		return e.errno.Error()
	}
	return e.errno.Error() + " (" + e.text + ")"
}

func (e errnoError) Unwrap() error { return e.errno }

func retryEINTR(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}

// ifinfo returns the header of a link request. index 0 leaves the link to be
// found by name.
func ifinfo(index int, flags, change uint32) *nl.IfInfomsg {
	m := nl.NewIfInfomsg(unix.AF_UNSPEC)
	m.Index = int32(index)
	m.Flags = flags
	m.Change = change
	return m
}

// newLink adds a request that creates a link, or changes one when flags is 0.
func (b *batch) link(name string, flags int, info *nl.IfInfomsg, attrs ...*nl.RtAttr) {
	req := b.add(name, unix.RTM_NEWLINK, flags)
	req.AddData(info)
	for _, a := range attrs {
		req.AddData(a)
	}
}

// address adds a request that gives link index the address p. IPv6 addresses
// skip duplicate detection: IPAM knows that nobody has them.
func (b *batch) address(index int, p netip.Prefix) {
	family, flags := unix.AF_INET, uint8(0)
	if p.Addr().Is6() {
		family, flags = unix.AF_INET6, unix.IFA_F_NODAD
	}
	req := b.add("add address "+p.String(), unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	m := nl.NewIfAddrmsg(family)
	m.Index = uint32(index)
	m.Prefixlen = uint8(p.Bits())
	m.IfAddrmsg.Flags = flags
	req.AddData(m)
	req.AddData(nl.NewRtAttr(unix.IFA_LOCAL, p.Addr().AsSlice()))
	req.AddData(nl.NewRtAttr(unix.IFA_ADDRESS, p.Addr().AsSlice()))
	if p.Addr().Is4() && p.Bits() < 31 {
		req.AddData(nl.NewRtAttr(unix.IFA_BROADCAST, broadcast(p)))
	}
}

// defaultRoute adds a request that makes gw the default gateway, or the link
// itself the way to all addresses of its family.
func (b *batch) defaultRoute(index int, gw netip.Addr, onLink bool) {
	req := b.add("add default route via "+gw.String(), unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	m := nl.NewRtMsg()
	if gw.Is6() {
		m.Family = unix.AF_INET6
	} else {
		m.Family = unix.AF_INET
	}
	if onLink {
		m.Scope = unix.RT_SCOPE_LINK
	}
	req.AddData(m)
	if !onLink {
		req.AddData(nl.NewRtAttr(unix.RTA_GATEWAY, gw.AsSlice()))
	}
	req.AddData(nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(index))))
}

func broadcast(p netip.Prefix) []byte {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return b
}
