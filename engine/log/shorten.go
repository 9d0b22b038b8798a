package log

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
)

// Shorten deletes the oldest part of a log that nobody writes, until it is of at
// most limit bytes: rotated files first, then the start of the live one.
func Shorten(path, driver string, limit int64) error {
	fi, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("shorten log: %w", err)
	}
	left := limit - fi.Size()
	for n := 1; n < maxRotated; n++ {
		found := false
		for _, ext := range []string{"", ".gz"} {
			name := path + "." + strconv.Itoa(n) + ext
			rotated, err := os.Stat(name)
			if err != nil {
				continue
			}
			found = true
			if left -= rotated.Size(); left < 0 {
				if err := os.Remove(name); err != nil {
					return fmt.Errorf("shorten log: %w", err)
				}
			}
		}
		if !found {
			break
		}
	}
	if fi.Size() <= limit {
		return nil
	}
	if err := cutStart(path, driver, fi.Size()-limit); err != nil {
		return fmt.Errorf("shorten log: %w", err)
	}
	return nil
}

// cutStart replaces the file by what begins with the first record at or after
// offset. A reader that has the old file open finishes with it.
func cutStart(path, driver string, offset int64) (err error) {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	at := int64(0)
	records := &recordReader{r: in, format: formatOf(driver)}
	if driver == "json-file" && offset > 0 { // where lines start can be told from anywhere
		if _, err := in.Seek(offset-1, io.SeekStart); err != nil {
			return err
		}
		at, records.offset = offset-1, offset-1
		offset = at + 1
	}
	for at < offset {
		_, err := records.next()
		at = records.offset
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	if _, err := in.Seek(at, io.SeekStart); err != nil {
		return err
	}
	tmp := path + ".short"
	out, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(tmp))
		}
	}()
	if _, err := io.Copy(out, in); err != nil {
		return errors.Join(err, out.Close())
	}
	if err := out.Close(); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
