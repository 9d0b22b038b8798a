// Package wire encodes and decodes protobuf messages by hand. The shim speaks few
// messages, and the generated ones with their runtime would cost each of many
// shims a third of a megabyte before it has done anything.
//
// An Encoder appends the fields of a message; a Decoder walks them:
//
//	d := wire.NewDecoder(b)
//	for d.Next() {
//		switch d.Field() {
//		case 1:
//			m.id = d.Text()
//		}
//	}
//	return d.Err()
//
// As protobuf wants it, zero values are not encoded, unknown fields and fields of
// an unexpected type are skipped, and the last of several values wins.
package wire

import (
	"encoding/binary"
	"math"
	"time"
)

// The wire types.
const (
	varint  = 0
	fixed64 = 1
	bytes   = 2
	fixed32 = 5
)

// Encoder holds the message encoded so far. The zero value is an empty message.
type Encoder struct{ buf []byte }

// Bytes returns the message, never nil. It shares the Encoder's memory.
func (e *Encoder) Bytes() []byte {
	if e.buf == nil {
		return []byte{}
	}
	return e.buf
}

func (e *Encoder) tag(field, kind int) {
	e.buf = binary.AppendUvarint(e.buf, uint64(field)<<3|uint64(kind))
}

// Uint adds an integer of any unsigned or enum type.
func (e *Encoder) Uint(field int, v uint64) {
	if v != 0 {
		e.tag(field, varint)
		e.buf = binary.AppendUvarint(e.buf, v)
	}
}

// Int adds an integer of type int32 or int64.
func (e *Encoder) Int(field int, v int64) { e.Uint(field, uint64(v)) }

// Bool adds a boolean.
func (e *Encoder) Bool(field int, v bool) {
	if v {
		e.Uint(field, 1)
	}
}

// Double adds a floating-point number.
func (e *Encoder) Double(field int, v float64) {
	if v != 0 {
		e.tag(field, fixed64)
		e.buf = binary.LittleEndian.AppendUint64(e.buf, math.Float64bits(v))
	}
}

// Text adds a string.
func (e *Encoder) Text(field int, s string) {
	if s != "" {
		e.Element(field, s)
	}
}

// Element adds a string to a repeated field, where an empty one counts.
func (e *Encoder) Element(field int, s string) {
	e.tag(field, bytes)
	e.buf = binary.AppendUvarint(e.buf, uint64(len(s)))
	e.buf = append(e.buf, s...)
}

// Raw adds bytes.
func (e *Encoder) Raw(field int, p []byte) {
	if len(p) > 0 {
		e.Element(field, string(p))
	}
}

// Packed adds a repeated integer.
func (e *Encoder) Packed(field int, list []uint64) {
	var p []byte
	for _, v := range list {
		p = binary.AppendUvarint(p, v)
	}
	e.Raw(field, p)
}

// Message adds a message, also an empty one. f adds its fields.
func (e *Encoder) Message(field int, f func(*Encoder)) {
	var inner Encoder
	f(&inner)
	e.Element(field, string(inner.buf))
}

// Any adds a google.protobuf.Any, unless it is the zero value.
func (e *Encoder) Any(field int, a Any) {
	if a.Type == "" && len(a.Value) == 0 {
		return
	}
	e.Message(field, func(e *Encoder) {
		e.Text(1, a.Type)
		e.Raw(2, a.Value)
	})
}

// Time adds a google.protobuf.Timestamp; the zero time is absent.
func (e *Encoder) Time(field int, t time.Time) {
	if t.IsZero() {
		return
	}
	e.Message(field, func(e *Encoder) {
		e.Int(1, t.Unix())
		e.Int(2, int64(t.Nanosecond()))
	})
}

// Any is a google.protobuf.Any.
type Any struct {
	// Type is the message's name; what others send may have a host and a path
	// before it.
	Type  string
	Value []byte
}
