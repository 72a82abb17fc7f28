package topology

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/powerd/powerd/internal/cpuset"
	"github.com/powerd/powerd/internal/sysfs"
	"github.com/powerd/powerd/internal/units"
)

const (
	cpuDir  = "sys/devices/system/cpu"
	nodeDir = "sys/devices/system/node"
)

// A Topology is how a machine is put together. Sets of packages, cores, caches
// and clusters hold online cpus only; what the machine does not tell is nil.
type Topology struct {
	CPUs `json:"cpus,omitzero"`
	// Source is "sysfs" or, where sysfs has no core ids, "proc/cpuinfo".
	Source *string `json:"topology_source"`
	// Partial tells that only some online cpus say where they are.
	Partial bool `json:"topology_partial"`
	// Unplaced are the online cpus that do not say where they are.
	Unplaced *cpuset.Set `json:"online_cpus_without_topology"`
	// Strangers are the cpus that their own sibling set does not name.
	Strangers *cpuset.Set `json:"cpus_not_in_own_sibling_set"`

	// Packages are by physical_package_id. Firmware may number clusters instead
	// of sockets, and -1 is "unknown".
	Packages []Package `json:"packages"`
	// PackagesBySiblings are by package_cpus (core_siblings on older kernels).
	PackagesBySiblings []cpuset.Set `json:"packages_by_siblings"`
	PackageCount       *int         `json:"package_count"`
	Dies               []Die        `json:"dies"`
	Clusters           []cpuset.Set `json:"clusters"`
	Books              []cpuset.Set `json:"books,omitempty"`
	Drawers            []cpuset.Set `json:"drawers,omitempty"`
	// Cores are the sets of hardware threads of one core, by lowest cpu.
	Cores          Cores    `json:"cores"`
	ThreadsPerCore *Threads `json:"threads_per_core"`
	// CoreIDsUnique tells that a core_id names one core of its package, and
	// CoreIDsDense that the ids are 0 to n-1.
	CoreIDsUnique *bool `json:"core_ids_unique_within_package"`
	CoreIDsDense  *bool `json:"core_ids_dense"`

	// Caches by name, L1d, L1i, L2, ..., or indexN where the level is not told.
	Caches      map[string][]Cache `json:"caches"`
	WithoutDirs *cpuset.Set        `json:"cpus_without_cache_dir"`
	// LLCs are the last-level caches: of each cpu its own highest one, so that
	// levels can differ. Cores that share none but the first level have none.
	LLCs []LLC `json:"llc"`

	Nodes     []Node            `json:"numa"`
	NodeFiles map[string]string `json:"numa_files"`

	Kinds   *Kinds   `json:"core_kinds"`
	Signals *Signals `json:"kind_signals"`
	// Model is the cpu's name in /proc/cpuinfo.
	Model *string `json:"model"`
}

// CPUs are the cpus of a machine.
type CPUs struct {
	Online       cpuset.Set `json:"online"`
	OnlineCount  int        `json:"online_count"`
	OnlineSource string     `json:"online_source"`
	// Present are the cpus that are plugged in. Nil where the kernel does not say.
	Present  *cpuset.Set `json:"present"`
	Possible *cpuset.Set `json:"possible"`
	// Offline are the present cpus that are not online. The kernel's own list
	// (OfflineFile) also names possible ones that are not there.
	Offline     cpuset.Set  `json:"offline"`
	OfflineFile *string     `json:"offline_file_raw"`
	KernelMax   *uint64     `json:"kernel_max"`
	Dirs        cpuset.Set  `json:"cpu_dirs"`
	Isolated    *cpuset.Set `json:"isolated"`
	NoHzFull    *string     `json:"nohz_full"`
	SMTActive   *uint64     `json:"smt_active"`
	SMTControl  *string     `json:"smt_control"`
}

// IsZero reports that nothing tells of cpus.
func (c CPUs) IsZero() bool { return c.OnlineSource == "" }

// A Package is the cpus of one physical_package_id.
type Package struct {
	ID   units.PackageID `json:"id"`
	CPUs cpuset.Set      `json:"cpus"`
}

