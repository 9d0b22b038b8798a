// Package delivery carries the output of a container from its log file to where
// a log driver sends it.
//
// The shim writes the file, whatever the driver. A Forwarder reads it behind the
// shim, hands batches to a Sink, and after each success writes down how far it
// has come, beside the log: what the file holds is delivered at least once, over
// outages of the receiver and the end of this process. After a crash the last
// batch may be delivered twice. See docs/design/006-log-delivery.md.
package delivery

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"time"

	ctrlog "lighter/engine/log"
)

// Sink is a connection to a receiver of log entries.
type Sink interface {
	// Send delivers entries in their order and returns how many the receiver
	// has. After an error the sink is closed and another one is opened.
	Send(ctx context.Context, entries []ctrlog.Entry) (int, error)
	io.Closer
}

// Config is what a Forwarder carries where.
type Config struct {
	Path string // of the log, in the format "local"
	// Open connects to the receiver.
	Open func(ctx context.Context) (Sink, error)
	// Keep is how many files of the log stay when they have been delivered, the
	// live one included; 0 for as many as the shim makes.
	Keep int
	// BatchBytes bounds one Send, in bytes of text; 0 means 256 KiB.
	BatchBytes int
	// Linger is how long more entries are waited for after the first of a
	// batch, and MaxEntries how many end that wait, for receivers that want few
	// and large requests. 0 is no wait.
	Linger     time.Duration
	MaxEntries int
}

const defaultBatch = 256 << 10

// Bounds of the pause after a failure, which doubles.
const (
	minPause = 100 * time.Millisecond
	maxPause = 15 * time.Second
)

// Forwarder delivers one log. Make it with Start.
type Forwarder struct {
	cfg    Config
	log    *slog.Logger
	stop   context.CancelCauseFunc
	ended  <-chan struct{} // closed when nothing is written any more
	done   chan struct{}
	cursor *os.File
	sink   Sink // nil while there is none
}

var errClosed = errors.New("delivery is closed")

// Start begins to deliver where the former Forwarder of the log ended. It ends by
// itself when ended is closed and all is delivered. sink, unless nil, is a
// connection that is open already; the Forwarder owns it.
func Start(cfg Config, sink Sink, ended <-chan struct{}, log *slog.Logger) (*Forwarder, error) {
	cursor, err := os.OpenFile(cursorPath(cfg.Path), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start log delivery: %w", err)
	}
	if cfg.BatchBytes == 0 {
		cfg.BatchBytes = defaultBatch
	}
	ctx, stop := context.WithCancelCause(context.Background()) // the Forwarder's own life
	f := &Forwarder{cfg: cfg, log: log, stop: stop, ended: ended, done: make(chan struct{}), cursor: cursor, sink: sink}
	go func() {
		defer close(f.done)
		defer f.release()
		if err := f.run(ctx); err != nil && !errors.Is(err, errClosed) {
			log.Error("log delivery has ended", "log", cfg.Path, "err", err)
		}
	}()
	return f, nil
}

// Done is closed when the Forwarder has ended.
func (f *Forwarder) Done() <-chan struct{} { return f.done }

// Close ends the delivery, after at most grace for what is there to be sent when
// nothing is written any more, and waits for that end. What is not delivered is
// left to the next Forwarder.
func (f *Forwarder) Close(grace time.Duration) {
	if grace > 0 {
		t := time.NewTimer(grace)
		defer t.Stop()
		select {
		case <-f.done:
		case <-t.C:
		}
	}
	f.stop(errClosed)
	<-f.done
}

func (f *Forwarder) release() {
	if f.sink != nil {
		f.sink.Close()
	}
	f.cursor.Close()
}

