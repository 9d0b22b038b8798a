package image

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"

	"github.com/containerd/containerd/v2/core/content"

	"lighter/containerd"
)

// arrival is a blob that is being fetched, as those see it who read it meanwhile.
// They read the file that the store writes to, out of the page cache: nothing is
// held in memory, a slow reader holds up no fetch, and bytes that an earlier,
// interrupted pull left are read like those that follow.
type arrival struct {
	mu      sync.Mutex    // guards the fields below
	changed chan struct{} // closed and replaced when something has changed
	file    *os.File      // nil until there is one, and if the store can't be followed
	retired []*os.File    // files of attempts that were given up
	size    int64         // bytes of file that are there
	version int           // of the bytes, counts how often they were begun anew
	over    bool          // the fetch has ended
	err     error         // how
}

// errAnew tells a reader that the bytes it has read are not those of the blob:
// the fetch began anew.
var errAnew = errors.New("the blob is fetched anew")

func newArrival() *arrival { return &arrival{changed: make(chan struct{})} }

func (a *arrival) change(f func()) {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
	close(a.changed)
	a.changed = make(chan struct{})
}

// begin follows w, which has size bytes.
func (a *arrival) begin(w content.Writer, size int64) {
	f, ok := w.(containerd.Follower)
	if a == nil || !ok {
		return
	}
	file, err := f.Follow()
	if err != nil {
		return // readers wait for the end and take the stored blob
	}
	a.change(func() {
		if a.file != nil && size >= a.size && sameFile(a.file, file) {
			file.Close() // the fetch goes on where it stopped
			a.size = size
			return
		}
		if a.file != nil {
			a.retired = append(a.retired, a.file)
			a.version++
		}
		a.file, a.size = file, size
	})
}

func sameFile(a, b *os.File) bool {
	x, err := a.Stat()
	if err != nil {
		return false
	}
	y, err := b.Stat()
	return err == nil && os.SameFile(x, y)
}

// advance says that there are size bytes.
func (a *arrival) advance(size int64) { a.change(func() { a.size = size }) }

// restart says that the bytes that were there are void.
func (a *arrival) restart() { a.change(func() { a.size, a.version = 0, a.version+1 }) }

// end says that the fetch has ended: without an error the blob is in the store.
func (a *arrival) end(err error) { a.change(func() { a.over, a.err = true, err }) }

// wait returns when the fetch has ended, with its error.
func (a *arrival) wait(ctx context.Context) error {
	for {
		a.mu.Lock()
		over, err, changed := a.over, a.err, a.changed
		a.mu.Unlock()
		if over {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// reader returns a reader of the bytes as they come, or nil if they have to be
// read from the store, where they are then. It waits until that is known.
func (a *arrival) reader(ctx context.Context) (io.Reader, error) {
	for {
		a.mu.Lock()
		following, over, err, changed, version := a.file != nil, a.over, a.err, a.changed, a.version
		a.mu.Unlock()
		switch {
		case err != nil:
			return nil, err
		case following:
			return &arrivalReader{ctx: ctx, a: a, version: version}, nil
		case over:
			return nil, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// close frees the files. No reader may be in use any more.
func (a *arrival) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, f := range append(a.retired, a.file) {
		if f != nil {
			f.Close() // it was only read
		}
	}
	a.file, a.retired = nil, nil
}

type arrivalReader struct {
	ctx     context.Context // of the unpacking that reads
	a       *arrival
	version int
	offset  int64
}

// Read waits for bytes. It ends with errAnew when those read before are void.
func (r *arrivalReader) Read(p []byte) (int, error) {
	for {
		r.a.mu.Lock()
		file, size, version := r.a.file, r.a.size, r.a.version
		over, err, changed := r.a.over, r.a.err, r.a.changed
		r.a.mu.Unlock()
		switch {
		case version != r.version:
			return 0, errAnew
		case r.offset < size:
			n, err := file.ReadAt(p[:min(int64(len(p)), size-r.offset)], r.offset)
			r.offset += int64(n)
			if n > 0 {
				return n, nil
			}
			if errors.Is(err, io.EOF) {
				return 0, errAnew // it was cut after the lock was given up
			}
			return 0, err
		case err != nil:
			return 0, err
		case over:
			return 0, io.EOF
		}
		select {
		case <-changed:
		case <-r.ctx.Done():
			return 0, context.Cause(r.ctx)
		}
	}
}
