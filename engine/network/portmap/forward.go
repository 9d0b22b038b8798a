package portmap

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// dialTimeout bounds the connection to a container.
	dialTimeout = 10 * time.Second
	// acceptPause follows a failure to accept, for example for want of descriptors.
	acceptPause = 50 * time.Millisecond
	// maxStreams and maxFlows bound what one port may hold open. Connections
	// beyond wait in the kernel's queue, datagrams of new flows are dropped.
	maxStreams = 4096
	maxFlows   = 1024
	// flowIdle is the time after which a UDP flow is forgotten (as docker-proxy).
	flowIdle = 90 * time.Second
	// maxDatagram is the largest payload of UDP.
	maxDatagram = 65507
)

// forwarder carries the traffic of one socket.
type forwarder struct {
	stop   context.CancelFunc
	sock   io.Closer
	target atomic.Pointer[netip.AddrPort]
	wg     sync.WaitGroup
}

// close ends all connections and waits for the goroutines.
func (f *forwarder) close() error {
	f.stop()
	err := f.sock.Close()
	f.wg.Wait()
	return err
}

// forwardTCP accepts from l, which it owns from here on.
func forwardTCP(l net.Listener, target netip.AddrPort) *forwarder {
	ctx, stop := context.WithCancel(context.Background()) // the lifetime of the forwarder
	f := &forwarder{stop: stop, sock: l}
	f.target.Store(&target)
	slots := make(chan struct{}, maxStreams)
	f.wg.Go(func() {
		for {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			c, err := l.Accept()
			if err != nil {
				<-slots
				select {
				case <-ctx.Done():
					return
				case <-time.After(acceptPause):
				}
				if errors.Is(err, net.ErrClosed) {
					return
				}
				continue
			}
			f.wg.Go(func() {
				defer func() { <-slots }()
				stream(ctx, c.(*net.TCPConn), *f.target.Load())
			})
		}
	})
	return f
}

// stream joins client to target until both directions ended or ctx is done.
func stream(ctx context.Context, client *net.TCPConn, target netip.AddrPort) {
	defer client.Close()
	d := net.Dialer{Timeout: dialTimeout}
	d.SetMultipathTCP(false)
	c, err := d.DialContext(ctx, "tcp", target.String())
	if err != nil {
		// The client sees a reset, as from a host where nobody listens.
		client.SetLinger(0)
		return
	}
	server := c.(*net.TCPConn)
	defer server.Close()
	defer context.AfterFunc(ctx, func() { client.Close(); server.Close() })()

	var wg sync.WaitGroup
	wg.Go(func() { half(server, client) })
	half(client, server)
	wg.Wait()
}

// half copies from src to dst and passes on the end of the stream.
func half(dst, src *net.TCPConn) {
	if _, err := io.Copy(dst, src); err != nil {
		// A connection that broke in one direction is over in both.
		dst.Close()
		src.Close()
		return
	}
	dst.CloseWrite()
}

// flow is one UDP client and the address of the host that it talks to.
type flow struct{ client, host netip.AddrPort }

// forwardUDP reads from c, which it owns from here on.
func forwardUDP(c *net.UDPConn, target netip.AddrPort) *forwarder {
	ctx, stop := context.WithCancel(context.Background()) // the lifetime of the forwarder
	u := &udpForwarder{sock: c, flows: make(map[flow]*net.UDPConn), forwarder: &forwarder{stop: stop, sock: c}}
	u.target.Store(&target)
	wantDestination(c)
	u.wg.Go(func() { u.run(ctx) })
	return u.forwarder
}

type udpForwarder struct {
	*forwarder
	sock *net.UDPConn

	mu    sync.Mutex // guards flows
	flows map[flow]*net.UDPConn
}

func (u *udpForwarder) run(ctx context.Context) {
	defer func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		for _, c := range u.flows {
			c.Close()
		}
	}()
	buf, oob := make([]byte, maxDatagram), make([]byte, 256)
	for {
		n, oobn, _, client, err := u.sock.ReadMsgUDPAddrPort(buf, oob)
		if errors.Is(err, net.ErrClosed) || ctx.Err() != nil {
			return
		}
		if err != nil {
			continue // an ICMP error for a reply
		}
		host, control := destination(oob[:oobn])
		if c := u.flow(ctx, flow{client, host}, control); c != nil {
			c.Write(buf[:n]) // like the network, this may lose it
		}
	}
}

// flow returns the connection of k to the container, or nil if there are too many.
func (u *udpForwarder) flow(ctx context.Context, k flow, control []byte) *net.UDPConn {
	u.mu.Lock()
	defer u.mu.Unlock()
	if c := u.flows[k]; c != nil {
		c.SetReadDeadline(time.Now().Add(flowIdle))
		return c
	}
	if len(u.flows) >= maxFlows || ctx.Err() != nil {
		return nil
	}
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(*u.target.Load()))
	if err != nil {
		return nil
	}
	c.SetReadDeadline(time.Now().Add(flowIdle))
	u.flows[k] = c
	u.wg.Go(func() {
		u.replies(k, c, control)
		c.Close()
		u.mu.Lock()
		defer u.mu.Unlock()
		delete(u.flows, k)
	})
	return c
}

// replies passes what the container answers back to the client, from the address
// that the client sent to.
func (u *udpForwarder) replies(k flow, c *net.UDPConn, control []byte) {
	buf := make([]byte, maxDatagram)
	for {
		n, err := c.Read(buf)
		if errors.Is(err, unix.ECONNREFUSED) {
			continue // the container does not listen, yet
		}
		if err != nil {
			return
		}
		c.SetReadDeadline(time.Now().Add(flowIdle))
		u.sock.WriteMsgUDPAddrPort(buf[:n], control, k.client)
	}
}

// wantDestination makes the kernel tell the destination of each datagram. Without
// it replies have the address that the kernel prefers, which is mostly right.
func wantDestination(c *net.UDPConn) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) {
		unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
		unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
	})
}

// destination returns the host's address in the control messages of a datagram,
// and control messages that make a reply come from it.
func destination(oob []byte) (netip.AddrPort, []byte) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return netip.AddrPort{}, nil
	}
	for _, m := range msgs {
		switch {
		case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_PKTINFO && len(m.Data) >= unix.SizeofInet6Pktinfo:
			var info unix.Inet6Pktinfo
			copy(info.Addr[:], m.Data)
			addr := netip.AddrFrom16(info.Addr)
			return netip.AddrPortFrom(addr, 0), unix.PktInfo6(&info)
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= unix.SizeofInet4Pktinfo:
			var info unix.Inet4Pktinfo
			copy(info.Spec_dst[:], m.Data[4:8])
			return netip.AddrPortFrom(netip.AddrFrom4(info.Spec_dst), 0), unix.PktInfo4(&info)
		}
	}
	return netip.AddrPort{}, nil
}
