// Package seccomp compiles linux.seccomp of config.json to a program for seccomp(2).
//
// The number of a call is found by a binary search over ranges of numbers with the
// same answer. The rules of a call are tried in their order; the first whose
// arguments all match decides. A call that is newer than all the profile names gets
// ENOSYS where the default would refuse it, so that programs fall back to older ones.
//
// See https://github.com/opencontainers/runtime-spec/blob/v1.3.0/config-linux.md#seccomp
// and https://docs.kernel.org/userspace-api/seccomp_filter.html.
package seccomp
