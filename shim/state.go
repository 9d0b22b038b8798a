package shim

import (
	"fmt"
	"strconv"

	"github.com/containerd/errdefs"
)

// Status is the state of a process:
//
//	created --start--> running --pause--> paused
//	created --exit---> stopped
//	created --delete-> deleted
//	running --exit---> stopped
//	paused  --resume-> running
//	paused  --exit---> stopped
//	stopped --delete-> deleted
//
// An exec is created when it has been added. Only init is paused.
type Status int

// The states. Deleted is final.
const (
	Created Status = iota + 1
	Running
	Paused
	Stopped
	Deleted
)

// String returns the name of the state.
func (s Status) String() string {
	switch s {
	case Created:
		return "created"
	case Running:
		return "running"
	case Paused:
		return "paused"
	case Stopped:
		return "stopped"
	case Deleted:
		return "deleted"
	}
	return "status " + strconv.Itoa(int(s))
}

// event is what moves a process from one state to another.
type event int

const (
	startEvent event = iota
	pauseEvent
	resumeEvent
	exitEvent
	deleteEvent
	numEvents
)

func (e event) String() string {
	return [numEvents]string{"start", "pause", "resume", "exit", "delete"}[e]
}

// transitions is the machine drawn at Status.
var transitions = map[Status]map[event]Status{
	Created: {startEvent: Running, exitEvent: Stopped, deleteEvent: Deleted},
	Running: {pauseEvent: Paused, exitEvent: Stopped},
	Paused:  {resumeEvent: Running, exitEvent: Stopped},
	Stopped: {deleteEvent: Deleted},
	Deleted: {},
}

// next returns the state after ev. The error is FailedPrecondition and says
// what to do.
func (s Status) next(ev event) (Status, error) {
	if to, ok := transitions[s][ev]; ok {
		return to, nil
	}
	remedy := ""
	switch {
	case ev == deleteEvent && s == Running:
		remedy = ": kill it first"
	case ev == deleteEvent && s == Paused:
		remedy = ": kill and resume it first"
	}
	return s, fmt.Errorf("cannot %s a process that is %s%s: %w", ev, s, remedy, errdefs.ErrFailedPrecondition)
}
