package image

import "strings"

// sameRegistry reports whether credentials for the address a client gave may go
// to host. Docker Hub has several addresses; no address means the registry of
// the reference. Nothing is sent to a host that the client did not mean
// (CVE-2021-41092).
func sameRegistry(address, host string) bool {
	if address == "" {
		return true
	}
	address = strings.TrimPrefix(strings.TrimPrefix(address, "https://"), "http://")
	address, _, _ = strings.Cut(address, "/")
	switch address {
	case "index.docker.io", "registry-1.docker.io", "docker.io":
		address = "docker.io"
	}
	return address == host
}
