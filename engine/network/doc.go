// Package network gives containers their networks: bridges, addresses, published
// ports, and the files that name them. It is the only owner of what it makes in
// the kernel and speaks to it by netlink alone; no program is executed.
//
// All of it happens in the network namespace the process runs in.
//
// # Life of a container's network
//
//	Allocate   addresses and host ports are reserved and recorded; the contents
//	           of /etc/hosts and /etc/resolv.conf are known
//	Connect    the veth pair, addresses and routes are made in the namespace of
//	           the created process; the firewall publishes the ports
//	Release    all of it is given back
//
// # Crash story
//
// What outlives the process is recorded before it is made, one file per container
// in StateDir/sandboxes. Network definitions, in StateDir/networks, are synced to
// disk before a user hears of them. Sandbox files are not synced: a machine that
// lost power has lost the kernel objects, too. At start-up Open builds the
// firewall from the records in one transaction, so the ports of containers that
// kept running stay published throughout, and Restore frees what belongs to
// containers that did not. A file whose name ends in ".gone" is of something that
// is being removed; Open finishes that.
//
// # What differs from Docker
//
// Networks of the drivers bridge, macvlan and ipvlan are supported, and the
// predefined networks bridge,
// host and none. Unknown options of networks and endpoints are refused. Names of
// containers that the name server knows are answered for every type of record,
// with an empty answer where Docker would ask the host's servers; a change of the
// host's resolv.conf is followed at once. The hardware address of an endpoint
// follows from its IP address unless one is asked for. IPv6 subnets that nobody
// chose are of a prefix that the daemon made up once and keeps (RFC 4193).
//
// Ports published on IPv6 are translated by the kernel, as those on IPv4, if the
// container has IPv6; what the host itself sends to ::1, and IPv6 for a container
// that has only IPv4, is forwarded by the process.
package network
