package group

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/cgroups/v3/cgroup2"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// A setting is a value for one of a cgroup's files, and the field it is for.
type setting struct {
	file, value, field string
	// early is to be tried before those it depends on; a refusal may be lifted by
	// the later setting of the same file.
	early bool
	// unlessMissing allows that the kernel has no such file, for then the value
	// is in force anyway.
	unlessMissing bool
	// other is what to set where the kernel has no such file.
	other *setting
}

// now reads a file of the cgroup as it stands; "" means that it is not there.
type now func(file string) string

const (
	resources  = "linux.resources."
	noRealtime = "cgroup v2 has no realtime limits"
)

// settings translates resources into files of cgroup v2, in the order to write them.
func settings(r *specs.LinuxResources, read now) ([]setting, error) {
	var out []setting
	if r == nil {
		return nil, nil
	}
	if n := r.Network; n != nil && (n.ClassID != nil && *n.ClassID != 0 || len(n.Priorities) > 0) {
		return nil, field(resources+"network", "cgroup v2 has no network classes or priorities")
	}
	for _, convert := range []func(*specs.LinuxResources, now) ([]setting, error){cpu, memory, pids, blockIO, hugepages, rdma, unified} {
		s, err := convert(r, read)
		if err != nil {
			return nil, err
		}
		out = append(out, s...)
	}
	return out, nil
}

// cpu: cpu.shares become cpu.weight by the formula that runc, crun and Kubernetes
// share, 10^((l^2+125l)/612 - 7/34) with l = log2(shares), which takes 2, 1024 and
// 262144 to 1, 100 and 10000.
func cpu(r *specs.LinuxResources, read now) (out []setting, err error) {
	c := r.CPU
	if c == nil {
		return nil, nil
	}
	const f = resources + "cpu."
	if c.RealtimeRuntime != nil && *c.RealtimeRuntime != 0 {
		return nil, field(f+"realtimeRuntime", noRealtime)
	}
	if c.RealtimePeriod != nil && *c.RealtimePeriod != 0 {
		return nil, field(f+"realtimePeriod", noRealtime)
	}
	idle := false
	if c.Idle != nil {
		if *c.Idle != 0 && *c.Idle != 1 {
			return nil, field(f+"idle", "want 0 or 1, not %d", *c.Idle)
		}
		idle = *c.Idle == 1
		out = append(out, setting{file: "cpu.idle", value: strconv.FormatInt(*c.Idle, 10), field: f + "idle", unlessMissing: !idle})
	}
	// An idle cgroup has the least weight of all, and the kernel takes no other.
	if c.Shares != nil && *c.Shares != 0 && !idle {
		out = append(out, setting{file: "cpu.weight", value: strconv.FormatUint(cgroup2.ConvertCPUSharesToCgroupV2Value(*c.Shares), 10), field: f + "shares"})
	}
	quota, period := "", ""
	if c.Quota != nil && *c.Quota != 0 {
		if quota = "max"; *c.Quota > 0 {
			quota = strconv.FormatInt(*c.Quota, 10)
		}
	}
	if c.Period != nil && *c.Period != 0 {
		period = strconv.FormatUint(*c.Period, 10)
	}
	var max *setting
	if quota+period != "" {
		name := f + "quota"
		if quota == "" { // the quota stays
			name = f + "period"
			if quota, _, _ = strings.Cut(read("cpu.max"), " "); quota == "" {
				quota = "max"
			}
		}
		max = &setting{file: "cpu.max", value: strings.TrimSpace(quota + " " + period), field: name}
	}
	if c.Burst != nil {
		burst := setting{file: "cpu.max.burst", value: strconv.FormatUint(*c.Burst, 10), field: f + "burst", unlessMissing: *c.Burst == 0}
		if max != nil { // it may be no larger than the quota, neither the old nor the new
			first := burst
			first.early = true
			out = append(out, first, *max)
			max = nil
		}
		out = append(out, burst)
	}
	if max != nil {
		out = append(out, *max)
	}
	for _, s := range []setting{{file: "cpuset.cpus", value: c.Cpus, field: f + "cpus"}, {file: "cpuset.mems", value: c.Mems, field: f + "mems"}} {
		if strings.TrimSpace(s.value) != "" {
			out = append(out, s)
		}
	}
	return out, nil
}

