package compression

import (
	"io"
	"sync"
)

const (
	readAheadBlock = 512 << 10
	readAheadDepth = 4
)

// ReadAhead reads from r in its own goroutine, a few blocks ahead, so that
// decompression and what is done with the data overlap. The goroutine ends
// before Close returns; r must not block forever.
func ReadAhead(r io.Reader) io.ReadCloser {
	a := &readAhead{
		free: make(chan []byte, readAheadDepth),
		full: make(chan block, readAheadDepth),
		stop: make(chan struct{}),
	}
	for range readAheadDepth {
		a.free <- make([]byte, readAheadBlock)
	}
	a.wg.Go(func() { a.fill(r) })
	return a
}

type block struct {
	buf []byte
	n   int
	err error // after the n bytes
}

type readAhead struct {
	free chan []byte // capacity: all blocks, so that giving one back never blocks
	full chan block  // capacity: all blocks; closed by fill
	stop chan struct{}
	wg   sync.WaitGroup
	once sync.Once

	cur block
	off int
}

func (a *readAhead) fill(r io.Reader) {
	defer close(a.full)
	for {
		var b block
		select {
		case b.buf = <-a.free:
		case <-a.stop:
			return
		}
		for b.n < len(b.buf) && b.err == nil {
			var n int
			n, b.err = r.Read(b.buf[b.n:])
			b.n += n
		}
		a.full <- b
		if b.err != nil {
			return
		}
	}
}

func (a *readAhead) Read(p []byte) (int, error) {
	for a.off == a.cur.n {
		if a.cur.err != nil {
			return 0, a.cur.err
		}
		if a.cur.buf != nil {
			a.free <- a.cur.buf
		}
		b, ok := <-a.full
		if !ok {
			return 0, io.ErrClosedPipe
		}
		a.cur, a.off = b, 0
	}
	n := copy(p, a.cur.buf[a.off:a.cur.n])
	a.off += n
	return n, nil
}

func (a *readAhead) Close() error {
	a.once.Do(func() { close(a.stop) })
	a.wg.Wait()
	return nil
}
