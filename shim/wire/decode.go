package wire

import (
	"encoding/binary"
	"errors"
	"math"
	"time"
	"unicode/utf8"
)

var (
	errTruncated = errors.New("decode message: it is cut off or not a message")
	errNotUTF8   = errors.New("decode message: a string is not UTF-8")
)

// Decoder walks the fields of a message.
type Decoder struct {
	rest  []byte
	field int
	kind  int
	num   uint64 // of varint, fixed64
	data  []byte // of bytes
	err   error
}

// NewDecoder returns a Decoder of b, which must not change while it is used.
func NewDecoder(b []byte) *Decoder { return &Decoder{rest: b} }

// Next goes to the next field. It reports false at the end and after an error.
func (d *Decoder) Next() bool {
	if d.err != nil || len(d.rest) == 0 {
		return false
	}
	tag := d.uvarint()
	d.field, d.kind, d.num, d.data = int(tag>>3), int(tag&7), 0, nil
	if tag>>3 == 0 || tag>>3 > 1<<29-1 {
		d.err = errTruncated
	}
	switch d.kind {
	case varint:
		d.num = d.uvarint()
	case fixed64:
		if p := d.take(8); p != nil {
			d.num = binary.LittleEndian.Uint64(p)
		}
	case bytes:
		d.data = d.take(d.uvarint())
	case fixed32:
		d.take(4)
	default: // groups are obsolete: none of our peers has them
		d.err = errTruncated
	}
	return d.err == nil
}

// Err returns the first error, nil for a message that was well-formed up to
// where the walk got.
func (d *Decoder) Err() error { return d.err }

// Field returns the number of the current field.
func (d *Decoder) Field() int { return d.field }

// Uint returns the current integer.
func (d *Decoder) Uint() uint64 {
	if d.kind != varint {
		return 0
	}
	return d.num
}

// Int returns the current integer, of type int32 or int64.
func (d *Decoder) Int() int64 { return int64(d.Uint()) }

// Bool returns the current boolean.
func (d *Decoder) Bool() bool { return d.Uint() != 0 }

// Double returns the current floating-point number.
func (d *Decoder) Double() float64 {
	if d.kind != fixed64 {
		return 0
	}
	return math.Float64frombits(d.num)
}

// Text returns a copy of the current string.
func (d *Decoder) Text() string {
	if !utf8.Valid(d.data) && d.err == nil {
		d.err = errNotUTF8
	}
	return string(d.data)
}

// Raw returns the current bytes, which belong to the decoded message.
func (d *Decoder) Raw() []byte { return d.data }

// Message walks the current message; an error in it is one of d's.
func (d *Decoder) Message(f func(*Decoder)) {
	inner := NewDecoder(d.data)
	for inner.Next() {
		f(inner)
	}
	if d.err == nil {
		d.err = inner.err
	}
}

// Any returns the current google.protobuf.Any.
func (d *Decoder) Any() Any {
	a, err := ParseAny(d.data)
	if d.err == nil {
		d.err = err
	}
	return a
}

// ParseAny decodes a google.protobuf.Any. The value belongs to b.
func ParseAny(b []byte) (a Any, err error) {
	d := NewDecoder(b)
	for d.Next() {
		switch d.Field() {
		case 1:
			a.Type = d.Text()
		case 2:
			a.Value = d.Raw()
		}
	}
	return a, d.Err()
}

// Time returns the current google.protobuf.Timestamp.
func (d *Decoder) Time() time.Time {
	var sec, nsec int64
	d.Message(func(d *Decoder) {
		switch d.Field() {
		case 1:
			sec = d.Int()
		case 2:
			nsec = d.Int()
		}
	})
	return time.Unix(sec, nsec)
}

func (d *Decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		d.err, d.rest = errTruncated, nil
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *Decoder) take(n uint64) []byte {
	if d.err != nil || n > uint64(len(d.rest)) {
		d.err = errTruncated
		return nil
	}
	p := d.rest[:n:n]
	d.rest = d.rest[n:]
	return p
}