// memory: swap is of memory and swap together, memory.swap.max of swap alone.
func memory(r *specs.LinuxResources, read now) (out []setting, err error) {
	m := r.Memory
	if m == nil {
		return nil, nil
	}
	const f = resources + "memory."
	kernel := m.Kernel //lint:ignore SA1019 to refuse it
	switch {
	case m.DisableOOMKiller != nil && *m.DisableOOMKiller:
		return nil, field(f+"disableOOMKiller", "cgroup v2 cannot disable the OOM killer")
	case m.Swappiness != nil:
		return nil, field(f+"swappiness", "cgroup v2 has no swappiness of a cgroup")
	case kernel != nil && *kernel > 0:
		return nil, field(f+"kernel", "cgroup v2 has no limit for kernel memory alone")
	case m.KernelTCP != nil && *m.KernelTCP > 0:
		return nil, field(f+"kernelTCP", "cgroup v2 has no limit for TCP memory alone")
	case m.UseHierarchy != nil && !*m.UseHierarchy:
		return nil, field(f+"useHierarchy", "cgroup v2 is always hierarchical")
	}
	for _, v := range []struct {
		name string
		v    *int64
	}{{"limit", m.Limit}, {"reservation", m.Reservation}, {"swap", m.Swap}} {
		if v.v != nil && *v.v < -1 {
			return nil, field(f+v.name, "want bytes, or -1 for no limit, not %d", *v.v)
		}
	}
	get := func(p *int64) int64 {
		if p == nil {
			return 0
		}
		return *p
	}
	limit, swap := get(m.Limit), get(m.Swap)
	if m.CheckBeforeUpdate != nil && *m.CheckBeforeUpdate {
		if usage, err := strconv.ParseInt(read("memory.current"), 10, 64); err == nil {
			if limit > 0 && limit <= usage {
				return nil, field(f+"limit", "%d bytes are in use, not less than %d, and checkBeforeUpdate is set", usage, limit)
			}
			if swap > 0 && swap <= usage {
				return nil, field(f+"swap", "%d bytes are in use, not less than %d, and checkBeforeUpdate is set", usage, swap)
			}
		}
	}
	own := ""
	switch {
	case swap == -1, swap == 0 && limit == -1: // as with version 1, unlimited memory is unlimited swap
		own = "max"
	case swap > 0:
		with := limit
		if with == 0 { // the limit stays
			if text := read("memory.max"); text == "max" || text == "" {
				return nil, field(f+"swap", "it is of memory and swap together: it needs memory.limit")
			} else if with, err = strconv.ParseInt(text, 10, 64); err != nil {
				return nil, field(f+"swap", "cannot read the limit it adds to: %w", err)
			}
		}
		switch {
		case with == -1:
			own = strconv.FormatInt(swap, 10)
		case swap < with:
			return nil, field(f+"swap", "memory and swap together, %d, are less than the memory alone, %d", swap, with)
		default:
			own = strconv.FormatInt(swap-with, 10)
		}
	}
	if own != "" {
		s := setting{file: "memory.swap.max", value: own, field: f + "swap", unlessMissing: own == "0" || own == "max"}
		if swap == 0 {
			s.field = f + "limit"
		}
		out = append(out, s)
	}
	if limit != 0 {
		out = append(out, setting{file: "memory.max", value: limitText(limit), field: f + "limit"})
	}
	if reservation := get(m.Reservation); reservation != 0 {
		out = append(out, setting{file: "memory.low", value: limitText(reservation), field: f + "reservation"})
	}
	return out, nil
}

func limitText(v int64) string {
	if v < 0 {
		return "max"
	}
	return strconv.FormatInt(v, 10)
}

