package container

import (
	"fmt"

	"github.com/containerd/errdefs"
	api "github.com/moby/moby/api/types/container"
)

// State is where a container stands in its life. The zero value is Created.
type State uint8

// The states, with the names of the Engine API.
const (
	Created State = iota
	Running
	Paused
	Restarting
	Exited
	Removing
	Dead
)

var stateNames = [...]api.ContainerState{
	Created:    api.StateCreated,
	Running:    api.StateRunning,
	Paused:     api.StatePaused,
	Restarting: api.StateRestarting,
	Exited:     api.StateExited,
	Removing:   api.StateRemoving,
	Dead:       api.StateDead,
}

// String returns the state's name in the Engine API.
func (s State) String() string { return string(stateNames[s]) }

// MarshalText implements encoding.TextMarshaler with String.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reverses MarshalText.
func (s *State) UnmarshalText(text []byte) error {
	for i, name := range stateNames {
		if string(name) == string(text) {
			*s = State(i)
			return nil
		}
	}
	return fmt.Errorf("unknown container state %q", text)
}

// hasTask reports whether processes of the container exist in this state.
func (s State) hasTask() bool { return s == Running || s == Paused }

// active reports what the Engine API calls Running: started and meant to go on.
func (s State) active() bool { return s == Running || s == Paused || s == Restarting }

// event is what moves a container from one state to another.
type event uint8

const (
	evStart event = iota
	evPause
	evUnpause
	evExit
	evBackoff
	evRemove
	evFail
)

var eventNames = [...]string{
	evStart: "start", evPause: "pause", evUnpause: "unpause", evExit: "exit",
	evBackoff: "backoff", evRemove: "remove", evFail: "fail",
}

func (e event) String() string { return eventNames[e] }

// transitions is the state machine; the package comment draws it.
var transitions = map[State]map[event]State{
	Created:    {evStart: Running, evRemove: Removing},
	Running:    {evPause: Paused, evExit: Exited, evBackoff: Restarting},
	Paused:     {evUnpause: Running, evExit: Exited, evBackoff: Restarting},
	Restarting: {evStart: Running, evExit: Exited},
	Exited:     {evStart: Running, evRemove: Removing},
	Removing:   {evFail: Dead},
	Dead:       {evRemove: Removing},
}

// move applies ev to the record's state. An event that the state does not allow
// is a Conflict that names both.
func (r *record) move(ev event) error {
	next, ok := transitions[r.State][ev]
	if !ok {
		return refusal(r, ev)
	}
	r.State = next
	return nil
}

// refusal returns why ev is not possible, in Docker's words.
func refusal(r *record, ev event) error {
	switch {
	case ev == evStart && r.State == Paused:
		return conflict("cannot start a paused container, try unpause instead")
	case ev == evStart && (r.State == Removing || r.State == Dead):
		return conflict("container is marked for removal and cannot be started")
	case ev == evPause && r.State == Paused:
		return conflict("container %s is already paused", r.ID)
	case r.State == Restarting && ev != evRemove:
		return conflict("Container %s is restarting, wait until the container is running", r.ID)
	case ev == evPause:
		return notRunning(r.ID)
	case ev == evUnpause:
		// Docker compatibility: not a Conflict but a plain error, status 500.
		return fmt.Errorf("Container %s is not paused", r.ID)
	case ev == evRemove && r.State == Removing:
		return conflict("removal of container %s is already in progress", r.ID)
	case ev == evRemove && r.State == Paused:
		return conflict("container is paused and must be unpaused first")
	case ev == evRemove:
		return conflict("container is %s: stop the container before removing or force remove", r.State)
	}
	return conflict("container %s is %s: %s is not possible", r.ID, r.State, ev)
}

// The error classes with exact texts.

func conflict(format string, args ...any) error {
	return errdefs.ErrConflict.WithMessage(fmt.Sprintf(format, args...))
}

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}

func notFound(format string, args ...any) error {
	return errdefs.ErrNotFound.WithMessage(fmt.Sprintf(format, args...))
}

func notImplemented(format string, args ...any) error {
	return errdefs.ErrNotImplemented.WithMessage(fmt.Sprintf(format, args...))
}

func notRunning(id string) error { return conflict("container %s is not running", id) }

// wrap prefixes err's text and keeps its class.
func wrap(what string, err error) error { return fmt.Errorf("%s: %w", what, err) }

func permissionDenied(text string) error { return errdefs.ErrPermissionDenied.WithMessage(text) }
