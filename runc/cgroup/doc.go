// Package cgroup keeps the control groups of one container: it makes them,
// limits them, counts in them, freezes, kills and removes them, on cgroup v1,
// hybrid and v2 (the "cgroupfs driver").
//
// Where a group is:
//
//	cgroupsPath   v1 and hybrid                            v2
//	/a/b          <mount point of each hierarchy>/a/b      <mount point>/a/b
//	a/b           <own group in each hierarchy>/a/b        <parent of own group>/a/b
//	""            as the relative path <container id>
//
// On v2 a relative path starts at the parent of the caller's group because a
// group that has processes cannot have controllers enabled for its children.
//
// Limits come from the runtime specification's LinuxResources, which is written
// in terms of v1; this package converts them for v2. A limit that the host
// cannot set is an error: NotImplemented if the controller or the file is
// missing.
//
// Files are opened relative to a descriptor of the group's directory, which was
// opened without following symbolic links.
package cgroup