// A Die is a set of cpus on one piece of silicon. Its id is unique within the
// package only and -1 where unknown.
type Die struct {
	Package units.PackageID `json:"package"`
	ID      int64           `json:"id"`
	CPUs    cpuset.Set      `json:"cpus"`
}

// Cores are sets of the hardware threads of one core.
type Cores []cpuset.Set

// MarshalJSON prints how many cores there are beside the sets.
func (c Cores) MarshalJSON() ([]byte, error) {
	if c == nil {
		return []byte("null"), nil
	}
	return json.Marshal(struct {
		Count  int          `json:"count"`
		Groups []cpuset.Set `json:"smt_groups"`
	}{len(c), c})
}

// Threads are the least and the most hardware threads of a core. They differ on
// hybrid processors and where siblings are offline.
type Threads struct {
	Min int `json:"min"`
	Max int `json:"max"`
}

// A Cache is one cache and the online cpus that share it.
type Cache struct {
	CPUs cpuset.Set `json:"cpus"`
	// Size as the kernel prints it, e.g. "1280K".
	Size *string `json:"size"`
	ID   *int64  `json:"id"`
	Ways *uint64 `json:"ways"`
}

// An LLC is a last-level cache.
type LLC struct {
	// Level is nil where the kernel gives none and From the directory instead.
	Level *uint64    `json:"level"`
	From  string     `json:"from,omitempty"`
	CPUs  cpuset.Set `json:"cpus"`
}

// A Node is a NUMA node; one of memory only has no cpus.
type Node struct {
	ID       units.NodeID `json:"id"`
	CPUs     cpuset.Set   `json:"cpus"`
	Online   cpuset.Set   `json:"online_cpus"`
	MemTotal *uint64      `json:"memtotal_kb"`
	Distance []uint64     `json:"distance"`
}

// CoreOf returns the hardware threads of the core that c belongs to, at least c.
func (t *Topology) CoreOf(c cpuset.CPU) cpuset.Set {
	for _, core := range t.Cores {
		if core.Contains(c) {
			return core
		}
	}
	return cpuset.Of(c)
}

// OnlineCores returns the online hardware threads of each core, by lowest cpu. A cpu of
// which no core is known is one alone.
func (t *Topology) OnlineCores() []cpuset.Set {
	var out []cpuset.Set
	left := t.Online
	for _, c := range t.Cores {
		if c = c.Intersect(left); !c.Empty() {
			out = append(out, c)
			left = left.Minus(c)
		}
	}
	for c := range left.All() {
		out = append(out, cpuset.Of(c))
	}
	slices.SortFunc(out, func(a, b cpuset.Set) int { return cmp.Compare(a.Min(), b.Min()) })
	return out
}

// CacheGroups returns the cpus behind each last-level cache, or of each package where no
// cache is known, or else all that are online.
func (t *Topology) CacheGroups() []cpuset.Set {
	var out []cpuset.Set
	for _, l := range t.LLCs {
		out = append(out, l.CPUs)
	}
	if len(out) == 0 {
		out = slices.Clone(t.PackagesBySiblings)
	}
	if len(out) == 0 && !t.Online.Empty() {
		out = []cpuset.Set{t.Online}
	}
	return out
}

// Read reads the topology of a machine.
func Read(r *sysfs.Reader) *Topology {
	info := readCPUInfo(r)
	t := &Topology{CPUs: readCPUs(r, info), Model: info.model}
	if t.CPUs.IsZero() {
		return t
	}
	places := t.readPlaces(r, info)
	t.group(places)
	t.readCaches(r)
	t.readNodes(r)
	t.Signals = readSignals(r, t.Online, info)
	t.Kinds = t.kinds()
	return t
}

