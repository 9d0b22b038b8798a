// Package crash is the lab in which the engine is killed. It has four parts:
//
//   - the generator (verbs.go) makes the calls that a user makes,
//   - the nemesis (supervise.go, calls.go) commits one fault at one state-changing
//     system call of dockerd, containerd, a shim or the runtime,
//   - the history (history.go) records every call, its fault and its outcome,
//   - the checker (check.go) compares what is there after the recovery with what
//     was promised, and audits that nothing leaked.
//
// The daemons are the real programs, without hooks: a seccomp filter that they
// inherit asks the supervisor for leave before each call of the table in calls.go.
// A point of the lab is named verb/action:role:number, as in
//
//	commit/kill:dockerd:17
//
// which is SIGKILL to dockerd instead of its 17th state-changing call after the
// client said docker commit. Every point can be run again by its name:
//
//	make crash POINT=commit/kill:dockerd:17
package crash
