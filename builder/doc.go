// Package builder is docker-buildkitd as a library: BuildKit's solver working on
// our containerd, with dockerd for its host.
//
// Content, snapshots, leases and images are those of containerd.Services, in
// the namespace of the engine, so that what a build makes is there to run. The
// steps of a build run under our runc, in the network that dockerd gives them.
//
// The process lives in its own PID and mount namespaces (Isolate). When it ends,
// however it ends, the kernel kills every step and unmounts what the steps had:
// what is left, control groups and scratch files, dockerd sweeps.
//
// It may import BuildKit, which no other component does, and of containerd
// what the engine sees.
package builder
