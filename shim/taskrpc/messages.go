package taskrpc

import (
	"time"

	"lighter/shim"
	"lighter/shim/wire"
)

// The requests of the Task API, each with the fields that the shim uses. Field
// numbers are those of containerd's runtime/task/v2/shim.proto, which v3 kept.

// target is the start of most requests: which process of which container.
type target struct{ id, execID string }

// decode takes the fields of a target and gives the others to more.
func (t *target) decode(b []byte, more func(*wire.Decoder)) error {
	d := wire.NewDecoder(b)
	for d.Next() {
		switch d.Field() {
		case 1:
			t.id = d.Text()
		case 2:
			t.execID = d.Text()
		default:
			if more != nil {
				more(d)
			}
		}
	}
	return d.Err()
}

// createRequest is CreateTaskRequest.
type createRequest struct {
	shim.CreateRequest
	checkpoint, parentCheckpoint string
	options                      wire.Any
}

func (r *createRequest) decode(b []byte) error {
	d := wire.NewDecoder(b)
	for d.Next() {
		switch d.Field() {
		case 1:
			r.ID = d.Text()
		case 2:
			r.Bundle = d.Text()
		case 3:
			var m shim.Mount
			d.Message(func(d *wire.Decoder) { decodeMount(d, &m) })
			r.Rootfs = append(r.Rootfs, m)
		case 4:
			r.Terminal = d.Bool()
		case 5:
			r.Stdin = d.Text()
		case 6:
			r.Stdout = d.Text()
		case 7:
			r.Stderr = d.Text()
		case 8:
			r.checkpoint = d.Text()
		case 9:
			r.parentCheckpoint = d.Text()
		case 10:
			r.options = d.Any()
		}
	}
	return d.Err()
}

// decodeMount takes a field of containerd.types.Mount.
func decodeMount(d *wire.Decoder, m *shim.Mount) {
	switch d.Field() {
	case 1:
		m.Type = d.Text()
	case 2:
		m.Source = d.Text()
	case 3:
		m.Target = d.Text()
	case 4:
		m.Options = append(m.Options, d.Text())
	}
}

// execRequest is ExecProcessRequest.
type execRequest struct {
	target
	terminal              bool
	stdin, stdout, stderr string
	spec                  wire.Any
}

func (r *execRequest) decode(b []byte) error {
	return r.target.decode(b, func(d *wire.Decoder) {
		switch d.Field() {
		case 3:
			r.terminal = d.Bool()
		case 4:
			r.stdin = d.Text()
		case 5:
			r.stdout = d.Text()
		case 6:
			r.stderr = d.Text()
		case 7:
			r.spec = d.Any()
		}
	})
}

// decodeOptions decodes containerd.runc.v1.Options.
func decodeOptions(b []byte) (o shim.Options, err error) {
	d := wire.NewDecoder(b)
	for d.Next() {
		switch d.Field() {
		case 1:
			o.NoPivotRoot = d.Bool()
		case 2:
			o.NoNewKeyring = d.Bool()
		case 3:
			o.ShimCgroup = d.Text()
		case 4:
			o.IOUID = uint32(d.Uint())
		case 5:
			o.IOGID = uint32(d.Uint())
		case 6:
			o.BinaryName = d.Text()
		case 7:
			o.Root = d.Text()
		case 9:
			o.SystemdCgroup = d.Bool()
		}
	}
	return o, d.Err()
}

// criOptions is runtimeoptions.v1.Options.
type criOptions struct {
	typeURL, configPath string
	configBody          []byte
}

func (o *criOptions) decode(b []byte) error {
	d := wire.NewDecoder(b)
	for d.Next() {
		switch d.Field() {
		case 1:
			o.typeURL = d.Text()
		case 2:
			o.configPath = d.Text()
		case 3:
			o.configBody = d.Raw()
		}
	}
	return d.Err()
}

// The values of containerd.v1.types.Status.
var statuses = map[shim.Status]uint64{
	shim.Created: 1,
	shim.Running: 2,
	shim.Stopped: 3,
	shim.Paused:  4,
	shim.Deleted: 3,
}

// encodeState makes a StateResponse.
func encodeState(e *wire.Encoder, s shim.State) {
	e.Text(1, s.ID)
	e.Text(2, s.Bundle)
	e.Uint(3, uint64(s.Pid))
	e.Uint(4, statuses[s.Status])
	e.Text(5, s.Stdin)
	e.Text(6, s.Stdout)
	e.Text(7, s.Stderr)
	e.Bool(8, s.Terminal)
	encodeExit(e, 9, s.Exit.Status, s.Exit.At)
	e.Text(11, s.ExecID)
}

// encodeExit adds the two fields that tell how a process ended. The time is
// absent for one that never ran.
func encodeExit(e *wire.Encoder, field, status int, at time.Time) {
	e.Uint(field, uint64(status))
	e.Time(field+1, at)
}
