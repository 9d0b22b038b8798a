package driver

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	ctrlog "lighter/engine/log"
	"lighter/engine/log/delivery"
)

const journalSocket = "/run/systemd/journal/socket"

// journald speaks systemd's native journal protocol.
type journald struct {
	conn   *net.UnixConn
	fields map[string]string
	seq    uint64
}

func openJournald(_ context.Context, info Info) (delivery.Sink, error) {
	return dialJournald(journalSocket, info)
}

func dialJournald(path string, info Info) (delivery.Sink, error) {
	tag, err := info.Tag(defaultTag)
	if err != nil {
		return nil, err
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, errors.New("journald is not enabled on this host")
	}
	var epoch [32]byte
	rand.Read(epoch[:]) // never fails: crypto/rand
	j := &journald{conn: conn, fields: map[string]string{
		"CONTAINER_ID": info.ID[:min(12, len(info.ID))], "CONTAINER_ID_FULL": info.ID, "CONTAINER_NAME": info.Name,
		"CONTAINER_TAG": tag, "IMAGE_NAME": info.ImageName, "SYSLOG_IDENTIFIER": tag,
		"CONTAINER_LOG_EPOCH": hex.EncodeToString(epoch[:]),
	}}
	maps.Copy(j.fields, info.Attributes(journalField))
	return j, nil
}

// journalField makes a field's name of an attribute's: capitals, digits and
// underscores, with no underscore at its start.
func journalField(key string) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z':
			return r - 'a' + 'A'
		case 'A' <= r && r <= 'Z' || '0' <= r && r <= '9':
			return r
		}
		return '_'
	}, key)
	return strings.TrimLeft(name, "_")
}

// Close implements delivery.Sink.
func (j *journald) Close() error { return j.conn.Close() }

// Send implements delivery.Sink.
func (j *journald) Send(_ context.Context, entries []ctrlog.Entry) (int, error) {
	for i, e := range entries {
		if err := j.send(j.message(e)); err != nil {
			return i, fmt.Errorf("send to journald: %w", err)
		}
	}
	return len(entries), nil
}

func (j *journald) message(e ctrlog.Entry) []byte {
	j.seq++
	fields := maps.Clone(j.fields)
	fields["MESSAGE"] = string(e.Text)
	fields["PRIORITY"] = strconv.Itoa(severityInfo)
	if e.Stderr {
		fields["PRIORITY"] = strconv.Itoa(severityError)
	}
	fields["SYSLOG_TIMESTAMP"] = e.Time.UTC().Format(time.RFC3339Nano)
	fields["CONTAINER_LOG_ORDINAL"] = strconv.FormatUint(j.seq, 10)
	if p := e.Partial; p.ID != "" {
		fields["CONTAINER_PARTIAL_ID"] = p.ID
		fields["CONTAINER_PARTIAL_ORDINAL"] = strconv.Itoa(p.Ordinal)
		fields["CONTAINER_PARTIAL_LAST"] = strconv.FormatBool(p.Last)
		if !p.Last {
			fields["CONTAINER_PARTIAL_MESSAGE"] = "true"
		}
	}
	var b bytes.Buffer
	for name, value := range fields {
		if name == "" {
			continue
		}
		b.WriteString(name)
		if strings.IndexByte(value, '\n') < 0 {
			b.WriteByte('=')
		} else { // its length, then the value
			b.WriteByte('\n')
			b.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(value))))
		}
		b.WriteString(value)
		b.WriteByte('\n')
	}
	return b.Bytes()
}

// send sends msg as a datagram, or one that is too long in a sealed memfd.
func (j *journald) send(msg []byte) error {
	if err := j.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	_, err := j.conn.Write(msg)
	if !errors.Is(err, unix.EMSGSIZE) && !errors.Is(err, unix.ENOBUFS) {
		return err
	}
	fd, err := unix.MemfdCreate("journal", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "journal")
	defer f.Close()
	if _, err := f.Write(msg); err != nil {
		return err
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return os.NewSyscallError("fcntl F_ADD_SEALS", err)
	}
	_, _, err = j.conn.WriteMsgUnix(nil, unix.UnixRights(int(f.Fd())), nil)
	return err
}
