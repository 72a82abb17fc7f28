package daemon

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"path"
	"slices"
	"time"

	"github.com/powerd/powerd/containers"
	"github.com/powerd/powerd/internal/counters"
	"github.com/powerd/powerd/internal/cpuset"
	"github.com/powerd/powerd/internal/units"
)

const (
	// maxDescriptors bounds what counting keeps open, and so what a tick reads, 512 groups
	// of some 3 us: on 8 cpus 64 containers, on 128 those 4 that use most, or more where
	// they are placed on fewer.
	maxDescriptors = 1024
	// leastCounted is the demand in cores below which a container is not worth counting.
	leastCounted = 0.01
	// stays is how much less demand one that is counted needs to stay so.
	stays = 1.5
	// leastRun is the time for which work must have run to tell something, and fullRun that
	// from which on more does not tell more.
	leastRun, fullRun = 5 * time.Millisecond, 100 * time.Millisecond
	// vainFor is for how many readings what was refused is not asked for again.
	vainFor = 64
)

// counting keeps counters open for the containers that use most cpu time.
type counting struct {
	source counters.Source // nil: nothing is counted
	open   map[containers.ID]*counted
	works  bool // something has been counted
	why    string
	// limit is of descriptors. For as many readings as crowded says there are no more than
	// the machine has let it have.
	limit, crowded, has int
	// vain are who cannot be counted, for now.
	vain map[containers.ID]*vain
	buf  []counters.Count
}

// vain is why a container cannot be counted, and for how many readings it is not tried.
type vain struct {
	err  error
	left int
}

// counted is a container that is counted on some cpus.
type counted struct {
	counters.Counter
	cpus  cpuset.Set
	usage time.Duration // at the last reading
	last  []counters.Count
}

func newCounting(source counters.Source) *counting {
	k := &counting{source: source, open: map[containers.ID]*counted{}, limit: maxDescriptors, vain: map[containers.ID]*vain{}}
	if source == nil {
		k.why = "nothing counts cycles and instructions here"
	}
	return k
}

func (k *counting) close() {
	for id := range k.open {
		k.drop(id)
	}
}

func (k *counting) drop(id containers.ID) {
	k.open[id].Close() //nolint:errcheck // it was only read
	delete(k.open, id)
}

func (k *counting) descriptors() (n int) {
	for _, c := range k.open {
		n += counters.Descriptors * c.cpus.Len()
	}
	return n
}

func (k *counting) state() CountingState {
	return CountingState{Containers: len(k.open), Descriptors: k.descriptors(), Why: k.why}
}

// observe reads what was counted since the last reading, and sees to it that those are
// counted which are worth it.
func (k *counting) observe(s *Seen, demand map[containers.ID]float64, problem func(string, error)) {
	if k.source == nil {
		return
	}
	s.Counts = make(map[containers.ID][]counters.Count, len(k.open))
	here := make(map[containers.ID]*Contained, len(s.Containers))
	for i := range s.Containers {
		here[s.Containers[i].ID] = &s.Containers[i]
	}
	for id, c := range k.open {
		now := here[id]
		if now == nil || now.Stat.Usage < c.usage { // it has gone; another of its name may be there
			k.drop(id)
			continue
		}
		c.usage = now.Stat.Usage
		var err error
		if k.buf, err = c.Read(k.buf[:0]); err != nil {
			problem(path.Join(s.Mount, string(id)), err)
			k.drop(id)
			continue
		}
		s.Counts[id] = since(c.last, k.buf)
		c.last = append(c.last[:0], k.buf...)
	}
	for id, v := range k.vain {
		if v.left--; v.left <= 0 || here[id] == nil {
			delete(k.vain, id)
		}
	}
	k.choose(s, demand)
}

// since is what was counted between two readings, by cpu; a cpu that was not counted
// before, or begins again, tells nothing.
func since(before, after []counters.Count) []counters.Count {
	out := make([]counters.Count, 0, len(after))
	i := 0
	for _, now := range after {
		for i < len(before) && before[i].CPU < now.CPU {
			i++
		}
		if i == len(before) || before[i].CPU != now.CPU {
			continue
		}
		was := before[i]
		if now.Running > was.Running && now.Cycles > was.Cycles && now.Instructions > was.Instructions {
			out = append(out, counters.Count{CPU: now.CPU, Cycles: now.Cycles - was.Cycles, Instructions: now.Instructions - was.Instructions,
				Enabled: now.Enabled - was.Enabled, Running: now.Running - was.Running})
		}
	}
	return out
}

