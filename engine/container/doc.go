// Package container is the container: its record, its state machine and
// everything that happens to it between create and remove.
//
// # States
//
//	created    --start-->   running
//	created    --remove-->  removing
//	running    --pause-->   paused
//	running    --exit-->    exited
//	running    --backoff--> restarting
//	paused     --unpause--> running
//	paused     --exit-->    exited
//	paused     --backoff--> restarting
//	restarting --start-->   running
//	restarting --exit-->    exited
//	exited     --start-->   running
//	exited     --remove-->  removing
//	removing   --fail-->    dead
//	dead       --remove-->  removing
//
// A start that fails leaves the state as it was. "restarting" is the pause that
// a restart policy makes between two runs; its exit is a stop by the user.
// A removed container has no state: its record is gone.
//
// # Who changes what
//
// A container's record is an immutable value behind an atomic pointer. Reads
// (Inspect, List, Wait) take it and nothing else, so they never wait. Changes
// copy the record, alter the copy and publish it (Manager.change); the store
// writes it in the background, many containers in one transaction, or before
// the caller goes on where the user was promised something (Manager.commit).
//
// Operations that must not interleave on one container (start, pause, the
// handling of an exit, removal) hold its operation slot, a channel of capacity
// one that is waited for with a context. Stop and Kill do not hold it while they
// wait for the exit, so that a kill can overtake a stop. Nothing of one
// container waits for another.
//
// A run has one goroutine that waits for the task's exit (Tasks.Wait) and then
// handles it: exits are ordered by construction, none can be missed, and an
// answer that fails because the supervisor restarts is asked for again. Of the
// event stream only out-of-memory notices are used.
//
// # On disk
//
//	<data-root>/containers.db              bbolt: bucket "containers", ID -> record (JSON)
//	                                       bucket "meta", "version" -> "1"
//	<data-root>/containers/<id>/hostname   and hosts, resolv.conf: mounted into the container
//	<data-root>/containers/<id>/<id>-json.log
//	<exec-root>/containers/<id>/io.sock    attach socket, made by the shim
//
// The record is written after everything it refers to exists, and deleted after
// all of it is gone; Open removes what no record refers to.
package container