// pids: with a limit of 0 no process could begin in the cgroup; of 1, none of its
// own can follow, which is what 0 means to one that is in already.
func pids(r *specs.LinuxResources, _ now) ([]setting, error) {
	if r.Pids == nil || r.Pids.Limit == nil {
		return nil, nil
	}
	limit := *r.Pids.Limit
	if limit == 0 {
		limit = 1
	}
	return []setting{{file: "pids.max", value: limitText(limit), field: resources + "pids.limit"}}, nil
}

func blockIO(r *specs.LinuxResources, _ now) (out []setting, err error) {
	b := r.BlockIO
	if b == nil {
		return nil, nil
	}
	const f = resources + "blockIO."
	if b.LeafWeight != nil && *b.LeafWeight != 0 {
		return nil, field(f+"leafWeight", "cgroup v2 has no leaf weights")
	}
	weight := func(name, device string, w uint16) error {
		if w < 10 || w > 1000 {
			return field(name, "want 10 to 1000, not %d", w)
		}
		// The weight of the BFQ scheduler where there is one, or else of io.cost,
		// whose 1 to 10000 stand for 10 to 1000.
		out = append(out, setting{file: "io.bfq.weight", value: device + strconv.Itoa(int(w)), field: name,
			other: &setting{file: "io.weight", value: device + strconv.Itoa(1+(int(w)-10)*9999/990), field: name}})
		return nil
	}
	if b.Weight != nil && *b.Weight != 0 {
		if err := weight(f+"weight", "", *b.Weight); err != nil {
			return nil, err
		}
	}
	for i, d := range b.WeightDevice {
		name := fmt.Sprintf("%sweightDevice[%d]", f, i)
		if d.LeafWeight != nil && *d.LeafWeight != 0 {
			return nil, field(name+".leafWeight", "cgroup v2 has no leaf weights")
		}
		if d.Weight == nil || *d.Weight == 0 {
			continue
		}
		if err := device(name, d.Major, d.Minor); err != nil {
			return nil, err
		}
		if err := weight(name+".weight", fmt.Sprintf("%d:%d ", d.Major, d.Minor), *d.Weight); err != nil {
			return nil, err
		}
	}
	for _, t := range []struct {
		name, key string
		devices   []specs.LinuxThrottleDevice
	}{
		{"throttleReadBpsDevice", "rbps", b.ThrottleReadBpsDevice}, {"throttleWriteBpsDevice", "wbps", b.ThrottleWriteBpsDevice},
		{"throttleReadIOPSDevice", "riops", b.ThrottleReadIOPSDevice}, {"throttleWriteIOPSDevice", "wiops", b.ThrottleWriteIOPSDevice},
	} {
		for i, d := range t.devices {
			name := fmt.Sprintf("%s%s[%d]", f, t.name, i)
			if err := device(name, d.Major, d.Minor); err != nil {
				return nil, err
			}
			rate := "max" // 0 is none
			if d.Rate != 0 {
				rate = strconv.FormatUint(d.Rate, 10)
			}
			out = append(out, setting{file: "io.max", value: fmt.Sprintf("%d:%d %s=%s", d.Major, d.Minor, t.key, rate), field: name})
		}
	}
	return out, nil
}

func device(name string, major, minor int64) error {
	if major < 0 || major > math.MaxUint32 || minor < 0 || minor > math.MaxUint32 {
		return field(name, "%d:%d is no number of a device", major, minor)
	}
	return nil
}

// hugepages limits pages in use and, so that mmap fails where a fault would kill,
// those reserved.
func hugepages(r *specs.LinuxResources, _ now) (out []setting, err error) {
	for i, h := range r.HugepageLimits {
		name := fmt.Sprintf("%shugepageLimits[%d]", resources, i)
		number := strings.TrimRight(h.Pagesize, "KMGB")
		if n, err := strconv.ParseUint(number, 10, 32); err != nil || n == 0 || !slices.Contains([]string{"KB", "MB", "GB"}, h.Pagesize[len(number):]) {
			return nil, field(name+".pageSize", "want a size as 64KB, 2MB or 1GB, not %q", h.Pagesize)
		}
		value := strconv.FormatUint(h.Limit, 10)
		out = append(out, setting{file: "hugetlb." + h.Pagesize + ".max", value: value, field: name},
			setting{file: "hugetlb." + h.Pagesize + ".rsvd.max", value: value, field: name, unlessMissing: true})
	}
	return out, nil
}

