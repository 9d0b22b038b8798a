package stdio

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"lighter/shim/log"
)

// fifoSink writes each stream to the fifo, or file, that the client named.
type fifoSink struct {
	files [2]*os.File
}

// openFifos opens the fifos for output; an empty path is no output.
func openFifos(stdout, stderr string) (*fifoSink, error) {
	s := &fifoSink{}
	for i, path := range []string{stdout, stderr} {
		if path == "" {
			continue
		}
		// Opened for both, a fifo neither waits for the client's end nor
		// breaks when that goes away while no daemon runs.
		f, err := openFifo(path, unix.O_RDWR|unix.O_NONBLOCK)
		if errors.Is(err, errNotFifo) {
			f, err = openAppend(path)
		}
		if err != nil {
			s.close()
			return nil, fmt.Errorf("open %s: %w", log.Stream(i), err)
		}
		s.files[i] = f
	}
	return s, nil
}

func (s *fifoSink) write(stream log.Stream, p []byte) {
	s.files[stream].Write(p) // an error is the client's: it closed a file or was aborted
}

// end closes the fifo, which is the end that the client waits for.
func (s *fifoSink) end(stream log.Stream) { s.files[stream].Close() }

func (s *fifoSink) processExited()        {}
func (s *fifoSink) flush(context.Context) {}

// abort interrupts a write to a fifo that nobody reads.
func (s *fifoSink) abort() {
	for _, f := range s.files {
		if f != nil {
			f.SetWriteDeadline(time.Unix(1, 0))
		}
	}
}

func (s *fifoSink) close() { closeAll(s.files[:]...) }

// fileSink appends both streams to one file.
type fileSink struct {
	mu sync.Mutex // keeps chunks whole
	f  *os.File
}

func openFileSink(path string) (*fileSink, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("open stdout: %w", err)
	}
	f, err := openAppend(path)
	if err != nil {
		return nil, fmt.Errorf("open stdout: %w", err)
	}
	return &fileSink{f: f}, nil
}

func (s *fileSink) write(_ log.Stream, p []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.f.Write(p) // a full disk must not stop the process
}

func (s *fileSink) end(log.Stream)        {}
func (s *fileSink) processExited()        {}
func (s *fileSink) flush(context.Context) {}
func (s *fileSink) abort()                {}
func (s *fileSink) close()                { s.f.Close() }

var errNotFifo = errors.New("not a fifo")

// openFifo opens the fifo at path. Something else there is errNotFifo.
func openFifo(path string, flags int) (*os.File, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if fi.Mode()&os.ModeNamedPipe == 0 {
		return nil, &os.PathError{Op: "open", Path: path, Err: errNotFifo}
	}
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO {
		unix.Close(fd)
		return nil, &os.PathError{Op: "open", Path: path, Err: errors.Join(err, errNotFifo)}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// openAppend opens a file for output. It does not wait for a device or fifo.
func openAppend(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|syscall.O_NONBLOCK, 0o644)
}