// choose opens counters for those that use most cpu time, as far as descriptors go, on the
// cpus where they may run, and closes the others'.
func (k *counting) choose(s *Seen, demand map[containers.ID]float64) {
	type wish struct {
		id    containers.ID
		cpus  cpuset.Set
		open  cpuset.Set // it is counted on these, which are not many more
		worth float64
	}
	var wishes []wish
	online := s.Hardware.Topology.Online
	for _, c := range s.Containers {
		w := wish{id: c.ID, cpus: c.Allowed.Intersect(online), worth: newcomer}
		if c.CPUs != nil && !c.CPUs.Empty() {
			w.cpus = c.CPUs.Intersect(online)
		}
		if d, known := demand[c.ID]; known {
			w.worth = d
		}
		if open := k.open[c.ID]; open != nil {
			w.worth *= stays
			if w.cpus.SubsetOf(open.cpus) && open.cpus.Len() <= 4*w.cpus.Len() {
				w.open = open.cpus
			}
		}
		if w.worth >= leastCounted && !w.cpus.Empty() && k.vain[c.ID] == nil {
			wishes = append(wishes, w)
		}
	}
	slices.SortStableFunc(wishes, func(a, b wish) int { return cmp.Compare(b.worth, a.worth) })
	limit := k.limit
	if k.crowded > 0 {
		limit = min(limit, k.has)
		k.crowded--
	}
	left, n := limit, 0
	for ; n < len(wishes); n++ {
		w := &wishes[n]
		if !w.open.Empty() && counters.Descriptors*w.open.Len() <= left {
			w.cpus = w.open
		}
		if left -= counters.Descriptors * w.cpus.Len(); left < 0 {
			break
		}
	}
	if k.why = ""; n < len(wishes) {
		k.why = fmt.Sprintf("only the %d of %d containers that use most cpu time are counted, with at most %d descriptors", n, len(wishes), limit)
	}
	chosen := make(map[containers.ID]cpuset.Set, n)
	for _, w := range wishes[:n] {
		chosen[w.id] = w.cpus
	}
	for id, c := range k.open {
		if cpus, ok := chosen[id]; !ok || !cpus.Equal(c.cpus) {
			k.drop(id)
		}
	}
	for _, w := range wishes[:n] {
		if k.open[w.id] != nil {
			continue
		}
		if err := k.begin(s, w.id, w.cpus); err != nil {
			k.refused(w.id, err)
			if k.source == nil || k.crowded > 0 {
				break
			}
		}
	}
	if k.why == "" && len(k.vain) > 0 {
		id := slices.Min(slices.Collect(maps.Keys(k.vain)))
		k.why = fmt.Sprintf("%s is not counted: %v", id, k.vain[id].err)
	}
}

// begin opens a container's counters and reads where they stand.
func (k *counting) begin(s *Seen, id containers.ID, cpus cpuset.Set) error {
	c, err := k.source.Open(path.Join(s.Mount, string(id)), cpus)
	if err != nil {
		return err
	}
	now, err := c.Read(nil)
	if err != nil {
		c.Close() //nolint:errcheck // it could not be read
		return err
	}
	k.works = true
	at := &counted{Counter: c, cpus: cpus, last: now}
	for _, o := range s.Containers {
		if o.ID == id {
			at.usage = o.Stat.Usage
		}
	}
	k.open[id] = at
	return nil
}

// refused takes the consequences of a refusal.
func (k *counting) refused(id containers.ID, err error) {
	switch {
	case errors.Is(err, fs.ErrNotExist): // it has just gone
	case errors.Is(err, counters.ErrCrowded):
		k.crowded, k.has = vainFor, k.descriptors()
		k.why = err.Error()
	case !k.works && (errors.Is(err, counters.ErrNone) || errors.Is(err, counters.ErrDenied)): // nor will it work later
		k.source, k.why = nil, err.Error()
	default:
		k.vain[id] = &vain{err, vainFor}
	}
}