func rdma(r *specs.LinuxResources, _ now) (out []setting, err error) {
	for _, dev := range slices.Sorted(maps.Keys(r.Rdma)) {
		limits, name := r.Rdma[dev], fmt.Sprintf("%srdma[%q]", resources, dev)
		if dev == "" || strings.ContainsAny(dev, " \t\n\x00") {
			return nil, field(name, "it is no name of a device")
		}
		value := dev
		if limits.HcaHandles != nil {
			value += fmt.Sprintf(" hca_handle=%d", *limits.HcaHandles)
		}
		if limits.HcaObjects != nil {
			value += fmt.Sprintf(" hca_object=%d", *limits.HcaObjects)
		}
		if value == dev {
			return nil, field(name, "want hcaHandles or hcaObjects")
		}
		out = append(out, setting{file: "rdma.max", value: value, field: name})
	}
	return out, nil
}

// notLimits are files of a cgroup that do something to it instead.
var notLimits = []string{"cgroup.procs", "cgroup.threads", "cgroup.kill", "cgroup.freeze", "cgroup.type", "cgroup.subtree_control", "memory.reclaim"}

// unified comes last, so that it overrides all else. A value of several lines is
// written line by line, as the kernel takes them.
func unified(r *specs.LinuxResources, _ now) (out []setting, err error) {
	for _, file := range slices.Sorted(maps.Keys(r.Unified)) {
		name := fmt.Sprintf("%sunified[%q]", resources, file)
		controller, _, dotted := strings.Cut(file, ".")
		switch {
		case strings.ContainsAny(file, "/\x00") || !dotted || controller == "":
			return nil, field(name, "want the name of a cgroup's file, as memory.high")
		case slices.Contains(notLimits, file):
			return nil, field(name, "it is no limit")
		}
		lines := strings.Split(strings.TrimRight(r.Unified[file], "\n"), "\n")
		for _, line := range lines {
			out = append(out, setting{file: file, value: line, field: name})
		}
	}
	return out, nil
}

// apply writes settings. If one fails, those before it are taken back.
func (r Ref) apply(list []setting) (undo func() error, err error) {
	var back []setting
	undo = func() error {
		var errs []error
		for _, s := range slices.Backward(back) {
			errs = append(errs, r.write(s))
		}
		return errors.Join(errs...)
	}
	for _, s := range list {
		if _, err := os.Stat(r.file(s.file)); errors.Is(err, fs.ErrNotExist) {
			if s.other != nil {
				s = *s.other
			} else if s.unlessMissing {
				continue
			}
		}
		before := r.read(s.file)
		if err := r.write(s); err != nil {
			if s.early {
				continue
			}
			if uerr := undo(); uerr != nil {
				err = errors.Join(err, fmt.Errorf("cannot take back what was set before: %w", uerr))
			}
			return nil, err
		}
		back = append(back, former(s, before))
	}
	return undo, nil
}

// former is the setting that brings back what a file held.
func former(s setting, before string) setting {
	dev, _, keyed := strings.Cut(s.value, " ")
	switch s.file {
	case "io.max", "rdma.max":
		s.value = dev
		for line := range strings.Lines(before) {
			if strings.HasPrefix(line, dev+" ") {
				s.value = strings.TrimSpace(line)
			}
		}
		if s.value == dev && s.file == "io.max" {
			s.value += " rbps=max wbps=max riops=max wiops=max"
		} else if s.value == dev {
			s.value += " hca_handle=max hca_object=max"
		}
	case "io.weight", "io.bfq.weight":
		s.value = "default 100"
		if keyed {
			s.value = dev + " default"
		}
		for line := range strings.Lines(before) {
			if key, _, _ := strings.Cut(line, " "); keyed && key == dev || !keyed && key == "default" {
				s.value = strings.TrimSpace(line)
			}
		}
	default:
		s.value = before
	}
	return s
}

