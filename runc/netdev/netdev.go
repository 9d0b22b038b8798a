// Package netdev moves network devices of the host into a container's network
// namespace, with their addresses.
//
// Implements OCI runtime-spec v1.3 config-linux.md#network-devices by rtnetlink(7).
package netdev

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Move moves the device name of the caller's network namespace to the namespace
// netns, where it is called newName (empty keeps its name), has the permanent
// addresses of global scope that it had, and is up.
//
// Errors: NotFound if there is no such device, AlreadyExists if newName is taken.
func Move(name, newName string, netns *os.File) error {
	if newName == "" {
		newName = name
	}
	err := move(name, newName, netns)
	switch {
	case errors.Is(err, unix.ENODEV):
		err = fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	case errors.Is(err, unix.EEXIST):
		err = fmt.Errorf("%w: %w", err, errdefs.ErrAlreadyExists)
	}
	if err != nil {
		return fmt.Errorf("move network device %q: %w", name, err)
	}
	return nil
}

func move(name, newName string, netns *os.File) error {
	here, err := dial()
	if err != nil {
		return err
	}
	defer here.close()
	index, err := here.index(name)
	if err != nil {
		return err
	}
	// The kernel moves a device before it renames it, and would leave it there.
	if err := inside(netns, func(there *conn) error {
		if _, err := there.index(newName); !errors.Is(err, unix.ENODEV) {
			return errors.Join(err, fmt.Errorf("name %q: %w", newName, unix.EEXIST))
		}
		return nil
	}); err != nil {
		return err
	}
	addrs, err := here.addresses(index)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	m := newMessage(unix.RTM_NEWLINK, linkHeader(index, 0, 0))
	m.attr(unix.IFLA_NET_NS_FD, binary.NativeEndian.AppendUint32(nil, uint32(netns.Fd())))
	m.attr(unix.IFLA_IFNAME, append([]byte(newName), 0))
	if err := here.do(m); err != nil {
		return err
	}
	runtime.KeepAlive(netns)
	return inside(netns, func(there *conn) error { return there.configure(newName, addrs) })
}

// inside calls f with a socket in netns, on a thread that is there too.
func inside(netns *os.File, f func(there *conn) error) error {
	done := make(chan error, 1)
	go func() {
		// The thread does not come back: it ends with its goroutine.
		runtime.LockOSThread()
		if err := unix.Setns(int(netns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("join network namespace: %w", err)
			return
		}
		there, err := dial()
		if err != nil {
			done <- err
			return
		}
		defer there.close()
		done <- f(there)
	}()
	return <-done
}

// configure gives the device its addresses and sets it up.
func (c *conn) configure(name string, addrs []address) error {
	index, err := c.index(name)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		header := append([]byte(nil), a.header[:]...)
		binary.NativeEndian.PutUint32(header[4:], uint32(index))
		m := newMessage(unix.RTM_NEWADDR, header)
		m.flags |= unix.NLM_F_CREATE | unix.NLM_F_EXCL
		for _, at := range a.attrs {
			m.attr(at.kind, at.value)
		}
		if err := c.do(m); err != nil {
			return fmt.Errorf("set address: %w", err)
		}
	}
	if err := c.do(newMessage(unix.RTM_NEWLINK, linkHeader(index, unix.IFF_UP, unix.IFF_UP))); err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	return nil
}

// linkHeader is a struct ifinfomsg.
func linkHeader(index int, flags, change uint32) []byte {
	b := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	binary.NativeEndian.PutUint32(b[8:], flags)
	binary.NativeEndian.PutUint32(b[12:], change)
	return b
}

// address is a struct ifaddrmsg with those of its attributes that are set again.
type address struct {
	header [unix.SizeofIfAddrmsg]byte
	attrs  []attr
}

type attr struct {
	kind  uint16
	value []byte
}

// conn is a netlink socket in the network namespace of the thread that made it.
type conn struct{ fd int }

func dial() (*conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	return &conn{fd: fd}, nil
}

func (c *conn) close() { unix.Close(c.fd) }

// index returns the index of a device.
func (c *conn) index(name string) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq(name)
	if err != nil {
		return 0, fmt.Errorf("name %q: %w", name, err)
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, req); err != nil {
		return 0, os.NewSyscallError("ioctl SIOCGIFINDEX", err)
	}
	return int(req.Uint32()), nil
}

