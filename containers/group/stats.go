package group

import (
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"

	"github.com/containerd/cgroups/v3/cgroup2"
	"github.com/containerd/cgroups/v3/cgroup2/stats"
)

// An Event is a line of "runc events".
type Event struct {
	Type string `json:"type"` // "stats" or "oom"
	ID   string `json:"id"`
	Data any    `json:"data,omitempty"`
}

// Stats is what a cgroup has used, in the shape of runc's.
//
// See https://github.com/opencontainers/runc/blob/main/types/events.go.
type Stats struct {
	CPU     CPUStats                `json:"cpu"`
	CPUSet  CPUSetStats             `json:"cpuset"`
	Memory  MemoryStats             `json:"memory"`
	Pids    PidsStats               `json:"pids"`
	BlockIO BlockIOStats            `json:"blkio"`
	Hugetlb map[string]HugetlbStats `json:"hugetlb"`
	Rdma    map[string]RdmaStats    `json:"rdma,omitempty"`
}

// CPUStats has nanoseconds.
type CPUStats struct {
	Usage struct {
		Total  uint64 `json:"total,omitempty"`
		Kernel uint64 `json:"kernel"`
		User   uint64 `json:"user"`
	} `json:"usage"`
	Throttling struct {
		Periods          uint64 `json:"periods,omitempty"`
		ThrottledPeriods uint64 `json:"throttledPeriods,omitempty"`
		ThrottledTime    uint64 `json:"throttledTime,omitempty"`
	} `json:"throttling"`
	Burst struct {
		Periods uint64 `json:"burstsPeriods,omitempty"`
		Time    uint64 `json:"burstTime,omitempty"`
	} `json:"burst"`
	PSI *PSI `json:"psi,omitempty"`
}

// CPUSetStats has the cpus and nodes that the cgroup really runs on.
type CPUSetStats struct {
	CPUs []uint16 `json:"cpus,omitempty"`
	Mems []uint16 `json:"mems,omitempty"`
}

// MemoryStats has bytes; Swap is of memory and swap together, as with cgroup v1.
type MemoryStats struct {
	Cache uint64            `json:"cache,omitempty"`
	Usage MemoryUse         `json:"usage"`
	Swap  MemoryUse         `json:"swap"`
	Raw   map[string]uint64 `json:"raw,omitempty"` // memory.stat
	PSI   *PSI              `json:"psi,omitempty"`
}

// MemoryUse has the largest uint64 for no limit. Failcnt is how often the limit was
// met (memory.events max, memory.swap.events fail).
type MemoryUse struct {
	Limit   uint64 `json:"limit"`
	Usage   uint64 `json:"usage,omitempty"`
	Max     uint64 `json:"max,omitempty"`
	Failcnt uint64 `json:"failcnt"`
}

// PidsStats counts tasks. A limit of 0 is none.
type PidsStats struct {
	Current uint64 `json:"current,omitempty"`
	Limit   uint64 `json:"limit,omitempty"`
}

// BlockIOStats has bytes and operations by device.
type BlockIOStats struct {
	Bytes      []BlockIOEntry `json:"ioServiceBytesRecursive,omitempty"`
	Operations []BlockIOEntry `json:"ioServicedRecursive,omitempty"`
	PSI        *PSI           `json:"psi,omitempty"`
}

// A BlockIOEntry is a device's sum of "Read" or "Write".
type BlockIOEntry struct {
	Major uint64 `json:"major,omitempty"`
	Minor uint64 `json:"minor,omitempty"`
	Op    string `json:"op,omitempty"`
	Value uint64 `json:"value,omitempty"`
}

// HugetlbStats has the bytes of one size of pages.
type HugetlbStats struct {
	Usage   uint64 `json:"usage,omitempty"`
	Max     uint64 `json:"max,omitempty"`
	Failcnt uint64 `json:"failcnt"`
}

// RdmaStats is what is used of one device.
type RdmaStats struct {
	HcaHandles uint32 `json:"hcaHandles"`
	HcaObjects uint32 `json:"hcaObjects"`
}

// PSI is pressure stall information.
//
// See https://docs.kernel.org/accounting/psi.html.
type PSI struct {
	Some PSIData `json:"some"`
	Full PSIData `json:"full"`
}

// PSIData has percents, and Total in microseconds.
type PSIData struct {
	Avg10  float64 `json:"avg10"`
	Avg60  float64 `json:"avg60"`
	Avg300 float64 `json:"avg300"`
	Total  uint64  `json:"total"`
}

