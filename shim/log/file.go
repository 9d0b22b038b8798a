package log

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// fileMode is the mode of log files.
const fileMode = 0o640

// rotatingFile is the live file of a log. It belongs to the Writer's lock.
type rotatingFile struct {
	cfg      Config
	released *atomic.Bool // the hold is over
	log      *slog.Logger
	f        *os.File // nil after a failed rotation, until a reopening succeeds
	size     int64

	compressing  sync.WaitGroup
	compressions atomic.Int32 // in compressing
}

func openRotating(cfg Config, wholeSize func(io.ReaderAt, int64) (int64, error), released *atomic.Bool, log *slog.Logger) (*rotatingFile, error) {
	cfg.MaxFiles = max(cfg.MaxFiles, 1)
	r := &rotatingFile{cfg: cfg, released: released, log: log}
	if err := r.open(); err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	whole, err := wholeSize(r.f, r.size)
	if err == nil && whole < r.size {
		log.Warn("log ends in a torn record, which is cut off", "bytes", r.size-whole)
		err = r.f.Truncate(whole)
	}
	if err != nil {
		r.f.Close()
		return nil, fmt.Errorf("open log %q: %w", cfg.Path, err)
	}
	r.size = whole
	return r, nil
}

// resumeRotating goes on with the open file f of a known size; nil to open it anew
// when something is written.
func resumeRotating(cfg Config, f *os.File, size int64, released *atomic.Bool, log *slog.Logger) *rotatingFile {
	return &rotatingFile{cfg: cfg, released: released, log: log, f: f, size: size}
}

// open opens the live file. It must be a regular file that nobody put a link
// in the place of.
func (r *rotatingFile) open() error {
	f, err := os.OpenFile(r.cfg.Path, os.O_RDWR|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW, fileMode)
	if err != nil {
		return err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: r.cfg.Path, Err: errors.New("not a regular file")}
	}
	if err != nil {
		f.Close()
		return err
	}
	r.f, r.size = f, fi.Size()
	return nil
}

// wouldFill reports whether the file is full once n more bytes are in it.
func (r *rotatingFile) wouldFill(n int) bool {
	return r.cfg.MaxBytes > 0 && r.size+int64(n) >= r.cfg.MaxBytes
}

// write appends whole records, all or none of them.
func (r *rotatingFile) write(records []byte) error {
	if r.f == nil || r.wouldFill(0) && r.mayRotate() {
		if err := r.rotate(); err != nil {
			return err
		}
	}
	n, err := r.f.Write(records)
	if err == nil {
		r.size += int64(n)
		return nil
	}
	if n > 0 {
		if terr := r.f.Truncate(r.size); terr != nil {
			r.size += int64(n)
			err = errors.Join(err, terr)
		}
	}
	return err
}

// holdPause is how often a held log is looked at that waits for room.
const holdPause = 20 * time.Millisecond

// mayRotate waits, if the log is held, until the file that rotation would delete
// is gone. It is false when the hold is over before.
func (r *rotatingFile) mayRotate() bool {
	if !r.cfg.Hold || r.cfg.MaxFiles < 2 {
		return true
	}
	last := r.rotated(r.cfg.MaxFiles - 1)
	for {
		_, err := os.Lstat(last)
		_, zerr := os.Lstat(last + ".gz")
		if errors.Is(err, fs.ErrNotExist) && errors.Is(zerr, fs.ErrNotExist) {
			return true
		}
		if r.released.Load() {
			return false
		}
		time.Sleep(holdPause)
	}
}

// setLimits changes the rotation. Files that are over the new number go now.
func (r *rotatingFile) setLimits(maxBytes int64, maxFiles int) {
	maxFiles = max(maxFiles, 1)
	for n := maxFiles; n < r.cfg.MaxFiles; n++ {
		os.Remove(r.rotated(n)) // one that stays is found by nobody but the container's removal
		os.Remove(r.rotated(n) + ".gz")
	}
	r.cfg.MaxBytes, r.cfg.MaxFiles = maxBytes, maxFiles
}

// rotate makes room in an empty live file. After an error the log goes on in
// the file that is there.
func (r *rotatingFile) rotate() error {
	if r.f != nil && r.cfg.MaxFiles == 1 {
		if err := r.f.Truncate(0); err != nil {
			return err
		}
		r.size = 0
		return nil
	}
	if r.f != nil {
		r.compressing.Wait() // of the rotation before: it reads path.1
		if err := r.shift(); err != nil {
			return err
		}
		r.f.Close()
		r.f = nil
	}
	if err := r.open(); err != nil {
		return err
	}
	if r.cfg.Compress {
		first := r.rotated(1)
		r.compressions.Add(1)
		r.compressing.Go(func() {
			defer r.compressions.Add(-1)
			if err := compress(first); err != nil {
				r.log.Warn("rotated log stays uncompressed", "err", err)
			}
		})
	}
	return nil
}

// shift renames each file to the next higher number. Compressed and plain files
// both move: a compression may have failed, or the option have changed.
func (r *rotatingFile) shift() error {
	last := r.rotated(r.cfg.MaxFiles - 1)
	for _, name := range []string{last, last + ".gz"} {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for i := r.cfg.MaxFiles - 1; i > 1; i-- {
		for _, ext := range []string{"", ".gz"} {
			err := os.Rename(r.rotated(i-1)+ext, r.rotated(i)+ext)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return os.Rename(r.cfg.Path, r.rotated(1))
}

func (r *rotatingFile) rotated(i int) string { return r.cfg.Path + "." + strconv.Itoa(i) }

func (r *rotatingFile) close() error {
	r.compressing.Wait()
	if r.f == nil {
		return nil
	}
	return r.f.Close()
}

// compress replaces the file at path by path.gz.
func compress(path string) (err error) {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	// A reader must not see half of it under its name; a rest of a crash is truncated.
	tmp := path + ".gz.tmp"
	out, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, fileMode)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			out.Close()
			os.Remove(tmp)
		}
	}()
	zw, err := gzip.NewWriterLevel(out, gzip.BestSpeed)
	if err != nil {
		return err
	}
	if _, err := io.Copy(zw, in); err != nil {
		return err
	}
	if err := zw.Close(); err != nil {
		return err
	}
	if err := out.Close(); err != nil {
		return err
	}
	if err := os.Rename(tmp, path+".gz"); err != nil {
		return err
	}
	return os.Remove(path)
}
