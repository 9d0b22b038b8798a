// Package ttrpc is containerd's ttrpc protocol, as much of it as a shim needs:
// unary calls, as a server and as a client. Payloads are bytes; package wire
// encodes them.
//
// A connection carries frames of a 10-byte header (length, stream, type, flags)
// and a message. A stream is one call: a request with an odd, rising number, and
// a response with the same.
//
// A Server can be handed over to another process image together with its
// connections; see Server.State.
package ttrpc

import (
	"encoding/binary"
	"fmt"

	"lighter/shim/wire"
)

const (
	headerSize = 10
	maxMessage = 4 << 20 // bytes

	typeRequest  = 1
	typeResponse = 2
	typeData     = 3

	flagRemoteClosed = 1
)

// header precedes each message.
type header struct {
	length uint32 // of the message, in bytes
	stream uint32
	kind   byte
}

func parseHeader(p []byte) header {
	return header{length: binary.BigEndian.Uint32(p), stream: binary.BigEndian.Uint32(p[4:]), kind: p[8]}
}

// frame returns a whole frame.
func frame(stream uint32, kind, flags byte, message []byte) []byte {
	p := make([]byte, headerSize, headerSize+len(message))
	binary.BigEndian.PutUint32(p, uint32(len(message)))
	binary.BigEndian.PutUint32(p[4:], stream)
	p[8], p[9] = kind, flags
	return append(p, message...)
}

// request is ttrpc's Request.
type request struct {
	service, method string
	payload         []byte
	timeout         int64 // nanoseconds, 0 for none
}

func (r *request) encode() []byte {
	var e wire.Encoder
	e.Text(1, r.service)
	e.Text(2, r.method)
	e.Raw(3, r.payload)
	e.Int(4, r.timeout)
	return e.Bytes()
}

func (r *request) decode(b []byte) error {
	d := wire.NewDecoder(b)
	for d.Next() {
		switch d.Field() {
		case 1:
			r.service = d.Text()
		case 2:
			r.method = d.Text()
		case 3:
			r.payload = d.Raw()
		case 4:
			r.timeout = d.Int()
		}
	}
	return d.Err()
}

// response is ttrpc's Response; code and message are its google.rpc.Status.
type response struct {
	code    Code
	message string
	payload []byte
}

func (r *response) encode() []byte {
	var e wire.Encoder
	if r.code != ok {
		e.Message(1, func(e *wire.Encoder) {
			e.Uint(1, uint64(r.code))
			e.Text(2, r.message)
		})
	}
	e.Raw(2, r.payload)
	return e.Bytes()
}

func (r *response) decode(b []byte) error {
	d := wire.NewDecoder(b)
	for d.Next() {
		switch d.Field() {
		case 1:
			d.Message(func(d *wire.Decoder) {
				switch d.Field() {
				case 1:
					r.code = Code(d.Uint())
				case 2:
					r.message = d.Text()
				}
			})
		case 2:
			r.payload = d.Raw()
		}
	}
	return d.Err()
}

// StatusError is the error of a call that the other side refused.
type StatusError struct {
	Code    Code
	Message string
}

func (e *StatusError) Error() string { return fmt.Sprintf("status %d: %s", e.Code, e.Message) }
