// Package cgroup makes, limits, watches and removes control groups on every kind of host: version 2
// alone, version 1 alone, and hybrid (version 1 controllers beside a cgroup2 mount that has few or none).
//
// The story of one container: the daemon calls [Detect] once. [Host.Create] makes a directory in every
// hierarchy and writes the limits while the group is empty, so that no process runs without them (but for
// version 1's pids.max, which comes right after the fork). [Group.Join] tells the supervisor how to fork
// into it: by CLONE_INTO_CGROUP where there is a cgroup2 directory; and, for version 1, by moving the forking
// thread there and back, which costs some 20 µs a hierarchy where moving another process costs
// milliseconds. A daemon that comes back finds the group with [Host.Open]. [Group.Remove] takes everything
// away, groups that the container made inside its own too.
//
// A controller is looked up once per host: where it is mounted as version 1, version 1 files are
// used; otherwise the cgroup2 hierarchy's, if it has the controller. What is not a controller (freezing,
// killing, device filters by BPF) uses whichever hierarchy can do it.
//
// The files are those of the kernel's Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/. This
// package knows nothing of Docker's API types; [Resources] says how they map.
package cgroup
