// Package portmap reserves host ports for containers and forwards the traffic
// that the firewall cannot translate.
//
// A published port is held by a socket of this process that is bound to it, so
// no other program gets it, and one that has it already is noticed. Where the
// firewall translates the port's traffic the socket never sees any.
//
// Docker compatibility: a container without IPv6 is reachable over IPv6 on ports
// published on "[::]" or all addresses. Docker runs a docker-proxy process per
// such port; here the reserving socket is served by goroutines. Connections that
// are forwarded this way reach the container from the bridge's address, and end
// with the process.
package portmap

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
	"golang.org/x/sys/unix"

	"lighter/internal/cleanup"
)

// Want is a port to publish.
type Want struct {
	Port   network.Port // of the container
	HostIP netip.Addr   // the zero value is all addresses
	// First and Last are the host ports to choose from; 0 is an ephemeral one.
	First, Last uint16
	// V4 and V6 say how traffic for host addresses of the family gets to the
	// container.
	V4, V6 Way
}

// Way is how traffic gets from the host to a container.
type Way int

const (
	// Auto is what the Config says: IPv4 is translated, or forwarded without a
	// firewall, and IPv6 forwarded if that is allowed.
	Auto Way = iota
	// None is no way at all: nothing is published for the family unless it is
	// asked for, which is an error.
	None
	// Translate leaves it to the firewall.
	Translate
	// Forward makes this process carry it.
	Forward
	// Route means that the container's own address is used, and no host port.
	Route
)

