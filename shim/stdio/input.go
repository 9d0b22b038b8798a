package stdio

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// input is the writing side of a process's standard input: a pipe or the
// console. The zero value is input that is not open yet.
type input struct {
	mu     sync.Mutex // guards the fields below
	cond   *sync.Cond // open or closed changed; made with waitOpen
	file   *os.File
	owned  bool // close ends the file; a console outlives its input
	closed bool

	// With a fifo: keeper is a writer of ours that keeps a client's
	// leaving from ending the input, until CloseStdin.
	keeper *os.File
	fifo   *os.File
	reader sync.WaitGroup
}

// open gives the input its file. Writers that came before go on.
func (in *input) open(f *os.File, owned bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closed {
		if owned {
			f.Close()
		}
		return
	}
	in.file, in.owned = f, owned
	if in.cond != nil {
		in.cond.Broadcast()
	}
}

// waitOpen returns the file, nil if the input is closed.
func (in *input) waitOpen() *os.File {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.cond == nil {
		in.cond = sync.NewCond(&in.mu)
	}
	for in.file == nil && !in.closed {
		in.cond.Wait()
	}
	if in.closed {
		return nil
	}
	return in.file
}

// write passes p to the process, waiting for it to be read. It reports whether
// the input is still open.
func (in *input) write(p []byte) bool {
	f := in.waitOpen()
	if f == nil {
		return false
	}
	// One Write call is not interleaved with those of other writers.
	_, err := f.Write(p)
	return err == nil
}

// readFifo starts carrying from the fifo at path.
func (in *input) readFifo(path string, deps Deps) error {
	// A fifo without a writer reads as ended; the keeper, opened before the
	// first read, prevents that.
	f, err := openFifo(path, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return fmt.Errorf("open stdin: %w", err)
	}
	keeper, err := openFifo(path, unix.O_WRONLY|unix.O_NONBLOCK)
	if err != nil {
		f.Close()
		return fmt.Errorf("open stdin: %w", err)
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closed {
		return closeAll(f, keeper)
	}
	in.fifo, in.keeper = f, keeper
	in.startReaderLocked(deps)
	return nil
}

// startReaderLocked carries from the fifo to the process.
func (in *input) startReaderLocked(deps Deps) {
	f := in.fifo
	in.reader.Go(func() {
		src := source{f: f, gate: deps.Gate}
		src.copy(func(p []byte) {
			deps.Busy()
			if !in.write(p) {
				src.stop()
			}
		})
		deps.Gate.Enter()
		defer deps.Gate.Leave()
		src.close()
		in.end()
	})
}

// closeWhenUnused ends the input, for a fifo as soon as the last writer leaves.
func (in *input) closeWhenUnused() {
	in.mu.Lock()
	keeper := in.keeper
	in.keeper = nil
	in.mu.Unlock()
	if keeper != nil {
		keeper.Close()
		return
	}
	in.end()
}

// end closes the process's input; a console stays open.
func (in *input) end() {
	in.mu.Lock()
	console := in.file != nil && !in.owned
	in.mu.Unlock()
	if !console {
		in.close()
	}
}

// close closes the input, and with it ends the fifo's reader.
func (in *input) close() {
	in.mu.Lock()
	file, keeper, fifo, owned := in.file, in.keeper, in.fifo, in.owned
	in.file, in.keeper, in.fifo, in.closed = nil, nil, nil, true
	if in.cond != nil {
		in.cond.Broadcast()
	}
	in.mu.Unlock()
	if file != nil && owned {
		file.Close()
	}
	closeAll(keeper, fifo)
}
