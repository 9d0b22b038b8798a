package spec

import "golang.org/x/sys/unix"

// procfs reports whether path is on a procfs, as the source of a bind mount on
// /proc must be.
func procfs(path string) bool {
	var st unix.Statfs_t
	return path != "" && unix.Statfs(path, &st) == nil && st.Type == unix.PROC_SUPER_MAGIC
}