// Wants lists what a container asks to publish, ordered by container port. With
// all, exposed ports without a binding get an ephemeral one. Bindings without an
// address get defaultIP, which may be the zero value. A port with an empty list
// of bindings is not published.
//
// Errors: InvalidArgument.
func Wants(bindings network.PortMap, exposed network.PortSet, all bool, defaultIP netip.Addr) ([]Want, error) {
	var wants []Want
	for port, list := range bindings {
		if err := check(port); err != nil {
			return nil, err
		}
		for _, b := range list {
			w := Want{Port: port, HostIP: b.HostIP.Unmap()}
			if !w.HostIP.IsValid() {
				w.HostIP = defaultIP
			}
			var err error
			if w.First, w.Last, err = hostPorts(b.HostPort); err != nil {
				return nil, err
			}
			wants = append(wants, w)
		}
	}
	if all {
		for port := range exposed {
			if err := check(port); err != nil {
				return nil, err
			}
			if len(bindings[port]) == 0 {
				wants = append(wants, Want{Port: port, HostIP: defaultIP})
			}
		}
	}
	slices.SortStableFunc(wants, func(a, b Want) int {
		if c := int(a.Port.Num()) - int(b.Port.Num()); c != 0 {
			return c
		}
		if c := strings.Compare(string(a.Port.Proto()), string(b.Port.Proto())); c != 0 {
			return c
		}
		// Fixed ports first, so that an ephemeral one does not take them.
		return boolInt(a.First == 0) - boolInt(b.First == 0)
	})
	return wants, nil
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

func check(p network.Port) error {
	switch p.Proto() {
	case network.TCP, network.UDP, network.SCTP:
	default:
		return fmt.Errorf("invalid port specification: %q: protocol is not tcp, udp or sctp: %w", p, errdefs.ErrInvalidArgument)
	}
	if p.Num() == 0 {
		return fmt.Errorf("invalid port specification: %q: %w", p, errdefs.ErrInvalidArgument)
	}
	return nil
}

// hostPorts parses a HostPort: empty, "8080" or "8000-8010".
func hostPorts(s string) (first, last uint16, err error) {
	if s == "" {
		return 0, 0, nil
	}
	r, err := network.ParsePortRange(s)
	if err != nil || strings.Contains(s, "/") {
		return 0, 0, fmt.Errorf("invalid port specification: %q: %w", s, errdefs.ErrInvalidArgument)
	}
	if r.Start() == 0 && r.End() != 0 {
		return 0, 0, fmt.Errorf("invalid port specification: %q: %w", s, errdefs.ErrInvalidArgument)
	}
	return r.Start(), r.End(), nil
}

// Binding is a host port that is held for a container. It can be stored and
// bound again.
type Binding struct {
	Proto    network.IPProtocol
	HostIP   netip.Addr
	HostPort uint16
	Port     uint16 // of the container
	// Forward means that this process carries the traffic, not the firewall.
	Forward bool `json:",omitempty"`
	// Route means that no host port is held: HostPort is 0.
	Route bool `json:",omitempty"`
}

// String returns it as Docker names it in errors: address:port/protocol.
func (b Binding) String() string {
	return netip.AddrPortFrom(b.HostIP, b.HostPort).String() + "/" + string(b.Proto)
}

// Owner is who holds a port.
type Owner struct{ ID, Name string }

// Config is how an Allocator behaves.
type Config struct {
	// Firewall says that IPv4 is translated. Without it every binding is
	// forwarded by this process.
	Firewall bool
	// Forward allows forwarding by this process.
	Forward bool
	// First and Last are the ephemeral ports; 0 means those of the kernel.
	First, Last uint16
}

// Allocator hands out the host's ports. Its methods may be called concurrently.
type Allocator struct {
	cfg Config

	mu    sync.Mutex // guards the fields below
	taken map[protoPort][]holder
	next  uint16 // ephemeral port to try next
}

type protoPort struct {
	proto network.IPProtocol
	port  uint16
}

type holder struct {
	ip    netip.Addr
	owner Owner
}

// New returns an Allocator for the network namespace that the process is in.
func New(cfg Config) *Allocator {
	if cfg.First == 0 || cfg.Last < cfg.First {
		cfg.First, cfg.Last = kernelRange()
	}
	return &Allocator{cfg: cfg, taken: make(map[protoPort][]holder), next: cfg.First}
}

// kernelRange returns the kernel's ephemeral ports, or IANA's if it does not tell.
func kernelRange() (first, last uint16) {
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if f := strings.Fields(string(b)); err == nil && len(f) == 2 {
		lo, errLo := strconv.ParseUint(f[0], 10, 16)
		hi, errHi := strconv.ParseUint(f[1], 10, 16)
		if errLo == nil && errHi == nil && 0 < lo && lo <= hi {
			return uint16(lo), uint16(hi)
		}
	}
	return 49152, 65535
}

// Allocate binds the host ports that owner wants, the same number in each
// address family, and returns a Socket for each, which the caller closes.
//
// All or nothing: after an error nothing is held.
func (a *Allocator) Allocate(ctx context.Context, owner Owner, wants []Want) ([]*Socket, error) {
	var all []*Socket
	undo := cleanup.Make(func() error { return CloseAll(all) })
	defer undo.Run()
	for _, w := range wants {
		s, err := a.allocate(ctx, owner, w)
		if err != nil {
			return nil, err
		}
		all = append(all, s...)
	}
	undo.Release()
	return all, nil
}

// Bind binds again what Allocate gave to owner.
func (a *Allocator) Bind(ctx context.Context, owner Owner, bindings []Binding) ([]*Socket, error) {
	var all []*Socket
	undo := cleanup.Make(func() error { return CloseAll(all) })
	defer undo.Run()
	for _, b := range bindings {
		s, err := a.bind(ctx, owner, b)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	undo.Release()
	return all, nil
}

func (a *Allocator) allocate(ctx context.Context, owner Owner, w Want) ([]*Socket, error) {
	if w.First == w.Last && w.First != 0 {
		return a.bindFamilies(ctx, owner, w, w.First)
	}
	first, last := w.First, w.Last
	if first == 0 {
		first, last = a.cfg.First, a.cfg.Last
	}
	var failed error
	for range int(last-first) + 1 {
		port := first
		if w.First == 0 {
			port = a.nextEphemeral()
		} else {
			first++
		}
		s, err := a.bindFamilies(ctx, owner, w, port)
		if err == nil {
			return s, nil
		}
		var allocated *allocatedError
		if !errors.As(err, &allocated) && !errors.Is(err, unix.EADDRINUSE) {
			return nil, err
		}
		failed = err
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	if w.First == 0 {
		return nil, fmt.Errorf("all ports are allocated: %w", errdefs.ErrResourceExhausted)
	}
	return nil, failed
}

func (a *Allocator) nextEphemeral() uint16 {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.next
	if a.next++; a.next > a.cfg.Last || a.next == 0 {
		a.next = a.cfg.First
	}
	return p
}

// bindFamilies binds port for w, on all addresses if w names none.
func (a *Allocator) bindFamilies(ctx context.Context, owner Owner, w Want, port uint16) ([]*Socket, error) {
	b := Binding{Proto: w.Port.Proto(), HostIP: w.HostIP, HostPort: port, Port: w.Port.Num()}
	ips := []netip.Addr{w.HostIP}
	if !w.HostIP.IsValid() {
		ips = []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	}
	var all []*Socket
	undo := cleanup.Make(func() error { return CloseAll(all) })
	defer undo.Run()
	for _, ip := range ips {
		b.HostIP = ip
		way := a.way(w, ip)
		if way == None {
			continue
		}
		b.Forward, b.Route, b.HostPort = way == Forward, way == Route, port
		if b.Route {
			b.HostPort = 0
		}
		s, err := a.bind(ctx, owner, b)
		if len(ips) > 1 && ip.Is6() && (errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL)) {
			break // the host has no IPv6
		}
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("publish %s: the container has no address that the firewall could translate it to, and forwarding is turned off or does not know %s: %w", b, b.Proto, errdefs.ErrFailedPrecondition)
	}
	undo.Release()
	return all, nil
}

// way settles how traffic for ip gets to the container.
func (a *Allocator) way(w Want, ip netip.Addr) Way {
	way := w.V4
	if ip.Is6() {
		way = w.V6
	}
	if way == Auto {
		way = Forward
		if a.cfg.Firewall && ip.Is4() {
			way = Translate
		}
	}
	if way == Forward && (!a.cfg.Forward || w.Port.Proto() == network.SCTP) {
		return None
	}
	return way
}

// bind reserves and binds one port.
func (a *Allocator) bind(ctx context.Context, owner Owner, b Binding) (*Socket, error) {
	s := &Socket{Binding: b, allocator: a, owner: owner}
	if b.Route {
		return s, nil
	}
	if err := a.reserve(owner, b); err != nil {
		return nil, err
	}
	var err error
	lc := net.ListenConfig{}
	lc.SetMultipathTCP(false)
	family := "4"
	if b.HostIP.Is6() {
		family = "6" // sets IPV6_V6ONLY
	}
	addr := netip.AddrPortFrom(b.HostIP, b.HostPort).String()
	switch b.Proto {
	case network.TCP:
		// Listening, not only bound: two sockets may be bound to a port of
		// different addresses, but not if one listens on all.
		s.listener, err = lc.Listen(ctx, "tcp"+family, addr)
	case network.UDP:
		s.packets, err = lc.ListenPacket(ctx, "udp"+family, addr)
	case network.SCTP:
		s.other, err = bindSCTP(b)
	}
	if err != nil {
		a.release(owner, b)
		var errno syscall.Errno
		if errors.As(err, &errno) {
			err = errno
		}
		return nil, fmt.Errorf("failed to bind host port %s: %w", b, err)
	}
	return s, nil
}

// bindSCTP reserves a port of a protocol that package net does not know. A kernel
// without it has nobody to reserve the port from.
func bindSCTP(b Binding) (*os.File, error) {
	family := unix.AF_INET6
	var sa unix.Sockaddr = &unix.SockaddrInet6{Port: int(b.HostPort), Addr: b.HostIP.As16()}
	if b.HostIP.Is4() {
		family, sa = unix.AF_INET, &unix.SockaddrInet4{Port: int(b.HostPort), Addr: b.HostIP.As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
	if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.ESOCKTNOSUPPORT) {
		return nil, nil
	}
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), "sctp")
	if family == unix.AF_INET6 {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			f.Close()
			return nil, os.NewSyscallError("setsockopt", err)
		}
	}
	if err := unix.Bind(fd, sa); err != nil {
		f.Close()
		return nil, os.NewSyscallError("bind", err)
	}
	return f, nil
}