// Stats reads what the cgroup has used. What its controllers do not count is 0.
func (r Ref) Stats() (*Stats, error) {
	fail := func(err error) (*Stats, error) {
		return nil, fmt.Errorf("cannot read the statistics of cgroup %s: %w", r.Path, err)
	}
	if !r.Exists() {
		return fail(os.ErrNotExist)
	}
	m, err := cgroup2.Load(r.Path, cgroup2.WithMountpoint(r.Root))
	if err != nil {
		return fail(err)
	}
	// Of controllers that are not there, the library would tell the log.
	mask := cgroup2.StatCPU
	has := map[string]bool{}
	for _, c := range strings.Fields(r.read("cgroup.controllers")) {
		has[c] = true
		mask |= map[string]cgroup2.StatMask{"io": cgroup2.StatIO, "rdma": cgroup2.StatRdma, "hugetlb": cgroup2.StatHugetlb}[c]
	}
	got, err := m.StatFiltered(mask)
	if err != nil {
		return fail(err)
	}
	s := &Stats{Hugetlb: map[string]HugetlbStats{}}
	if c := got.CPU; c != nil {
		s.CPU.Usage.Total, s.CPU.Usage.Kernel, s.CPU.Usage.User = c.UsageUsec*1000, c.SystemUsec*1000, c.UserUsec*1000
		s.CPU.Throttling.Periods, s.CPU.Throttling.ThrottledPeriods, s.CPU.Throttling.ThrottledTime = c.NrPeriods, c.NrThrottled, c.ThrottledUsec*1000
		s.CPU.Burst.Periods, s.CPU.Burst.Time = c.NrBursts, c.BurstUsec*1000
		s.CPU.PSI = psi(c.PSI)
	}
	s.CPUSet.CPUs, s.CPUSet.Mems = numbers(r.read("cpuset.cpus.effective")), numbers(r.read("cpuset.mems.effective"))
	if has["memory"] {
		if s.Memory, err = r.memoryStats(); err != nil {
			return fail(err)
		}
	}
	if has["pids"] {
		s.Pids.Current = amount(r.read("pids.current"))
		if limit := amount(r.read("pids.max")); limit != math.MaxUint64 {
			s.Pids.Limit = limit
		}
	}
	if got.Io != nil {
		for _, e := range got.Io.Usage {
			s.BlockIO.Bytes = append(s.BlockIO.Bytes, BlockIOEntry{e.Major, e.Minor, "Read", e.Rbytes}, BlockIOEntry{e.Major, e.Minor, "Write", e.Wbytes})
			s.BlockIO.Operations = append(s.BlockIO.Operations, BlockIOEntry{e.Major, e.Minor, "Read", e.Rios}, BlockIOEntry{e.Major, e.Minor, "Write", e.Wios})
		}
		s.BlockIO.PSI = psi(got.Io.PSI)
	}
	for _, h := range got.Hugetlb {
		s.Hugetlb[h.Pagesize] = HugetlbStats{Usage: h.Current, Max: h.Max, Failcnt: h.Failcnt}
	}
	if got.Rdma != nil {
		for _, e := range got.Rdma.Current {
			if s.Rdma == nil {
				s.Rdma = map[string]RdmaStats{}
			}
			s.Rdma[e.Device] = RdmaStats{e.HcaHandles, e.HcaObjects}
		}
	}
	return s, nil
}

func (r Ref) memoryStats() (MemoryStats, error) {
	data, err := os.ReadFile(r.file("memory.stat"))
	if err != nil {
		return MemoryStats{}, err
	}
	s := MemoryStats{Raw: parseFlat(string(data)), PSI: parsePSI(r.read("memory.pressure"))}
	s.Cache = s.Raw["file"]
	s.Usage = MemoryUse{Limit: amount(r.read("memory.max")), Usage: amount(r.read("memory.current")), Max: amount(r.read("memory.peak")),
		Failcnt: parseFlat(r.read("memory.events"))["max"]}
	if text := r.read("memory.swap.current"); text != "" {
		s.Swap = MemoryUse{Limit: amount(r.read("memory.swap.max")), Usage: s.Usage.Usage + amount(text), Failcnt: parseFlat(r.read("memory.swap.events"))["fail"]}
		if s.Swap.Limit > math.MaxUint64-s.Usage.Limit {
			s.Swap.Limit = math.MaxUint64
		} else {
			s.Swap.Limit += s.Usage.Limit
		}
	}
	return s, nil
}

// amount reads a number or "max".
func amount(s string) uint64 {
	if s == "max" {
		return math.MaxUint64
	}
	n, _ := strconv.ParseUint(s, 10, 64) // a file that is not there is 0
	return n
}

// parseFlat reads a flat keyed file of cgroup v2:
//
//	anon 90112
//	file 0
func parseFlat(s string) map[string]uint64 {
	out := map[string]uint64{}
	for line := range strings.Lines(s) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.ParseUint(value, 10, 64); err == nil && key != "" {
			out[key] = n
		}
	}
	return out
}

// parsePSI reads
//
//	some avg10=0.00 avg60=0.12 avg300=0.05 total=51234
//	full avg10=0.00 avg60=0.00 avg300=0.00 total=0
//
// and returns nil for none.
func parsePSI(s string) *PSI {
	var out *PSI
	for line := range strings.Lines(s) {
		words := strings.Fields(line)
		if len(words) == 0 || words[0] != "some" && words[0] != "full" {
			continue
		}
		if out == nil {
			out = &PSI{}
		}
		d := &out.Some
		if words[0] == "full" {
			d = &out.Full
		}
		for _, w := range words[1:] {
			key, value, _ := strings.Cut(w, "=")
			f, _ := strconv.ParseFloat(value, 64)
			if math.IsNaN(f) || math.IsInf(f, 0) {
				f = 0 // JSON has no word for it
			}
			switch key {
			case "avg10":
				d.Avg10 = f
			case "avg60":
				d.Avg60 = f
			case "avg300":
				d.Avg300 = f
			case "total":
				d.Total, _ = strconv.ParseUint(value, 10, 64)
			}
		}
	}
	return out
}

func psi(p *stats.PSIStats) *PSI {
	if p == nil {
		return nil
	}
	data := func(d *stats.PSIData) PSIData {
		return PSIData{d.GetAvg10(), d.GetAvg60(), d.GetAvg300(), d.GetTotal()}
	}
	return &PSI{data(p.Some), data(p.Full)}
}

// numbers reads a list such as 0,2-3.
func numbers(list string) []uint16 {
	bits, err := bitmap(list)
	if err != nil {
		return nil
	}
	var out []uint16
	for i, b := range bits {
		for bit := range 8 {
			if b>>bit&1 == 1 {
				out = append(out, uint16(8*i+bit))
			}
		}
	}
	return out
}
