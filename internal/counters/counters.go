// Package counters counts the cycles and instructions of cgroups' work, and learns from
// them what share of its time scales with the clock.
package counters

import (
	"errors"
	"time"

	"github.com/powerd/powerd/internal/cpuset"
)

// A Count is what a cgroup's tasks, and those of cgroups in it, have done on one cpu since
// a Counter was opened.
type Count struct {
	CPU                  cpuset.CPU
	Cycles, Instructions uint64
	// Running is the time that the tasks ran while both were counted, Enabled all the time
	// that they ran: it is more where the cpu's counters are shared with others.
	Enabled, Running time.Duration
}

// A Source is what a machine counts with.
type Source interface {
	// Open begins to count the work of a cgroup, a folder such as
	// sys/fs/cgroup/powerd/batch, on some cpus; those that cannot count are left out. The
	// error wraps fs.ErrNotExist where the cgroup has gone, ErrNone and ErrDenied where
	// nothing can be counted, and ErrCrowded where no more can.
	Open(cgroup string, cpus cpuset.Set) (Counter, error)
}

// Reasons why a Source does not count; an error that wraps one says more.
var (
	ErrNone    = errors.New("this machine counts no cycles and instructions")
	ErrDenied  = errors.New("powerd may not count cycles and instructions")
	ErrCrowded = errors.New("no more cycles and instructions can be counted")
)

// A Counter counts until it is closed, even when its cgroup has gone.
type Counter interface {
	// Read appends what was counted so far, by cpu.
	Read(to []Count) ([]Count, error)
	Close() error
}

// Descriptors is how many files a Counter keeps open for each of its cpus.
const Descriptors = 2
