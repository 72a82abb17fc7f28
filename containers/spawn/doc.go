// Package spawn starts processes by scripts of system calls.
//
// A container's first process has to do much before it may become the program it
// is for: join or set up namespaces, mount, pivot, drop what it may do. A Go
// process cannot do that for itself (joining a user namespace needs a single
// thread, and nothing of the runtime may be left for the program to find), and
// starting another one only for that costs more than all the system calls together.
// So the parent writes them down beforehand, with every string and structure in
// its memory; clone3 makes a copy of it with a single thread; and a loop of a few
// lines makes the calls, without stack growth, allocation, scheduler or signal
// handlers, until execve replaces it. A call that fails ends the child, and the
// parent learns which one and why.
//
// Results of calls go into registers that later calls can name, so descriptors
// need not be known beforehand, and what is mounted is mounted by descriptor.
package spawn