// do sends a request and waits for its acknowledgement.
func (c *conn) do(m *message) error {
	m.flags |= unix.NLM_F_ACK
	return c.exchange(m, func(uint16, []byte) {})
}

// addresses lists what of a device's addresses moves with it: what somebody has
// set, not what was found out or is of the link alone.
func (c *conn) addresses(index int) ([]address, error) {
	var list []address
	m := newMessage(unix.RTM_GETADDR, make([]byte, unix.SizeofIfAddrmsg))
	m.flags |= unix.NLM_F_DUMP
	err := c.exchange(m, func(kind uint16, body []byte) {
		if kind != unix.RTM_NEWADDR || len(body) < unix.SizeofIfAddrmsg || int(binary.NativeEndian.Uint32(body[4:])) != index {
			return
		}
		var a address
		copy(a.header[:], body)
		flags := uint32(a.header[2])
		for _, at := range attributes(body[unix.SizeofIfAddrmsg:]) {
			switch at.kind {
			case unix.IFA_FLAGS:
				if len(at.value) >= 4 {
					flags = binary.NativeEndian.Uint32(at.value)
				}
			case unix.IFA_ADDRESS, unix.IFA_LOCAL, unix.IFA_BROADCAST:
				a.attrs = append(a.attrs, at)
			}
		}
		if flags&unix.IFA_F_PERMANENT != 0 && a.header[3] == unix.RT_SCOPE_UNIVERSE {
			list = append(list, a)
		}
	})
	return list, err
}

// exchange sends m and passes the answers to handle until the kernel says that
// there are no more.
func (c *conn) exchange(m *message, handle func(kind uint16, body []byte)) error {
	if err := unix.Sendto(c.fd, m.encode(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	buf := make([]byte, 64<<10) // more than the kernel sends at once
	for {
		n, _, err := unix.Recvfrom(c.fd, buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return os.NewSyscallError("recvfrom", err)
		}
		for b := buf[:n]; len(b) >= unix.SizeofNlMsghdr; {
			size := int(binary.NativeEndian.Uint32(b))
			if size < unix.SizeofNlMsghdr || size > len(b) {
				return fmt.Errorf("netlink: message of %d bytes in %d: %w", size, len(b), errdefs.ErrInternal)
			}
			kind, body := binary.NativeEndian.Uint16(b[4:]), b[unix.SizeofNlMsghdr:size]
			switch kind {
			case unix.NLMSG_DONE:
				return nil
			case unix.NLMSG_ERROR:
				if len(body) < 4 {
					return fmt.Errorf("netlink: short error message: %w", errdefs.ErrInternal)
				}
				if code := int32(binary.NativeEndian.Uint32(body)); code != 0 {
					return unix.Errno(-code)
				}
				return nil
			}
			handle(kind, body)
			b = b[min(align(size), len(b)):]
		}
	}
}

// attributes splits a list of struct rtattr. The values are copies.
func attributes(b []byte) []attr {
	var list []attr
	for len(b) >= unix.SizeofRtAttr {
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.SizeofRtAttr || size > len(b) {
			break
		}
		list = append(list, attr{binary.NativeEndian.Uint16(b[2:]), append([]byte(nil), b[unix.SizeofRtAttr:size]...)})
		b = b[min(align(size), len(b)):]
	}
	return list
}

// message is a netlink request under construction.
type message struct {
	kind, flags uint16
	body        []byte
}

func newMessage(kind uint16, header []byte) *message {
	return &message{kind: kind, flags: unix.NLM_F_REQUEST, body: header}
}

func (m *message) attr(kind uint16, value []byte) {
	size := unix.SizeofRtAttr + len(value)
	m.body = binary.NativeEndian.AppendUint16(m.body, uint16(size))
	m.body = binary.NativeEndian.AppendUint16(m.body, kind)
	m.body = append(m.body, value...)
	m.body = append(m.body, make([]byte, align(size)-size)...)
}

func (m *message) encode() []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(m.body)))
	b = binary.NativeEndian.AppendUint16(b, m.kind)
	b = binary.NativeEndian.AppendUint16(b, m.flags)
	b = append(b, make([]byte, 8)...) // sequence number and port: one request at a time
	return append(b, m.body...)
}

func align(n int) int { return (n + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1) }
