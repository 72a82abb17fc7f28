package energy

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/powerd/powerd/internal/sysfs"
)

const (
	powercapDir  = "sys/class/powercap"
	powercapTree = "sys/devices/virtual/powercap" // where the class's links lead
)

// A Zone is a powercap zone, e.g. a RAPL domain. What the kernel does not tell
// is nil. See Documentation/power/powercap/powercap.rst.
type Zone struct {
	// Zone is its directory's name, "intel-rapl:0:1", which tells the parent too.
	Zone string  `json:"zone"`
	Path string  `json:"path"`
	Name *string `json:"name"`
	// EnergyUJ counts microjoules from 0 to RangeUJ and then from 0 again.
	EnergyUJ *uint64 `json:"energy_uj"`
	RangeUJ  *uint64 `json:"max_energy_range_uj"`
	// Enabled tells of the limits, not of the counter.
	Enabled     *uint64      `json:"enabled"`
	Constraints []Constraint `json:"constraints"`
}

// A Constraint is one of a zone's power limits.
type Constraint struct {
	Index        int     `json:"index"`
	Name         *string `json:"name"`
	PowerLimitUW *uint64 `json:"power_limit_uw"`
	TimeWindowUS *uint64 `json:"time_window_us"`
	MaxPowerUW   *uint64 `json:"max_power_uw"`
}

// parent returns the zone's parent, "intel-rapl:0" of "intel-rapl:0:1"; empty
// for a top-level zone.
func (z Zone) parent() string {
	if i := strings.LastIndexByte(z.Zone, ':'); strings.Contains(z.Zone[:max(i, 0)], ":") {
		return z.Zone[:i]
	}
	return ""
}

// ReadZones reads the powercap zones, each once, whether the class shows them
// flat, nested in their control type's directory, both, or not at all.
func ReadZones(r *sysfs.Reader) []Zone {
	var zones []Zone
	seen := map[string]bool{}
	// walk takes the zones of a directory before it goes into them, so that a
	// zone that is also shown flat has its short path. Other names hold no zone
	// or are links out of the tree.
	var walk func(dir string, depth int)
	walk = func(dir string, depth int) {
		names := slices.DeleteFunc(r.Names(dir), func(name string) bool { return !strings.Contains(name, ":") })
		for _, name := range names {
			if !seen[name] {
				seen[name] = true
				zones = append(zones, readZone(r, name, dir+"/"+name))
			}
		}
		if depth > 0 {
			for _, name := range names {
				walk(dir+"/"+name, depth-1)
			}
		}
	}
	for _, top := range []string{powercapDir, powercapTree} {
		walk(top, 3)
		for _, name := range r.Names(top) {
			if !strings.Contains(name, ":") {
				walk(top+"/"+name, 3)
			}
		}
	}
	slices.SortFunc(zones, func(a, b Zone) int { return compareZones(a.Zone, b.Zone) })
	return zones
}

// compareZones orders "intel-rapl:2" before "intel-rapl:10".
func compareZones(a, b string) int {
	x, y := strings.Split(a, ":"), strings.Split(b, ":")
	return slices.CompareFunc(x, y, func(s, t string) int {
		m, err1 := strconv.Atoi(s)
		n, err2 := strconv.Atoi(t)
		if err1 == nil && err2 == nil {
			return cmp.Compare(m, n)
		}
		return strings.Compare(s, t)
	})
}

func readZone(r *sysfs.Reader, zone, dir string) Zone {
	z := Zone{
		Zone:     zone,
		Path:     dir,
		Name:     r.Text(dir + "/name"),
		EnergyUJ: r.Uint(dir + "/energy_uj"),
		RangeUJ:  r.Uint(dir + "/max_energy_range_uj"),
		Enabled:  r.Uint(dir + "/enabled"),
	}
	names := r.Names(dir)
	for i := 0; ; i++ {
		prefix := "constraint_" + strconv.Itoa(i) + "_"
		if !slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, prefix) }) {
			return z
		}
		z.Constraints = append(z.Constraints, Constraint{
			Index:        i,
			Name:         r.Text(dir + "/" + prefix + "name"),
			PowerLimitUW: r.Uint(dir + "/" + prefix + "power_limit_uw"),
			TimeWindowUS: r.Uint(dir + "/" + prefix + "time_window_us"),
			MaxPowerUW:   r.Uint(dir + "/" + prefix + "max_power_uw"),
		})
	}
}
