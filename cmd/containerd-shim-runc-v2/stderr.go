package main

import "golang.org/x/sys/unix"

// lossyStderr writes to standard error, which is a pipe to containerd, without
// ever waiting: when containerd hangs, log lines are lost, not containers held.
//
// The pipe may be shared, so it cannot be made non-blocking. A pipe that poll
// calls writable takes a page without waiting.
type lossyStderr struct{}

const pipeAtomic = 4096 // PIPE_BUF

func (lossyStderr) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		fds := []unix.PollFd{{Fd: 2, Events: unix.POLLOUT}}
		if n, err := unix.Poll(fds, 0); err == unix.EINTR {
			continue
		} else if err != nil || n == 0 || fds[0].Revents&unix.POLLOUT == 0 {
			return len(p), nil
		}
		n, err := unix.Write(2, rest[:min(len(rest), pipeAtomic)])
		if err != nil && err != unix.EINTR {
			return len(p), nil
		}
		rest = rest[max(n, 0):]
	}
	return len(p), nil
}
