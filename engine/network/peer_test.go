package network

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The tests that need root run in network namespaces of their own: TestMain
// executes the test binary again, in a new one that plays the host. Containers
// and other hosts are further copies, each in its own namespace, that do what
// they are told on standard input (see peerMain).
const (
	roleVar  = "LIGHTER_NETWORK_TEST_ROLE"
	roleHost = "host"
	rolePeer = "peer"
)

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(roleVar) == rolePeer:
		peerMain()
		os.Exit(0)
	case os.Getenv(roleVar) == roleHost:
		if err := loopbackUp(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	case os.Geteuid() != 0:
		os.Exit(m.Run()) // the tests that need root skip themselves
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), roleVar+"="+roleHost)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		os.Exit(exit.ExitCode())
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getenv(roleVar) != roleHost {
		t.Skip("needs root, to make network namespaces")
	}
}

func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// peer is a process in its own network namespace.
type peer struct {
	t    testing.TB
	name string
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
}

// startPeer starts a process in a new network namespace; it ends with the test.
func startPeer(t testing.TB, name string) *peer {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleVar+"="+rolePeer)
	cmd.Stderr = os.Stderr
	// The signal comes when the thread that forked ends, which therefore must not.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &peer{t: t, name: name, cmd: cmd, in: in, out: bufio.NewReader(out)}
	t.Cleanup(p.stop)
	p.do("ping")
	return p
}

func (p *peer) pid() int { return p.cmd.Process.Pid }

// stop ends the process and with it, soon, its namespace.
func (p *peer) stop() {
	if p.in == nil {
		return
	}
	p.in.Close()
	p.in = nil
	p.cmd.Process.Kill()
	p.cmd.Wait()
}

// try has the peer do something and returns its answer.
func (p *peer) try(format string, args ...any) (string, error) {
	p.t.Helper()
	if _, err := fmt.Fprintf(p.in, format+"\n", args...); err != nil {
		p.t.Fatalf("%s: %v", p.name, err)
	}
	line, err := p.out.ReadString('\n')
	if err != nil {
		p.t.Fatalf("%s: %v", p.name, err)
	}
	line = strings.TrimSpace(line)
	if text, failed := strings.CutPrefix(line, "error "); failed {
		return "", errors.New(text)
	}
	return strings.TrimPrefix(line, "ok "), nil
}

// do is try that must succeed.
func (p *peer) do(format string, args ...any) string {
	p.t.Helper()
	s, err := p.try(format, args...)
	if err != nil {
		p.t.Fatalf("%s: %s: %v", p.name, fmt.Sprintf(format, args...), err)
	}
	return s
}

// peerMain obeys one command per line:
//
//	ping
//	addr LINK PREFIX [GATEWAY]   configure a link
//	route PREFIX GATEWAY
//	serve NETWORK PORT NAME      answer every stream or datagram with "NAME sees ADDR"
//	ask NETWORK ADDR:PORT        print the answer of such a server
//	tell ADDR:PORT FROM          send a datagram from the address FROM
//	loopback-via LINK GATEWAY    send what is for loopback addresses elsewhere, from LINK's address
//	lookup NAME TYPE [SERVER]    ask a name server, 127.0.0.11 unless said, print what it answers
//	lookup-tcp NAME TYPE [SERVER]
//	read PATH                    print a file
//	links                        print names, hardware and IP addresses, and the default gateway
func peerMain() {
	if err := loopbackUp(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		s, err := obey(strings.Fields(in.Text()))
		if err != nil {
			fmt.Println("error", strings.ReplaceAll(err.Error(), "\n", " "))
		} else {
			fmt.Println("ok", s)
		}
	}
}