func readCPUs(r *sysfs.Reader, info cpuInfo) CPUs {
	c := CPUs{
		Present:     sysfs.Value(r, cpuDir+"/present", cpuset.Parse),
		Possible:    sysfs.Value(r, cpuDir+"/possible", cpuset.Parse),
		OfflineFile: r.Text(cpuDir + "/offline"),
		KernelMax:   r.Uint(cpuDir + "/kernel_max"),
		Isolated:    sysfs.Value(r, cpuDir+"/isolated", cpuset.Parse),
		NoHzFull:    r.Text(cpuDir + "/nohz_full"),
		SMTActive:   r.Uint(cpuDir + "/smt/active"),
		SMTControl:  r.Text(cpuDir + "/smt/control"),
	}
	for _, n := range sysfs.Numbered(r.Names(cpuDir), "cpu") {
		if n <= int(cpuset.MaxCPU) {
			c.Dirs = c.Dirs.Union(cpuset.Of(cpuset.CPU(n)))
		}
	}
	online := sysfs.Value(r, cpuDir+"/online", cpuset.Parse)
	switch {
	case online != nil && !online.Empty():
		c.Online, c.OnlineSource = *online, cpuDir+"/online"
	case !c.Dirs.Empty():
		c.OnlineSource = "cpuN directories"
		for cpu := range c.Dirs.All() {
			// cpu0 often cannot be taken offline and has no such file.
			if on := r.Uint(cpuPath(cpu, "online")); on == nil || *on != 0 {
				c.Online = c.Online.Union(cpuset.Of(cpu))
			}
		}
	case !info.cpus.Empty():
		c.Online, c.OnlineSource = info.cpus, "proc/cpuinfo"
	}
	present := c.Dirs
	if c.Present != nil {
		present = *c.Present
	}
	c.Offline = present.Minus(c.Online)
	c.OnlineCount = c.Online.Len()
	return c
}

func cpuPath(c cpuset.CPU, file string) string {
	return cpuDir + "/cpu" + strconv.Itoa(int(c)) + "/" + file
}

// readSet reads the first of some files that holds a set: lists by name end in
// "list", the others are masks. Old kernels have the masks only.
func readSet(r *sysfs.Reader, dir string, names ...string) *cpuset.Set {
	for _, name := range names {
		parse := cpuset.ParseMask
		if strings.HasSuffix(name, "list") {
			parse = cpuset.Parse
		}
		if s := sysfs.Value(r, dir+"/"+name, parse); s != nil {
			return s
		}
	}
	return nil
}

// A place is what a cpu says about where it is.
type place struct {
	pkg, die, core              *int64
	threads, inPackage          *cpuset.Set
	inCluster, inBook, inDrawer *cpuset.Set
}

func (p place) empty() bool { return p == place{} }

func (t *Topology) readPlaces(r *sysfs.Reader, info cpuInfo) map[cpuset.CPU]place {
	places := map[cpuset.CPU]place{}
	hasPkg, hasCore, hasInfo := false, false, false
	for c := range t.Online.All() {
		dir := cpuPath(c, "topology")
		p := place{
			pkg:       r.Int(dir + "/physical_package_id"),
			die:       r.Int(dir + "/die_id"),
			core:      r.Int(dir + "/core_id"),
			threads:   readSet(r, dir, "core_cpus_list", "thread_siblings_list", "core_cpus", "thread_siblings"),
			inPackage: readSet(r, dir, "package_cpus_list", "core_siblings_list", "package_cpus", "core_siblings"),
			inCluster: readSet(r, dir, "cluster_cpus_list", "cluster_cpus"),
			inBook:    readSet(r, dir, "book_siblings_list", "book_siblings"),
			inDrawer:  readSet(r, dir, "drawer_siblings_list", "drawer_siblings"),
		}
		hasPkg = hasPkg || p.pkg != nil
		hasCore = hasCore || p.core != nil || p.threads != nil
		hasInfo = hasInfo || info.core[c] != nil
		places[c] = p
	}
	source := "sysfs"
	if !hasCore && hasInfo {
		source = "proc/cpuinfo (physical id, core id): sysfs has no topology/core_id"
	}
	var unplaced cpuset.Set
	for c := range t.Online.All() {
		p := places[c]
		if !hasPkg {
			p.pkg = info.pkg[c]
		}
		if !hasCore {
			p.core = info.core[c]
		}
		places[c] = p
		if p.empty() {
			unplaced = unplaced.Union(cpuset.Of(c))
		}
	}
	if unplaced.Equal(t.Online) {
		return nil
	}
	t.Source = &source
	if !unplaced.Empty() {
		t.Partial, t.Unplaced = true, &unplaced
	}
	return places
}