func (f *Forwarder) run(ctx context.Context) error {
	from := f.position()
	tail, err := ctrlog.OpenTailer(f.cfg.Path, from)
	if err != nil {
		return err
	}
	defer tail.Close()
	if tail.Lost() {
		f.log.Warn("log lines were rotated away before they could be delivered", "log", f.cfg.Path)
	}
	last := false
	var batch []ctrlog.Entry
	for {
		if batch, err = tail.Next(batch[:0], f.cfg.BatchBytes); err != nil {
			return err
		}
		if len(batch) > 0 {
			if batch, err = f.linger(ctx, tail, batch); err != nil {
				return err
			}
			if err := f.deliver(ctx, batch); err != nil {
				return err
			}
			if err := f.save(tail.Position()); err != nil {
				f.log.Warn("cannot record how much of a log is delivered", "log", f.cfg.Path, "err", err)
			}
			if f.cfg.Keep > 0 {
				if err := tail.Remove(f.cfg.Keep - 1); err != nil {
					f.log.Warn("cannot make room in a log", "err", err)
				}
			}
			clear(batch) // hold no text while idle
			continue
		}
		if last {
			return nil
		}
		if err := tail.Wait(ctx, f.ended); err != nil {
			return err
		}
		select {
		case <-f.ended:
			last = true // read once more: all was written before
		default:
		}
	}
}

// linger adds to batch what comes in the time of Config.Linger.
func (f *Forwarder) linger(ctx context.Context, tail *ctrlog.Tailer, batch []ctrlog.Entry) ([]ctrlog.Entry, error) {
	if f.cfg.Linger == 0 {
		return batch, nil
	}
	t := time.NewTimer(f.cfg.Linger)
	defer t.Stop()
	for len(batch) < f.cfg.MaxEntries {
		over := false
		select {
		case <-t.C:
			over = true
		case <-f.ended:
			over = true
		case <-tail.Changed():
		case <-ctx.Done():
			return batch, context.Cause(ctx)
		}
		var err error
		if batch, err = tail.Next(batch, f.cfg.BatchBytes); err != nil || over {
			return batch, err
		}
	}
	return batch, nil
}

// deliver sends batch, however often that takes, until ctx ends.
func (f *Forwarder) deliver(ctx context.Context, batch []ctrlog.Entry) error {
	pause, failed := minPause, false
	for {
		n, err := f.try(ctx, batch)
		batch = batch[n:]
		if err == nil {
			if failed {
				f.log.Info("log delivery works again", "log", f.cfg.Path)
			}
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if n > 0 {
			pause = minPause
		}
		if !failed {
			failed = true
			f.log.Warn("log delivery fails; the lines wait in the log file", "log", f.cfg.Path, "err", err)
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		}
		pause = min(2*pause, maxPause)
	}
}

func (f *Forwarder) try(ctx context.Context, batch []ctrlog.Entry) (int, error) {
	if f.sink == nil {
		sink, err := f.cfg.Open(ctx)
		if err != nil {
			return 0, err
		}
		f.sink = sink
	}
	n, err := f.sink.Send(ctx, batch)
	if err != nil {
		f.sink.Close()
		f.sink = nil
	}
	return n, err
}

// The cursor file holds a Position and its checksum. It is written in place and
// not synced: after a power failure lines are delivered again, not lost.
func cursorPath(log string) string { return log + ".delivered" }

const cursorBytes = 24 + 8 + 4

func (f *Forwarder) save(p ctrlog.Position) error {
	buf := binary.BigEndian.AppendUint64(p.Head[:], uint64(p.Offset))
	buf = binary.BigEndian.AppendUint32(buf, crc32.ChecksumIEEE(buf))
	_, err := f.cursor.WriteAt(buf, 0)
	return err
}

// position reads the cursor; a damaged one is the start of the log.
func (f *Forwarder) position() ctrlog.Position {
	var p ctrlog.Position
	var buf [cursorBytes]byte
	if _, err := f.cursor.ReadAt(buf[:], 0); err != nil {
		return p
	}
	if crc32.ChecksumIEEE(buf[:cursorBytes-4]) != binary.BigEndian.Uint32(buf[cursorBytes-4:]) {
		f.log.Warn("the record of what is delivered of a log is damaged: all is delivered again", "log", f.cfg.Path)
		return p
	}
	copy(p.Head[:], buf[:])
	p.Offset = int64(binary.BigEndian.Uint64(buf[24:]))
	return p
}

// Pending reports whether the log at path may hold what is not delivered.
func Pending(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