func obey(f []string) (string, error) {
	switch f[0] {
	case "ping":
		return "", nil
	case "addr":
		link, err := netlink.LinkByName(f[1])
		if err != nil {
			return "", err
		}
		addr, err := netlink.ParseAddr(f[2])
		if err != nil {
			return "", err
		}
		addr.Flags = unix.IFA_F_NODAD // waits a second for IPv6
		if err := errors.Join(netlink.AddrAdd(link, addr), netlink.LinkSetUp(link)); err != nil {
			return "", err
		}
		if len(f) > 3 {
			return "", netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(f[3])})
		}
		return "", nil
	case "route":
		_, dst, err := net.ParseCIDR(f[1])
		if err != nil {
			return "", err
		}
		return "", netlink.RouteReplace(&netlink.Route{Dst: dst, Gw: net.ParseIP(f[2])})
	case "serve":
		return "", serve(f[1], f[2], f[3])
	case "ask":
		return ask(f[1], f[2])
	case "tell":
		d := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(f[2])}}
		c, err := d.Dial("udp4", f[1])
		if err != nil {
			return "", err
		}
		defer c.Close()
		_, err = c.Write([]byte("!"))
		return "", err
	case "loopback-via":
		return "", loopbackVia(f[1], f[2])
	case "read":
		b, err := os.ReadFile(f[1])
		return strings.TrimSpace(string(b)), err
	case "lookup":
		return lookup("udp", f[1:])
	case "lookup-tcp":
		return lookup("tcp", f[1:])
	case "links":
		return describeLinks()
	}
	return "", fmt.Errorf("unknown command %q", f)
}

// loopbackVia makes this host one that its neighbours must be protected from.
func loopbackVia(name, gw string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	for _, l := range []string{name, "all"} {
		if err := os.WriteFile("/proc/sys/net/ipv4/conf/"+l+"/route_localnet", []byte("1"), 0); err != nil {
			return err
		}
	}
	_, dst, _ := net.ParseCIDR("127.0.0.0/8")
	err = netlink.RouteDel(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: dst, Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Scope: unix.RT_SCOPE_HOST})
	one := &net.IPNet{IP: net.IPv4(127, 0, 0, 1), Mask: net.CIDRMask(32, 32)}
	err = errors.Join(err, netlink.RouteDel(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: one, Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Scope: unix.RT_SCOPE_HOST}))
	if err != nil {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: dst, Gw: net.ParseIP(gw)})
}

func serve(network, port, name string) error {
	if strings.HasPrefix(network, "tcp") {
		l, err := net.Listen(network, ":"+port)
		if err != nil {
			return err
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
				fmt.Fprintf(c, "%s sees %s", name, host)
				c.Close()
			}
		}()
		return nil
	}
	pc, err := net.ListenPacket(network, ":"+port)
	if err != nil {
		return err
	}
	go func() {
		buf := make([]byte, 100)
		for {
			_, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(from.String())
			pc.WriteTo(fmt.Appendf(nil, "%s sees %s", name, host), from)
		}
	}()
	return nil
}

// askTimeout bounds the wait for what should not answer, too.
const askTimeout = 700 * time.Millisecond

func ask(network, addr string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(askTimeout))
	if strings.HasPrefix(network, "udp") {
		c.Write([]byte("?"))
		buf := make([]byte, 100)
		n, err := c.Read(buf)
		return string(buf[:n]), err
	}
	b, err := io.ReadAll(io.LimitReader(c, 100))
	if err == nil && len(b) == 0 {
		err = io.ErrUnexpectedEOF
	}
	return string(b), err
}

func describeLinks() (string, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return "", err
	}
	var out []string
	for _, l := range links {
		if l.Attrs().Flags&net.FlagUp == 0 {
			continue
		}
		addrs, err := netlink.AddrList(l, unix.AF_UNSPEC)
		if err != nil {
			return "", err
		}
		s := l.Attrs().Name
		if len(l.Attrs().HardwareAddr) > 0 && s != "lo" {
			s += "=" + l.Attrs().HardwareAddr.String()
		}
		for _, a := range addrs {
			s += "," + a.IPNet.String()
		}
		out = append(out, s)
	}
	routes, err := netlink.RouteList(nil, unix.AF_UNSPEC)
	if err != nil {
		return "", err
	}
	for _, r := range routes {
		if ones := r.Dst; ones == nil || ones.IP.IsUnspecified() {
			out = append(out, "via="+r.Gw.String())
		}
	}
	return strings.Join(out, " "), nil
}
