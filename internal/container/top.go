package container

import (
	"bytes"
	"context"
	"errors"
	osexec "os/exec"
	"slices"
	"strconv"
	"strings"

	"gantry/internal/errs"
)

// Top lists the processes of a running container as the host's ps(1) shows them. args are ps's; empty is "-ef".
func (s *Service) Top(ctx context.Context, ref, args string) (titles []string, processes [][]string, err error) {
	c, err := s.find(ref)
	if err != nil {
		return nil, nil, err
	}
	snap := c.get()
	if snap.Status == Restarting {
		return nil, nil, errs.Conflict.Errorf("Container %s is restarting, wait until the container is running", c.id)
	}
	if snap.live == nil || !snap.Status.Alive() {
		return nil, nil, errNotRunning(c.id)
	}
	if strings.TrimSpace(args) == "" {
		args = "-ef"
	}
	fields := strings.Fields(args)
	for _, f := range fields {
		// procps gives the column another name then, by which the container's processes could not be told.
		if _, name, ok := strings.Cut(strings.ToLower(f), "pid="); ok && name != "" {
			return nil, nil, errs.Invalid.Errorf("specifying %q is not allowed", f)
		}
	}
	g, err := s.Cgroups.OpenDirs(snap.live.Cgroup.Dirs)
	if err != nil {
		return nil, nil, err
	}
	pids, err := g.Procs()
	if err != nil {
		return nil, nil, err
	}
	var stderr bytes.Buffer
	cmd := osexec.CommandContext(ctx, "ps", fields...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		if errors.Is(err, osexec.ErrNotFound) {
			return nil, nil, errs.Internal.Errorf("error running ps: %w", err)
		}
		line, _, _ := strings.Cut(strings.TrimSpace(stderr.String()), "\n")
		return nil, nil, errs.Internal.Errorf("error running ps: %w: %s", err, line)
	}
	if titles, processes, err = pickProcesses(string(out), pids); err == nil {
		s.event(&snap, "top")
	}
	return titles, processes, err
}

// pickProcesses takes from what ps printed the lines of the processes in pids. The last column may hold blanks.
func pickProcesses(out string, pids []int) (titles []string, processes [][]string, err error) {
	lines := strings.Split(out, "\n")
	titles = strings.Fields(lines[0])
	at := slices.Index(titles, "PID")
	if at < 0 {
		return nil, nil, errs.Internal.Errorf("Couldn't find PID field in ps output")
	}
	for _, line := range lines[1:] {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if at >= len(f) {
			continue
		}
		pid, err := strconv.Atoi(f[at])
		if err != nil {
			if f[at] == "-" { // a thread's line
				continue
			}
			return nil, nil, errs.Internal.Errorf("Unexpected pid '%s': %w", f[at], err)
		}
		if !slices.Contains(pids, pid) {
			continue
		}
		last := len(titles) - 1
		if len(f) > last {
			f = append(slices.Clone(f[:last]), strings.Join(f[last:], " "))
		}
		processes = append(processes, f)
	}
	return titles, processes, nil
}
