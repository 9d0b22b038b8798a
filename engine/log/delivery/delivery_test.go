package delivery_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	ctrlog "lighter/engine/log"
	"lighter/engine/log/delivery"
)

// frame is a record in the local format.
func frame(i int) []byte {
	text := strconv.Itoa(i)
	msg := append([]byte("\x0a\x06stdout\x10"), binary.AppendUvarint(nil, uint64(1767323045000000000+i))...)
	msg = append(append(msg, 0x1a, byte(len(text))), text...)
	out := binary.BigEndian.AppendUint32(nil, uint32(len(msg)))
	return binary.BigEndian.AppendUint32(append(out, msg...), uint32(len(msg)))
}

func frames(from, to int) []byte {
	var b []byte
	for i := from; i < to; i++ {
		b = append(b, frame(i)...)
	}
	return b
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		t.Fatal(err)
	}
}

// receiver is a Sink that can be down.
type receiver struct {
	mu   sync.Mutex
	cond *sync.Cond
	down bool
	got  []string
}

func newReceiver() *receiver {
	r := &receiver{}
	r.cond = sync.NewCond(&r.mu)
	return r
}

func (r *receiver) open(context.Context) (delivery.Sink, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down {
		return nil, errors.New("down")
	}
	return r, nil
}

// Send takes at most three entries of a batch when it goes down.
func (r *receiver) Send(_ context.Context, entries []ctrlog.Entry) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer r.cond.Broadcast()
	for i, e := range entries {
		if r.down {
			return i, errors.New("down")
		}
		r.got = append(r.got, string(e.Text))
	}
	return len(entries), nil
}

func (r *receiver) Close() error { return nil }

func (r *receiver) set(down bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = down
}

// has waits for n entries and checks that they are those from 0 to n.
func (r *receiver) has(t *testing.T, n int) {
	t.Helper()
	stop := time.AfterFunc(20*time.Second, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.got = append(r.got, "too late")
		r.cond.Broadcast()
	})
	defer stop.Stop()
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.got) < n {
		r.cond.Wait()
	}
	for i, got := range r.got {
		if got != strconv.Itoa(i) {
			t.Fatalf("entry %d is %q: %q", i, got, r.got)
		}
	}
}

func start(t *testing.T, path string, r *receiver, keep int, ended <-chan struct{}) *delivery.Forwarder {
	t.Helper()
	f, err := delivery.Start(delivery.Config{Path: path, Open: r.open, Keep: keep}, nil, ended, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close(0) })
	return f
}

func TestDeliversOnceOverRestartsAndOutages(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.log")
	r := newReceiver()
	running := make(chan struct{})
	write(t, path, frames(0, 10))
	f := start(t, path, r, 0, running)
	r.has(t, 10)
	write(t, path, frames(10, 15))
	r.has(t, 15)
	f.Close(0)

	// While nobody delivers, the log rotates twice, and one file is compressed.
	write(t, path, frames(15, 20))
	var z bytes.Buffer
	zw := gzip.NewWriter(&z)
	zw.Write(frames(0, 20))
	zw.Close()
	write(t, path+".2.gz", z.Bytes())
	os.Remove(path)
	write(t, path+".1", frames(20, 30))
	write(t, path, frames(30, 35))
	r.set(true)
	f = start(t, path, r, 0, running)
	r.set(false)
	r.has(t, 35)

	// The torn end of a record waits for its rest.
	next := frame(35)
	write(t, path, next[:5])
	write(t, path, next[5:])
	r.has(t, 36)
	write(t, path, frames(36, 40))
	close(running)
	<-f.Done()
	r.has(t, 40)
}

func TestKeepMakesRoomForAHeldLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.log")
	write(t, path+".2", frames(0, 5))
	write(t, path+".1", frames(5, 10))
	write(t, path, frames(10, 15))
	r := newReceiver()
	ended := make(chan struct{})
	close(ended)
	<-start(t, path, r, 3, ended).Done()
	r.has(t, 15)
	if _, err := os.Stat(path + ".2"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the delivered file that is over the number kept: %v", err)
	}
	if _, err := os.Stat(path + ".1"); err != nil {
		t.Errorf("a file within the number kept: %v", err)
	}
}

func TestLostFilesStartAtTheOldest(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.log")
	write(t, path, frames(100, 105))
	r := newReceiver()
	ended := make(chan struct{})
	close(ended)
	<-start(t, path, r, 0, ended).Done()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	write(t, path, frames(0, 5))
	r.got = nil
	<-start(t, path, r, 0, ended).Done()
	r.has(t, 5)
	// A damaged cursor delivers all again.
	if err := os.WriteFile(path+".delivered", []byte(fmt.Sprintf("%036d", 0)), 0o600); err != nil {
		t.Fatal(err)
	}
	r.got = nil
	<-start(t, path, r, 0, ended).Done()
	r.has(t, 5)
}
