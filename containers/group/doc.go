// Package group gives one container a cgroup of its own (version 2 only): where it
// is, its limits and devices, and how it is frozen, watched, killed and removed.
//
// Limits are in force before the first process is: Create returns a folder for
// clone3(CLONE_INTO_CGROUP). With systemd the cgroup is a scope, which systemd makes
// only around a process: a placeholder holds it until the container's own is in.
//
// A Ref is what has to be saved to find the cgroup again. It holds the cgroup's
// inode, which no later cgroup of the same path has, so that Kill and Remove never
// reach another's.
//
// See https://docs.kernel.org/admin-guide/cgroup-v2.html and
// https://github.com/opencontainers/runtime-spec/blob/v1.3.0/config-linux.md.
package group
