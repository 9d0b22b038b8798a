package crash

import "golang.org/x/sys/unix"

// Where a call names what it changes.
const (
	byNothing = iota
	byFD      // the first argument is a descriptor
	byPath    // the first argument is a path
	byAt      // the second argument is a path
)

// call is one row of the table of state-changing system calls.
type call struct {
	name string
	arg  int
	disk bool // a full or broken disk can fail it
	// Only calls whose argument number flags has a bit of when, or none of unless.
	flags        int
	when, unless uint32
}

// writing are the flags of open(2) that can change a file.
const writing = unix.O_CREAT | unix.O_TRUNC | unix.O_WRONLY | unix.O_RDWR

// calls are the system calls that change state outside of the process that makes
// them. Our programs make no others of that kind: the forms without a directory
// descriptor are not in Go's libraries.
var calls = map[uintptr]call{
	unix.SYS_OPENAT:            {name: "openat", arg: byAt, disk: true, flags: 2, when: writing},
	unix.SYS_OPENAT2:           {name: "openat2", arg: byAt},
	unix.SYS_WRITE:             {name: "write", arg: byFD, disk: true},
	unix.SYS_PWRITE64:          {name: "pwrite64", arg: byFD, disk: true},
	unix.SYS_WRITEV:            {name: "writev", arg: byFD, disk: true},
	unix.SYS_PWRITEV:           {name: "pwritev", arg: byFD, disk: true},
	unix.SYS_COPY_FILE_RANGE:   {name: "copy_file_range", disk: true},
	unix.SYS_SENDFILE:          {name: "sendfile", arg: byFD, disk: true},
	unix.SYS_FSYNC:             {name: "fsync", arg: byFD, disk: true},
	unix.SYS_FDATASYNC:         {name: "fdatasync", arg: byFD, disk: true},
	unix.SYS_SYNCFS:            {name: "syncfs", arg: byFD, disk: true},
	unix.SYS_FALLOCATE:         {name: "fallocate", arg: byFD, disk: true},
	unix.SYS_FTRUNCATE:         {name: "ftruncate", arg: byFD, disk: true},
	unix.SYS_TRUNCATE:          {name: "truncate", arg: byPath, disk: true},
	unix.SYS_RENAMEAT:          {name: "renameat", arg: byAt, disk: true},
	unix.SYS_RENAMEAT2:         {name: "renameat2", arg: byAt, disk: true},
	unix.SYS_LINKAT:            {name: "linkat", arg: byAt, disk: true},
	unix.SYS_SYMLINKAT:         {name: "symlinkat", arg: byPath, disk: true},
	unix.SYS_UNLINKAT:          {name: "unlinkat", arg: byAt},
	unix.SYS_MKDIRAT:           {name: "mkdirat", arg: byAt, disk: true},
	unix.SYS_MKNODAT:           {name: "mknodat", arg: byAt, disk: true},
	unix.SYS_FCHMOD:            {name: "fchmod", arg: byFD},
	unix.SYS_FCHMODAT:          {name: "fchmodat", arg: byAt},
	unix.SYS_FCHOWN:            {name: "fchown", arg: byFD},
	unix.SYS_FCHOWNAT:          {name: "fchownat", arg: byAt},
	unix.SYS_UTIMENSAT:         {name: "utimensat", arg: byAt},
	unix.SYS_SETXATTR:          {name: "setxattr", arg: byPath, disk: true},
	unix.SYS_LSETXATTR:         {name: "lsetxattr", arg: byPath, disk: true},
	unix.SYS_FSETXATTR:         {name: "fsetxattr", arg: byFD, disk: true},
	unix.SYS_MOUNT:             {name: "mount", arg: byAt},
	unix.SYS_UMOUNT2:           {name: "umount2", arg: byPath},
	unix.SYS_FSCONFIG:          {name: "fsconfig"},
	unix.SYS_FSMOUNT:           {name: "fsmount"},
	unix.SYS_OPEN_TREE:         {name: "open_tree", arg: byAt},
	unix.SYS_MOVE_MOUNT:        {name: "move_mount"},
	unix.SYS_MOUNT_SETATTR:     {name: "mount_setattr"},
	unix.SYS_PIVOT_ROOT:        {name: "pivot_root", arg: byPath},
	unix.SYS_CHROOT:            {name: "chroot", arg: byPath},
	unix.SYS_CLONE:             {name: "clone", flags: 0, unless: unix.CLONE_THREAD},
	unix.SYS_CLONE3:            {name: "clone3"},
	unix.SYS_EXECVE:            {name: "execve", arg: byPath},
	unix.SYS_EXECVEAT:          {name: "execveat", arg: byAt},
	unix.SYS_UNSHARE:           {name: "unshare"},
	unix.SYS_SETNS:             {name: "setns", arg: byFD},
	unix.SYS_SETHOSTNAME:       {name: "sethostname"},
	unix.SYS_SENDTO:            {name: "sendto", arg: byFD},
	unix.SYS_SENDMSG:           {name: "sendmsg", arg: byFD},
	unix.SYS_CONNECT:           {name: "connect", arg: byFD},
	unix.SYS_BIND:              {name: "bind", arg: byFD},
	unix.SYS_LISTEN:            {name: "listen", arg: byFD},
	unix.SYS_KILL:              {name: "kill"},
	unix.SYS_PIDFD_SEND_SIGNAL: {name: "pidfd_send_signal"},
}
