package state

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
)

// Process is what /proc/PID/stat tells of a process.
type Process struct {
	// Dead says that it is a zombie or being removed.
	Dead bool
	// StartTime is when it started, in clock ticks since boot.
	StartTime uint64
}

// ReadProcess reads /proc/pid/stat.
func ReadProcess(pid int) (Process, error) {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return Process{}, fmt.Errorf("read process: %w", err)
	}
	return parseStat(raw)
}

// parseStat parses the line. The second field, the program's name, is in
// parentheses and may hold anything, parentheses included.
func parseStat(raw []byte) (Process, error) {
	end := bytes.LastIndexByte(raw, ')')
	if end < 0 {
		return Process{}, fmt.Errorf("read process: bad stat %q", raw)
	}
	fields := bytes.Fields(raw[end+1:])
	if len(fields) < 20 {
		return Process{}, fmt.Errorf("read process: bad stat %q", raw)
	}
	start, err := strconv.ParseUint(string(fields[19]), 10, 64)
	if err != nil {
		return Process{}, fmt.Errorf("read process: bad start time: %w", err)
	}
	state := fields[0][0]
	return Process{Dead: state == 'Z' || state == 'X' || state == 'x', StartTime: start}, nil
}