// allocatedError says that a port is held by a container of ours.
type allocatedError struct {
	b     Binding
	owner Owner
}

// Error begins with Docker's text, which clients look for.
func (e *allocatedError) Error() string {
	return fmt.Sprintf("Bind for %s failed: port is already allocated: stop container %s or publish another port",
		netip.AddrPortFrom(e.b.HostIP, e.b.HostPort), e.owner.Name)
}

func (a *Allocator) reserve(owner Owner, b Binding) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	key := protoPort{b.Proto, b.HostPort}
	for _, h := range a.taken[key] {
		if h.ip == b.HostIP || h.ip.Is4() == b.HostIP.Is4() && (h.ip.IsUnspecified() || b.HostIP.IsUnspecified()) {
			return &allocatedError{b, h.owner}
		}
	}
	a.taken[key] = append(a.taken[key], holder{b.HostIP, owner})
	return nil
}

func (a *Allocator) release(owner Owner, b Binding) {
	a.mu.Lock()
	defer a.mu.Unlock()
	key := protoPort{b.Proto, b.HostPort}
	left := slices.DeleteFunc(a.taken[key], func(h holder) bool { return h == holder{b.HostIP, owner} })
	if len(left) == 0 {
		delete(a.taken, key)
	} else {
		a.taken[key] = left
	}
}

