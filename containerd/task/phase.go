package task

import (
	"fmt"

	"github.com/containerd/errdefs"
)

// phase is where a task is in its life, see the package comment.
type phase int

const (
	creating phase = iota
	live
	dying
	gone
)

func (p phase) String() string { return [...]string{"creating", "live", "dying", "gone"}[p] }

// change is what happens to a task.
type change int

const (
	created      change = iota // the shim has made the task
	failed                     // Create did not succeed
	deleted                    // the shim has deleted the task
	disconnected               // the connection to the shim ended
	removed                    // nothing of the task is left
)

func (c change) String() string {
	return [...]string{"created", "failed", "deleted", "disconnected", "removed"}[c]
}

// transitions is the drawing of the package comment.
var transitions = map[phase]map[change]phase{
	creating: {created: live, failed: dying, disconnected: dying},
	live:     {deleted: dying, disconnected: dying},
	dying:    {removed: gone},
}

// next returns the phase after c, or FailedPrecondition.
func (p phase) next(c change) (phase, error) {
	to, ok := transitions[p][c]
	if !ok {
		return p, fmt.Errorf("task is %v, it can't be %v: %w", p, c, errdefs.ErrFailedPrecondition)
	}
	return to, nil
}
