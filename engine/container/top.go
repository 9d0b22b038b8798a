package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	osexec "os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	api "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
)

// topLimit bounds the run of ps.
const topLimit = 10 * time.Second

// Top lists the container's processes in the columns of ps -ef, from /proc. Other
// psArgs run the host's ps, of whose output the container's processes are kept.
func (m *Manager) Top(ctx context.Context, ref, psArgs string) (api.TopResponse, error) {
	e, err := m.lookup(ref)
	if err != nil {
		return api.TopResponse{}, err
	}
	r := e.rec.Load()
	switch {
	case r.State == Restarting:
		return api.TopResponse{}, refusal(r, evPause)
	case !r.State.hasTask():
		return api.TopResponse{}, notRunning(r.ID)
	}
	pids, err := m.Services.Tasks.Pids(m.in(ctx), r.ID)
	if err != nil {
		return api.TopResponse{}, fmt.Errorf("list processes of container %s: %w", r.ID, err)
	}
	slices.Sort(pids)
	var top api.TopResponse
	if psArgs == "" || psArgs == "-ef" {
		top, err = topProc(pids)
	} else {
		top, err = topPS(ctx, psArgs, pids)
	}
	if err != nil {
		return top, err
	}
	m.publish(r, events.ActionTop)
	return top, nil
}

// topProc is ps -ef for pids.
func topProc(pids []uint32) (api.TopResponse, error) {
	top := api.TopResponse{
		Titles:    []string{"UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"},
		Processes: [][]string{},
	}
	boot, err := bootTime()
	if err != nil {
		return top, err
	}
	names := hostUsers()
	for _, pid := range pids {
		row, err := procRow(pid, boot, names)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, errNoProcess) {
			continue // ended
		}
		if err != nil {
			return top, err
		}
		top.Processes = append(top.Processes, row)
	}
	return top, nil
}

var errNoProcess = errors.New("no such process")

// procRow reads one process.
func procRow(pid uint32, boot time.Time, names map[string]string) ([]string, error) {
	dir := "/proc/" + strconv.Itoa(int(pid))
	stat, err := readSmall(dir + "/stat")
	if err != nil {
		return nil, err
	}
	// The name stands in parentheses and may hold any byte.
	open, end := strings.IndexByte(stat, '('), strings.LastIndexByte(stat, ')')
	if open < 0 || end < open {
		return nil, errNoProcess
	}
	comm := stat[open+1 : end]
	f := strings.Fields(stat[end+1:]) // from field 3, state, on
	if len(f) < 20 {
		return nil, errNoProcess
	}
	num := func(field int) int64 { v, _ := strconv.ParseInt(f[field-3], 10, 64); return v }
	cpu := time.Duration(num(14)+num(15)) * time.Duration(nanosPerTick)
	started := boot.Add(time.Duration(num(22)) * time.Duration(nanosPerTick))
	alive := time.Since(started)
	percent := int64(0)
	if alive > 0 {
		percent = min(99, int64(100*cpu/alive))
	}
	stime := started.Format("15:04")
	if alive > 24*time.Hour {
		stime = started.Format("Jan02")
	}
	uid := ""
	status, err := readSmall(dir + "/status")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(status) {
		if rest, ok := strings.CutPrefix(line, "Uid:"); ok {
			if ids := strings.Fields(rest); len(ids) > 1 {
				uid = ids[1] // effective
			}
		}
	}
	if name, ok := names[uid]; ok {
		uid = name
	}
	cmdline, err := readSmall(dir + "/cmdline")
	if err != nil {
		return nil, err
	}
	cmd := strings.TrimSpace(strings.ReplaceAll(strings.TrimRight(cmdline, "\x00"), "\x00", " "))
	if cmd == "" {
		cmd = "[" + comm + "]"
	}
	secs := int64(cpu / time.Second)
	return []string{
		uid, strconv.Itoa(int(pid)), f[1], strconv.FormatInt(percent, 10), stime, ttyName(num(7)),
		fmt.Sprintf("%02d:%02d:%02d", secs/3600, secs/60%60, secs%60), cmd,
	}, nil
}

// ttyName names a terminal by its device number.
func ttyName(dev int64) string {
	major, minor := dev>>8&0xfff, dev&0xff|dev>>12&0xfff00
	switch {
	case dev == 0:
		return "?"
	case major >= 136 && major <= 143: // pseudo terminals, 256 per major
		return "pts/" + strconv.FormatInt(minor+(major-136)*256, 10)
	case major == 4 && minor < 64:
		return "tty" + strconv.FormatInt(minor, 10)
	case major == 4:
		return "ttyS" + strconv.FormatInt(minor-64, 10)
	}
	return "?"
}

func bootTime() (time.Time, error) {
	text, err := readSmall("/proc/stat")
	if err != nil {
		return time.Time{}, err
	}
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, "btime "); ok {
			secs, err := strconv.ParseInt(strings.TrimSpace(rest), 10, 64)
			return time.Unix(secs, 0), err
		}
	}
	return time.Time{}, errors.New("read /proc/stat: no boot time")
}

// hostUsers maps the host's user IDs to names, as ps does.
func hostUsers() map[string]string {
	names := map[string]string{}
	data, err := os.ReadFile("/etc/passwd")
	if err != nil {
		return names
	}
	for fields := range lines(data) {
		if len(fields) > 2 {
			if _, dup := names[fields[2]]; !dup {
				names[fields[2]] = fields[0]
			}
		}
	}
	return names
}

// topPS runs the host's ps. There is no shell: psArgs are words.
func topPS(ctx context.Context, psArgs string, pids []uint32) (api.TopResponse, error) {
	var top api.TopResponse
	for _, word := range strings.Fields(psArgs) {
		// A renamed PID column would let other processes through.
		if key, value, ok := strings.Cut(word, "="); ok && strings.HasPrefix(value, "PID") && key != "pid" {
			return top, invalid("specifying \"%s\" is not allowed", word)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, topLimit)
	defer cancel()
	out, err := osexec.CommandContext(ctx, "ps", strings.Fields(psArgs)...).Output()
	if err != nil {
		if ee, ok := errors.AsType[*osexec.ExitError](err); ok {
			if line, _, _ := bytes.Cut(ee.Stderr, []byte("\n")); len(line) > 0 {
				err = errors.New(string(line))
			}
		}
		return top, fmt.Errorf("ps: %w", err)
	}
	return filterPS(string(out), pids)
}

// filterPS keeps the lines of pids. The last column takes all words that are left.
func filterPS(out string, pids []uint32) (api.TopResponse, error) {
	header, rest, _ := strings.Cut(out, "\n")
	top := api.TopResponse{Titles: strings.Fields(header), Processes: [][]string{}}
	column := slices.Index(top.Titles, "PID")
	if column < 0 {
		return top, errors.New("Couldn't find PID field in ps output")
	}
	ours := false
	for line := range strings.Lines(rest) {
		f := strings.Fields(line)
		if len(f) < len(top.Titles) {
			continue
		}
		if f[column] != "-" { // else a thread of the process above
			pid, err := strconv.ParseUint(f[column], 10, 32)
			if err != nil {
				return top, fmt.Errorf("Unexpected pid '%s': %w", f[column], err)
			}
			ours = slices.Contains(pids, uint32(pid))
		}
		if ours {
			last := len(top.Titles) - 1
			top.Processes = append(top.Processes, append(f[:last:last], strings.Join(f[last:], " ")))
		}
	}
	return top, nil
}