// bound is what was learned of what a container's work is bound by.
type bound struct {
	// kinds are the shares learned on each kind of core, by its first domain.
	kinds map[int]counters.Share
	// share is what decisions go by, if known: it follows what was learned only when that
	// has moved.
	share float64
	known bool
	usage time.Duration
	// busy is the cpu time in cores of the last interval in which it was counted.
	busy float64
}

// worthLook reports whether it is worth a look at another clock what the work is bound by.
func (b bound) worthLook() bool {
	if b.known || b.busy < probeBusy {
		return false
	}
	weight := 0.0
	for _, s := range b.kinds {
		weight += s.Weight()
	}
	return weight >= probeAfter
}

// of is the share of the work's time at the fastest clock that is taken to scale with it.
func (b bound) of(h *Hardware) float64 {
	if b.known {
		return b.share
	}
	return h.CPUBound
}

// from tells where that is from.
func (b bound) from(h *Hardware) string {
	switch {
	case b.known:
		return "counted"
	case h.CPUBound < 1:
		return "of the platform"
	}
	return "assumed"
}

// boundMoves is how far a share must have moved for decisions to follow it.
const boundMoves = 0.05

// count returns what is known of the containers' work with what was counted of it.
func (m model) count(seen *Seen) map[containers.ID]bound {
	if len(m.bounds) == 0 && len(seen.Counts) == 0 {
		return nil
	}
	h := seen.Hardware
	out := make(map[containers.ID]bound, len(seen.Counts))
	for _, c := range seen.Containers {
		was, learned := m.bounds[c.ID]
		if c.Stat.Usage < was.usage {
			was, learned = bound{}, false // another of its name
		}
		list := seen.Counts[c.ID]
		if !learned && len(list) == 0 {
			continue
		}
		next := was.with(h, list)
		next.busy = m.last.used[c.ID].Seconds() / float64(max(m.last.seconds, 1e-9))
		next.usage = c.Stat.Usage
		out[c.ID] = next
	}
	return out
}

// with is what is known when some counts are, too.
func (b bound) with(h *Hardware, list []counters.Count) bound {
	type sum struct {
		cycles, instructions float64
		ran                  time.Duration
	}
	var sums []sum // by domain
	var all time.Duration
	for _, n := range list {
		d, known := h.clockOf[n.CPU]
		if !known {
			continue
		}
		for len(sums) <= d {
			sums = append(sums, sum{})
		}
		y := &sums[d]
		y.cycles += float64(n.Cycles)
		y.instructions += float64(n.Instructions)
		y.ran += n.Running
		all += n.Running
	}
	if all < leastRun {
		return b
	}
	worth := min(1, float64(all)/float64(fullRun))
	kinds, main, most := make(map[int]counters.Share, len(b.kinds)+1), -1, time.Duration(0)
	maps.Copy(kinds, b.kinds)
	for d, y := range sums {
		fastest := h.fastest(d)
		if y.ran == 0 || fastest == 0 {
			continue
		}
		clock := y.cycles / float64(y.ran) * float64(units.GHz)
		if clock < float64(h.Machine.Domains[d].Curve.OPPs[0].Frequency)/2 || clock > 2*float64(fastest) {
			continue // no clock of this machine: what counts is not what runs
		}
		kind := h.kindOf[d]
		kinds[kind] = kinds[kind].Learn(units.Frequency(math.Round(clock)), y.cycles/y.instructions, worth*float64(y.ran)/float64(all))
		if y.ran > most {
			main, most = kind, y.ran
		}
	}
	if main < 0 {
		return b
	}
	b.kinds = kinds
	share, known := kinds[main].CPUBound(h.fastest(main))
	for _, kind := range slices.Sorted(maps.Keys(kinds)) { // what is known elsewhere is better than nothing
		if !known {
			share, known = kinds[kind].CPUBound(h.fastest(kind))
		}
	}
	switch {
	case !known:
		b.known = false
	case !b.known || math.Abs(share-b.share) > boundMoves:
		b.share, b.known = share, true
	}
	return b
}
