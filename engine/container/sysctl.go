package container

import (
	"slices"
	"strings"

	api "github.com/moby/moby/api/types/container"
)

// ipcSysctls are those of an IPC namespace beside fs.mqueue.
var ipcSysctls = []string{
	"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem",
	"kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced",
}

// checkSysctls refuses settings that are not the container's own: the runtime
// would, at every start. The engine's modes must be settled.
func checkSysctls(c *api.Config, h *api.HostConfig) error {
	for key, value := range h.Sysctls {
		if key == "" || strings.ContainsAny(key, " \t\n\x00") || strings.Contains(key, "..") || strings.HasPrefix(key, "/") {
			return invalid("invalid sysctl %q", key)
		}
		if strings.ContainsAny(value, "\x00") {
			return invalid("invalid value of sysctl %q", key)
		}
		name := key
		if i := strings.IndexAny(key, "./"); i >= 0 && key[i] == '/' { // the notation of sysctl(8) with slashes
			name = strings.ReplaceAll(key, "/", ".")
		}
		switch {
		case slices.Contains(ipcSysctls, name), strings.HasPrefix(name, "fs.mqueue."):
			if h.IpcMode.IsHost() {
				return invalid("sysctl %q is not allowed in the hosts ipc namespace", key)
			}
		case strings.HasPrefix(name, "net."):
			if h.NetworkMode.IsHost() && !c.NetworkDisabled {
				return invalid("sysctl %q is not allowed in the hosts network namespace", key)
			}
		case name == "kernel.domainname":
			if h.UTSMode.IsHost() {
				return invalid("sysctl %q is not allowed in the hosts UTS namespace", key)
			}
		case name == "kernel.hostname":
			return invalid("sysctl %q is not allowed as it conflicts with the OCI \"hostname\" field", key)
		default:
			return invalid("sysctl %q is not in a separate kernel namespace", key)
		}
	}
	return nil
}