// group makes packages, dies and cores of what the cpus say.
func (t *Topology) group(places map[cpuset.CPU]place) {
	type dieKey struct{ pkg, id int64 }
	type coreKey struct{ pkg, die, core int64 }
	packages := map[int64]cpuset.Set{}
	dies := map[dieKey]cpuset.Set{}
	cores := map[coreKey]cpuset.Set{}
	var threads, siblings, clusters, books, drawers masks
	var strangers cpuset.Set
	for c := range t.Online.All() {
		p := places[c]
		self := cpuset.Of(c)
		pkg, die := orUnknown(p.pkg), orUnknown(p.die)
		if p.pkg != nil {
			packages[pkg] = packages[pkg].Union(self)
		}
		if p.die != nil {
			k := dieKey{pkg, die}
			dies[k] = dies[k].Union(self)
		}
		if p.core != nil {
			k := coreKey{pkg, die, *p.core}
			cores[k] = cores[k].Union(self)
		}
		if p.threads != nil && !p.threads.Contains(c) {
			strangers = strangers.Union(self)
		}
		threads.add(p.threads, t.Online)
		siblings.add(p.inPackage, t.Online)
		clusters.add(p.inCluster, t.Online)
		books.add(p.inBook, t.Online)
		drawers.add(p.inDrawer, t.Online)
	}
	if !strangers.Empty() {
		t.Strangers = &strangers
	}
	for _, id := range slices.Sorted(maps.Keys(packages)) {
		t.Packages = append(t.Packages, Package{units.PackageID(id), packages[id]})
	}
	t.PackagesBySiblings = siblings.sets
	switch _, unknown := packages[-1]; {
	case unknown && len(packages) == 1 && len(siblings.sets) > 0, len(packages) == 0 && len(siblings.sets) > 0:
		n := len(siblings.sets)
		t.PackageCount = &n
	case len(packages) > 0:
		n := len(packages)
		t.PackageCount = &n
	}
	for k, s := range dies {
		t.Dies = append(t.Dies, Die{units.PackageID(k.pkg), k.id, s})
	}
	slices.SortFunc(t.Dies, func(a, b Die) int { return byLowest(a.CPUs, b.CPUs) })
	t.Clusters, t.Books, t.Drawers = clusters.sets, books.sets, drawers.sets

	t.Cores = threads.sets
	if t.Cores == nil {
		t.Cores = slices.AppendSeq(Cores{}, maps.Values(cores))
		slices.SortFunc(t.Cores, byLowest)
	}
	if len(t.Cores) > 0 {
		t.ThreadsPerCore = &Threads{t.Cores[0].Len(), t.Cores[0].Len()}
		for _, s := range t.Cores {
			t.ThreadsPerCore.Min = min(t.ThreadsPerCore.Min, s.Len())
			t.ThreadsPerCore.Max = max(t.ThreadsPerCore.Max, s.Len())
		}
	}
	if len(cores) == 0 {
		return
	}
	first := map[[2]int64]cpuset.Set{}
	ids := map[int64]bool{}
	unique := true
	for k, s := range cores {
		ids[k.core] = true
		core := t.CoreOf(s.Min())
		name := [2]int64{k.pkg, k.core}
		if seen, ok := first[name]; ok && !seen.Equal(core) || !s.SubsetOf(core) {
			unique = false
		}
		first[name] = core
	}
	dense := !ids[-1]
	for id := range ids {
		dense = dense && id >= 0 && id < int64(len(ids))
	}
	t.CoreIDsUnique, t.CoreIDsDense = &unique, &dense
}

func orUnknown(id *int64) int64 {
	if id == nil {
		return -1
	}
	return *id
}

// masks collects distinct sets in order of their first appearance.
type masks struct{ sets []cpuset.Set }

func (m *masks) add(s *cpuset.Set, online cpuset.Set) {
	if s == nil {
		return
	}
	cut := s.Intersect(online)
	if !cut.Empty() && !slices.ContainsFunc(m.sets, cut.Equal) {
		m.sets = append(m.sets, cut)
	}
}

func byLowest(a, b cpuset.Set) int { return int(a.Min() - b.Min()) }

