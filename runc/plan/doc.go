// Package plan compiles an OCI configuration into a table of system calls: what a
// process does between its fork and the execve of the user's program.
//
// A Plan is data. Every decision is made here, in the parent, where it can be
// printed (`runc plan`), compared with golden files and reviewed line by line;
// package fork runs the table in the child without a Go runtime.
//
// # The machine
//
// A Step is one system call. Its arguments are numbers, addresses of buffers that
// the parent laid out, descriptors that the parent passes by name, registers in
// which earlier steps saved their results, or 32-bit words of a buffer that the
// kernel filled. A few steps are no system call: Fork, Set, Assert, Jump, Fail.
//
// Control goes to the next step, or forward to a label after success (OnOK) or
// after an error that the step ignores (OnIgnored). There is no way back, so
// every plan ends. A step that fails otherwise ends the process after it has
// written its index and errno to the status descriptor, and the parent renders
// both as a *StepError.
//
// # The order of a container's plan
//
//	become non-dumpable, drop inherited descriptors
//	join control groups
//	wait for the parent (id maps)                      if it has something to do
//	join or make namespaces, new session, keyring
//	attach the root, mounts in order, devices, console
//	wait for the parent (hooks)                        if it has something to do
//	pivot, propagation, masked and read-only paths, sysctl
//	limits, priorities, user, capabilities, working directory
//	seccomp
//	ready; read the gate                               create, not run
//	execve
package plan
