package shim

import (
	"time"
)

// Topic names a kind of event as containerd does.
type Topic string

// The topics that a shim publishes.
const (
	TopicCreate      Topic = "/tasks/create"
	TopicStart       Topic = "/tasks/start"
	TopicOOM         Topic = "/tasks/oom"
	TopicExit        Topic = "/tasks/exit"
	TopicDelete      Topic = "/tasks/delete"
	TopicExecAdded   Topic = "/tasks/exec-added"
	TopicExecStarted Topic = "/tasks/exec-started"
	TopicPaused      Topic = "/tasks/paused"
	TopicResumed     Topic = "/tasks/resumed"
)

// Event tells what happened to a container. Which fields are set depends on the
// topic.
type Event struct {
	Topic       Topic
	Time        time.Time
	ContainerID string
	// ExecID is set for the exec topics and for the exit of an exec.
	ExecID     string
	Pid        int
	ExitStatus int
	ExitedAt   time.Time

	// Set for TopicCreate.
	Bundle                string
	Rootfs                []Mount
	Stdin, Stdout, Stderr string
	Terminal              bool
}