// Socket holds one host port.
type Socket struct {
	Binding
	allocator *Allocator
	owner     Owner

	// Exactly one of these is set, none for a route and for SCTP on a kernel
	// without it.
	listener net.Listener
	packets  net.PacketConn
	other    *os.File

	forwarder *forwarder // nil unless it forwards
}

// forwards reports whether this process carries traffic that arrives at b: all of
// it, or what the host sends to ::1, which the kernel does not let out translated.
func (a *Allocator) forwards(b Binding) bool {
	local := b.HostIP.Is6() && (b.HostIP.IsUnspecified() || b.HostIP.IsLoopback()) && !b.Route
	return b.Forward || local && a.cfg.Forward
}

// Serve starts to forward to the container's address, if that is what the
// binding needs. It returns at once; Close stops it. Called again it changes the
// address for connections to come. It must not overlap with itself or Close.
func (s *Socket) Serve(addr netip.Addr) {
	if !s.allocator.forwards(s.Binding) {
		return
	}
	target := netip.AddrPortFrom(addr, s.Port)
	switch {
	case s.forwarder != nil:
		s.forwarder.target.Store(&target)
	case s.listener != nil:
		s.forwarder = forwardTCP(s.listener, target)
	case s.packets != nil:
		s.forwarder = forwardUDP(s.packets.(*net.UDPConn), target)
	}
}

// Close frees the port. It waits for what Serve started, which it ends.
func (s *Socket) Close() error {
	var err error
	switch {
	case s.forwarder != nil:
		err = s.forwarder.close()
	case s.listener != nil:
		err = s.listener.Close()
	case s.packets != nil:
		err = s.packets.Close()
	case s.other != nil:
		err = s.other.Close()
	}
	if !s.Route {
		s.allocator.release(s.owner, s.Binding)
	}
	return err
}

// CloseAll closes all of them.
func CloseAll(sockets []*Socket) error {
	var errs []error
	for _, s := range sockets {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}

// Map returns the bindings as inspect shows them, with the exposed ports that are
// not published.
func Map(bindings []Binding, exposed network.PortSet) network.PortMap {
	m := make(network.PortMap, len(exposed))
	for p := range exposed {
		m[p] = nil
	}
	for _, b := range bindings {
		p, _ := network.PortFrom(b.Port, b.Proto)
		port := ""
		if !b.Route {
			port = strconv.Itoa(int(b.HostPort))
		}
		m[p] = append(m[p], network.PortBinding{HostIP: b.HostIP, HostPort: port})
	}
	return m
}
