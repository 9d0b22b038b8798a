// Package dns is the name server inside a container's network namespace: it
// answers for the containers on the same networks and passes everything else on
// to the servers of the host or of the container's request.
//
// The sockets are opened inside the namespace, on 127.0.0.11 and ports that the
// kernel chooses; a rule in the namespace leads port 53 there, so that the
// container may run a server of its own on port 53 of all addresses. Nothing
// else of it is in the container.
//
// What the container sends is hostile: messages are parsed once, by
// golang.org/x/net/dns/dnsmessage, which allocates little; the number of queries
// and streams that one container keeps open is bounded.
package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"lighter/internal/linux/netns"
)

// Addr is the server's address in every container that has one.
var Addr = netip.AddrFrom4([4]byte{127, 0, 0, 11})

const (
	// maxForwards bounds the queries of one container that wait for an answer
	// of another server. More are refused.
	maxForwards = 1024
	// maxStreams bounds the TCP connections of one container.
	maxStreams = 128
	// streamIdle is how long a TCP connection may be silent (RFC 7766 section 6.2.3).
	streamIdle = 10 * time.Second
	maxMessage = 1<<16 - 1
	// minMessage is what every client takes over UDP (RFC 1035 section 4.2.1).
	minMessage = 512
	// acceptPause follows a failure to accept, for example for want of descriptors.
	acceptPause = 50 * time.Millisecond
)

// Names is what the server answers for itself. Its methods must not block.
type Names interface {
	// Lookup returns the addresses of a name, which is in lower case and has no
	// dot at its end. known says that the name is one of ours, though it may have
	// no address of the family asked for.
	Lookup(name string) (addrs []netip.Addr, known bool)
	// Reverse returns the name of an address, "" if it is none of ours.
	Reverse(addr netip.Addr) string
}

// Upstream is a server that queries are passed on to.
type Upstream struct {
	Addr netip.AddrPort
	// Host means that it is asked from the host's network namespace, else from
	// the container's.
	Host bool
}

// Config is how a Server behaves.
type Config struct {
	Names Names
	// Upstreams returns the servers to ask, in order. It is called for every query
	// that is passed on and must not block.
	Upstreams func() []Upstream
	// KeepBare keeps names without a dot from being passed on: the container
	// asked for its own ndots and will try its search domains.
	KeepBare bool
	Log      *slog.Logger
}

// Server is a running name server.
type Server struct {
	cfg Config
	ns  *os.File // the container's namespace
	udp *net.UDPConn
	tcp net.Listener

	ctx  context.Context // ends with Close
	stop context.CancelFunc
	wg   sync.WaitGroup

	forwards, streams chan struct{} // semaphores
}

// Listen starts a server in the network namespace ns, whose loopback link must be
// up. ns stays the caller's; the server keeps the namespace until Close.
//
// It returns when queries are answered. A server that another process left behind
// is replaced.
func Listen(ns *os.File, cfg Config) (*Server, error) {
	own, err := dup(ns)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background()) // the lifetime of the server
	s := &Server{cfg: cfg, ns: own, ctx: ctx, stop: stop,
		forwards: make(chan struct{}, maxForwards), streams: make(chan struct{}, maxStreams)}
	if err := netns.Do(ns, s.open); err != nil {
		err = errors.Join(err, s.closeSockets(), own.Close())
		stop()
		return nil, err
	}
	s.wg.Go(s.serveUDP)
	s.wg.Go(s.serveTCP)
	return s, nil
}

// dup returns a second descriptor of the same namespace.
func dup(ns *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(ns.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), ns.Name()), nil
}

// open opens the sockets and leads port 53 to them. It runs in the namespace.
func (s *Server) open() error {
	if err := s.bind(0); err != nil {
		return err
	}
	err := redirect(portOf(s.udp.LocalAddr()), portOf(s.tcp.Addr()))
	if err == nil {
		return nil
	}
	// A kernel without nftables: the container cannot use the port itself then.
	s.cfg.Log.Debug("name server takes port 53 itself", "err", err)
	s.closeSockets()
	return s.bind(53)
}

// bind opens the sockets; port 0 lets the kernel choose.
func (s *Server) bind(port uint16) error {
	lc := net.ListenConfig{}
	lc.SetMultipathTCP(false)
	addr := netip.AddrPortFrom(Addr, port).String()
	pc, err := lc.ListenPacket(s.ctx, "udp4", addr)
	if err != nil {
		return err
	}
	s.udp = pc.(*net.UDPConn)
	s.tcp, err = lc.Listen(s.ctx, "tcp4", addr)
	return err
}

func portOf(a net.Addr) uint16 {
	ap, _ := netip.ParseAddrPort(a.String())
	return ap.Port()
}

// Close stops the server, waits for what it does and lets go of the namespace.
func (s *Server) Close() error {
	s.stop()
	err := s.closeSockets()
	s.wg.Wait()
	return errors.Join(err, s.ns.Close())
}

func (s *Server) closeSockets() error {
	var errs []error
	if s.udp != nil {
		errs = append(errs, s.udp.Close())
	}
	if s.tcp != nil {
		errs = append(errs, s.tcp.Close())
	}
	return errors.Join(errs...)
}

func (s *Server) serveUDP() {
	buf := make([]byte, maxMessage)
	for {
		n, client, err := s.udp.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) || s.ctx.Err() != nil {
			return
		}
		if err != nil {
			continue // an ICMP error for an answer
		}
		reply := func(b []byte) { s.udp.WriteToUDPAddrPort(b, client) } // like the network, this may lose it
		s.handle(buf[:n], "udp", reply)
	}
}

func (s *Server) serveTCP() {
	for {
		c, err := s.tcp.Accept()
		if errors.Is(err, net.ErrClosed) || s.ctx.Err() != nil {
			return
		}
		if err != nil {
			select {
			case <-s.ctx.Done():
				return
			case <-time.After(acceptPause):
			}
			continue
		}
		select {
		case s.streams <- struct{}{}:
		default:
			c.Close()
			continue
		}
		s.wg.Go(func() {
			defer func() { <-s.streams }()
			s.serveStream(c)
		})
	}
}

// serveStream answers the queries of one TCP connection, which may overlap.
func (s *Server) serveStream(c net.Conn) {
	defer c.Close()
	defer context.AfterFunc(s.ctx, func() { c.Close() })()
	var mu sync.Mutex // serialises answers
	reply := func(b []byte) {
		mu.Lock()
		defer mu.Unlock()
		c.SetWriteDeadline(time.Now().Add(streamIdle))
		if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)); err != nil {
			c.Close()
		}
	}
	var size [2]byte
	for {
		c.SetReadDeadline(time.Now().Add(streamIdle))
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return
		}
		buf := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(c, buf); err != nil {
			return
		}
		s.handle(buf, "tcp", reply)
	}
}