func (t *Topology) readCaches(r *sysfs.Reader) {
	var without cpuset.Set
	for c := range t.Online.All() {
		dir := cpuPath(c, "cache")
		indices := sysfs.Numbered(r.Names(dir), "index")
		if len(indices) == 0 {
			without = without.Union(cpuset.Of(c))
			continue
		}
		var last *LLC
		for _, n := range indices {
			index := "index" + strconv.Itoa(n)
			d := dir + "/" + index
			shared := readSet(r, d, "shared_cpu_list", "shared_cpu_map")
			level, kind := r.Uint(d+"/level"), r.Text(d+"/type")
			if shared == nil {
				continue
			}
			cut := shared.Intersect(t.Online)
			if cut.Empty() {
				continue
			}
			name := cacheName(level, kind, index)
			cache := Cache{cut, r.Text(d + "/size"), r.Int(d + "/id"), r.Uint(d + "/ways_of_associativity")}
			if t.Caches == nil {
				t.Caches = map[string][]Cache{}
			}
			if !slices.ContainsFunc(t.Caches[name], func(o Cache) bool { return o.CPUs.Equal(cut) }) {
				t.Caches[name] = append(t.Caches[name], cache)
			}
			if kind != nil && (*kind == "Instruction" || name == "L1d") {
				continue
			}
			llc := LLC{Level: level, CPUs: cut}
			if level == nil {
				llc.From = index
			}
			if last == nil || last.Level == nil || level == nil || *level >= *last.Level {
				last = &llc
			}
		}
		if last == nil {
			continue // the first level alone
		}
		if !slices.ContainsFunc(t.LLCs, func(o LLC) bool { return o.CPUs.Equal(last.CPUs) }) {
			t.LLCs = append(t.LLCs, *last)
		}
	}
	if !without.Empty() {
		t.WithoutDirs = &without
	}
}

// cacheName is the usual name of a cache, e.g. L1d, L2.
func cacheName(level *uint64, kind *string, index string) string {
	if level == nil {
		return index
	}
	name := "L" + strconv.FormatUint(*level, 10)
	if kind != nil {
		switch *kind {
		case "Data":
			name += "d"
		case "Instruction":
			name += "i"
		}
	}
	return name
}

func (t *Topology) readNodes(r *sysfs.Reader) {
	names := r.Names(nodeDir)
	for _, n := range sysfs.Numbered(names, "node") {
		dir := nodeDir + "/node" + strconv.Itoa(n)
		cpus := readSet(r, dir, "cpulist", "cpumap")
		if cpus == nil {
			linked := cpuset.Set{}
			for _, c := range sysfs.Numbered(r.Names(dir), "cpu") {
				if c <= int(cpuset.MaxCPU) {
					linked = linked.Union(cpuset.Of(cpuset.CPU(c)))
				}
			}
			cpus = &linked
		}
		node := Node{
			ID:       units.NodeID(n),
			CPUs:     *cpus,
			Online:   cpus.Intersect(t.Online),
			MemTotal: sysfs.Value(r, dir+"/meminfo", parseMemTotal),
		}
		if d := sysfs.Value(r, dir+"/distance", parseDistance); d != nil {
			node.Distance = *d
		}
		t.Nodes = append(t.Nodes, node)
	}
	for _, name := range []string{"online", "possible", "has_cpu", "has_memory", "has_normal_memory"} {
		if s := r.Text(path.Join(nodeDir, name)); s != nil {
			if t.NodeFiles == nil {
				t.NodeFiles = map[string]string{}
			}
			t.NodeFiles[name] = *s
		}
	}
}

// parseMemTotal finds a node's memory in kB, from "Node 0 MemTotal: 40645580 kB".
func parseMemTotal(s string) (uint64, error) {
	for line := range strings.Lines(s) {
		if f := strings.Fields(line); len(f) == 5 && f[0] == "Node" && f[2] == "MemTotal:" && f[4] == "kB" {
			return sysfs.ParseUint(f[3])
		}
	}
	return 0, fmt.Errorf("has no line \"Node N MemTotal: N kB\"")
}

// parseDistance reads a node's row of the distance table, e.g. "10 21".
func parseDistance(s string) ([]uint64, error) {
	var out []uint64
	for f := range strings.FieldsSeq(s) {
		d, err := sysfs.ParseUint(f)
		if err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
}
