// Package task runs containers by managing their shims: it implements
// containerd.Tasks with one shim process per task, spoken to over ttrpc.
//
// # On disk
//
//	<State>/<namespace>/<id>/    the bundle, mode 0700; on tmpfs, so not synced
//	  config.json                the container's OCI spec
//	  rootfs/                    where a shim may mount the root file system
//	  shim-binary-path           the shim program, to run its delete verb later
//	  bootstrap.json             {"version","address","protocol"} of the shim
//	  shim-*.sock, shim.log      of a shim that was launched directly
//	  log                        fifo that a shim started by its verb logs to
//
// A name that starts with a dot is a bundle on its way out. Nothing but the
// bundles is stored: after a crash or an upgrade New finds the shims by them.
//
// # Two ways to start a shim
//
// Any shim of the v2 protocol is started with its "start" verb, which prints the
// address of the server that it left behind. A shim of this project is launched
// directly: the manager listens on the socket and passes it as descriptor 3 to
// the "serve" verb, and does not wait: the first call queues in the backlog.
//
// # The life of a task
//
//	creating --created-->      live
//	creating --failed-->       dying
//	creating --disconnected--> dying
//	live     --deleted-->      dying
//	live     --disconnected--> dying
//	dying    --removed-->      gone
//
// Only calls on a live task reach its shim. The one that moves a task to dying
// tears it down; everybody else waits for gone. The state of the processes is
// kept in memory, fed by the shim's replies and events, so that a shim that
// hangs delays nobody but its own callers, and those by a deadline.
package task
