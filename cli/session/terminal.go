package session

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/client"
	"golang.org/x/term"
)

// Streams says how a hijacked connection meets the terminal.
type Streams struct {
	TTY        bool // raw bytes; else frames
	Stdin      bool
	Stdout     bool
	Stderr     bool
	DetachKeys string
}

// Pump copies between conn and the session's streams until the output has
// ended, or with nothing but input until that has. With a terminal on both
// sides the local one is raw meanwhile and restored on return.
func (s *Session) Pump(ctx context.Context, conn client.HijackedResponse, st Streams) error {
	defer conn.Close()
	if st.TTY && st.Stdin && s.InIsTerminal() {
		restore, err := s.makeRaw()
		if err != nil {
			return err
		}
		defer restore()
	}
	inputDone := make(chan error, 1)
	if st.Stdin {
		go func() { // ends with the program at the latest: a read of a terminal can't be cancelled
			_, err := io.Copy(conn.Conn, s.In)
			conn.CloseWrite()
			inputDone <- err
		}()
	} else if err := conn.CloseWrite(); err != nil {
		return err
	}
	outputDone := make(chan error, 1)
	go func() { outputDone <- s.copyOutput(conn.Reader, st) }()
	if !st.Stdout && !st.Stderr {
		select {
		case err := <-inputDone:
			return err
		case err := <-outputDone:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	select {
	case err := <-outputDone:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *Session) copyOutput(r io.Reader, st Streams) error {
	stdout, stderr := io.Discard, io.Discard
	if st.Stdout {
		stdout = s.Out
	}
	if st.Stderr {
		stderr = s.Err
	}
	if st.TTY {
		_, err := io.Copy(stdout, r)
		return err
	}
	_, err := stdcopy.StdCopy(stdout, stderr, r)
	return err
}

func (s *Session) makeRaw() (restore func(), err error) {
	fd := int(s.In.Fd())
	state, err := term.MakeRaw(fd)
	if err != nil {
		return nil, err
	}
	return func() { term.Restore(fd, state) }, nil
}

// WatchSize calls resize with the terminal's size now and whenever it changes,
// until ctx ends.
func (s *Session) WatchSize(ctx context.Context, resize func(height, width uint)) {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGWINCH)
	defer signal.Stop(changed)
	for {
		if h, w := s.Size(); h != 0 && w != 0 {
			resize(h, w)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// ForwardSignals calls send with the name of every signal that this process
// receives, until stop is called. Signals that concern the command line itself
// stay here.
func ForwardSignals(send func(name string)) (stop func()) {
	ch := make(chan os.Signal, 128)
	signal.Notify(ch)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for sig := range ch {
			switch sig {
			case syscall.SIGCHLD, syscall.SIGPIPE, syscall.SIGURG, syscall.SIGWINCH:
				continue
			}
			if n, ok := sig.(syscall.Signal); ok {
				send(signalName(n))
			}
		}
	}()
	return func() {
		signal.Stop(ch)
		close(ch)
		<-done
	}
}