func (r Ref) read(file string) string {
	data, err := os.ReadFile(r.file(file))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// write sets one file and explains a refusal.
func (r Ref) write(s setting) error {
	// A write of no bytes would not reach the kernel.
	err := writeFile(r.file(s.file), s.value+"\n")
	switch controller, _, _ := strings.Cut(s.file, "."); {
	case err == nil:
		// The kernel takes any wish for a partition, and says in the file whether it can be.
		if got := r.read(s.file); s.file == "cpuset.cpus.partition" && strings.Contains(got, "invalid") {
			return field(s.field, "the kernel says %q", got)
		}
		return nil
	case errors.Is(err, fs.ErrNotExist) && controller != "cgroup" && !slices.Contains(strings.Fields(r.read("cgroup.controllers")), controller):
		return field(s.field, "cannot set %s of cgroup %s: controller %s is not available there: %w", s.file, r.Path, controller, r.whyNot(controller))
	case errors.Is(err, fs.ErrNotExist) && s.field == resources+"blockIO.weight", errors.Is(err, fs.ErrNotExist) && strings.HasPrefix(s.field, resources+"blockIO.weightDevice"):
		return field(s.field, "this kernel has neither io.bfq.weight nor io.weight: %w", err)
	case errors.Is(err, fs.ErrNotExist):
		return field(s.field, "this kernel has no %s: %w", s.file, err)
	default:
		var pe *fs.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		return field(s.field, "cannot write %q to %s of cgroup %s: %w", s.value, s.file, r.Path, err)
	}
}

// writeFile writes what is there: O_CREAT would make EPERM of a missing file.
func writeFile(name, value string) error {
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// enable passes every controller down to the cgroup that can be. What stands
// against one is told when a limit needs it.
func (r Ref) enable() {
	all, has := Ref{Root: r.Root, Path: "/"}.read("cgroup.controllers"), r.read("cgroup.controllers")
	if len(strings.Fields(all)) == len(strings.Fields(has)) {
		return
	}
	for _, dir := range r.above() {
		if dir.busy() {
			return
		}
		has := strings.Fields(dir.read("cgroup.subtree_control"))
		for _, c := range strings.Fields(dir.read("cgroup.controllers")) {
			if !slices.Contains(has, c) {
				_ = writeFile(dir.file("cgroup.subtree_control"), "+"+c) // whyNot tells
			}
		}
	}
}

// busy reports whether a cgroup has processes of its own. If it is not the root it
// cannot pass memory or io on then; cpu and pids would make it threaded, and every
// cgroup below unfit for processes.
func (r Ref) busy() bool {
	_, err := os.Stat(r.file("cgroup.type")) // only the root has none
	return err == nil && r.read("cgroup.procs") != ""
}

// whyNot is why the cgroup has not got a controller.
func (r Ref) whyNot(controller string) error {
	for _, dir := range r.above() {
		if !slices.Contains(strings.Fields(dir.read("cgroup.controllers")), controller) {
			return fmt.Errorf("the kernel does not offer it to cgroup %s", dir.Path)
		}
		if slices.Contains(strings.Fields(dir.read("cgroup.subtree_control")), controller) {
			continue
		}
		if dir.busy() {
			return fmt.Errorf("cgroup %s has processes of its own and cannot pass it on", dir.Path)
		}
		switch err := writeFile(dir.file("cgroup.subtree_control"), "+"+controller); {
		case errors.Is(err, fs.ErrPermission):
			return fmt.Errorf("cgroup %s does not pass it on, and is another user's: delegate it, e.g. by Delegate=%s", dir.Path, controller)
		case err != nil:
			return fmt.Errorf("cgroup %s cannot pass it on: %w", dir.Path, err)
		}
	}
	return errors.New("the kernel does not tell why")
}

// above are the cgroups from the root down to the parent.
func (r Ref) above() []Ref {
	segs := strings.Split(strings.Trim(r.Path, "/"), "/")
	out := make([]Ref, len(segs))
	for i := range segs {
		out[i] = Ref{Root: r.Root, Path: "/" + strings.Join(segs[:i], "/")}
	}
	return out
}
