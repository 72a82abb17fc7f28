// Package spawn starts processes by scripts of system calls.
//
// A container's first process has to do much before it may become the program it
// is for: join or set up namespaces, mount, pivot, drop what it may do. A Go
// process cannot do that for itself (joining a user namespace needs a single
// thread, and nothing of the runtime may be left for the program to find), and
// starting another one only for that costs more than all the system calls together.
// So the parent writes them down beforehand, with every string and structure, as a
// static program of a few kilobytes: a loop in assembler that makes the calls, and
// its data (image.go). The program lies in a sealed memfd; clone3 and execveat
// start it in its namespaces and cgroup, and its last call is the execve of what
// the container is for.
//
// What there is of the runtime in a container is that program alone: one thread, no
// memory and no descriptors of the parent's but those the script names, and an
// executable that nobody can write to (CVE-2019-5736).
//
// Results of calls go into registers that later calls can name, so descriptors
// need not be known beforehand, and what is mounted is mounted by descriptor.
package spawn
