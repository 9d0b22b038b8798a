package container

import (
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// The range of signals that a container may be sent.
const (
	sigMax = 64
	// The real-time signals as the C library numbers them: it keeps 32 and 33.
	sigRTMin = 34
	sigRTMax = 64
)

// parseSignal reads a signal by name, with or without SIG, or by number.
func parseSignal(s string) (syscall.Signal, error) {
	if n, err := strconv.Atoi(s); err == nil {
		if n <= 0 || n > sigMax {
			return 0, invalid("invalid signal: %s", s)
		}
		return syscall.Signal(n), nil
	}
	name := strings.TrimPrefix(strings.ToUpper(s), "SIG")
	if sig := unix.SignalNum("SIG" + name); sig != 0 {
		return sig, nil
	}
	base, offset, sign := 0, "", 1
	switch {
	case strings.HasPrefix(name, "RTMIN"):
		base, offset = sigRTMin, strings.TrimPrefix(name, "RTMIN")
		offset = strings.TrimPrefix(offset, "+")
	case strings.HasPrefix(name, "RTMAX"):
		base, offset, sign = sigRTMax, strings.TrimPrefix(name, "RTMAX"), -1
		offset = strings.TrimPrefix(offset, "-")
	default:
		return 0, invalid("invalid signal: %s", s)
	}
	n := 0
	if offset != "" {
		var err error
		if n, err = strconv.Atoi(offset); err != nil {
			return 0, invalid("invalid signal: %s", s)
		}
	}
	if n < 0 || base+sign*n < sigRTMin || base+sign*n > sigRTMax {
		return 0, invalid("invalid signal: %s", s)
	}
	return syscall.Signal(base + sign*n), nil
}

// stopSignal returns the signal that asks the container to end.
func (r *record) stopSignal() syscall.Signal {
	if r.Config.StopSignal != "" {
		if sig, err := parseSignal(r.Config.StopSignal); err == nil {
			return sig
		}
	}
	return syscall.SIGTERM
}
