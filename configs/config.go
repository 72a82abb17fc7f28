package configs

import (
	"cmp"
	_ "embed"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/powerd/powerd/containers"
	"github.com/powerd/powerd/internal/units"
	"github.com/powerd/powerd/placement"
)

// Default is the configuration of a daemon started without one. It shows every
// key.
//
//go:embed default.yaml
var Default []byte

// A Config is what the daemon goes by.
type Config struct {
	// Interval is the time between ticks.
	Interval time.Duration
	// Policy is what placement goes by.
	Policy placement.Policy
	// Rules tell which cgroups belong to which class; the first that matches.
	Rules []Rule
	// EnableControllers lets powerd enable the cpuset and cpu controllers on the
	// way to the cgroups it places.
	EnableControllers bool
	// Reclaim takes back what others change after powerd.
	Reclaim bool
	// Platform names a platform file for machines whose firmware does not tell
	// power; empty is none.
	Platform string
	// StateDir holds the journal; Socket is where `powerd status` asks.
	StateDir, Socket string
}

// A Rule gives the cgroups that match to a class.
type Rule struct {
	Class   string
	Cgroups []containers.Glob
}

// Class returns the class of a cgroup.
func (c Config) Class(id containers.ID) (string, bool) {
	for _, r := range c.Rules {
		for _, g := range r.Cgroups {
			if g.Match(id) {
				return r.Class, true
			}
		}
	}
	return "", false
}

// Delays reports whether work of a class may be held back.
func (c Config) Delays(class string) bool {
	for i := range c.Policy.Classes {
		if c.Policy.Classes[i].Name == class {
			return c.Policy.Classes[i].MaxDelay > 0
		}
	}
	return false
}

// Globs returns every pattern of every rule.
func (c Config) Globs() []containers.Glob {
	var out []containers.Glob
	for _, r := range c.Rules {
		out = append(out, r.Cgroups...)
	}
	return out
}

type rawConfig struct {
	Interval          *string    `yaml:"interval"`
	Headroom          *string    `yaml:"headroom"`
	EnableControllers *bool      `yaml:"enable_controllers"`
	Reclaim           *bool      `yaml:"reclaim"`
	Platform          *string    `yaml:"platform"`
	StateDir          *string    `yaml:"state_dir"`
	Socket            *string    `yaml:"socket"`
	Tenants           *string    `yaml:"tenants"`
	Idle              *rawIdle   `yaml:"idle"`
	Classes           []rawClass `yaml:"classes"`
}

type rawIdle struct {
	Disable []string `yaml:"disable"`
}

type rawClass struct {
	Name           *string  `yaml:"name"`
	Cgroups        []string `yaml:"cgroups"`
	Objective      *string  `yaml:"objective"`
	MaxSlowdown    *string  `yaml:"max_slowdown"`
	CPULimit       *float64 `yaml:"cpu_limit"`
	Priority       *int     `yaml:"priority"`
	MaxWakeLatency *string  `yaml:"max_wake_latency"`
	MaxDelay       *string  `yaml:"max_delay"`
}

// A File is a named YAML text.
type File struct {
	Name string
	Data []byte
}

// Parse resolves configuration files into one Config: the built-in default
// first, then each file over what is there. A key given replaces its value, a
// class given replaces the class of that name or is added. Every problem of every
// file is reported.
func Parse(files ...File) (Config, error) {
	var c Config
	var errs []error
	for i, f := range append([]File{{"default.yaml", Default}}, files...) {
		var raw rawConfig
		d, err := decode(f.Name, f.Data, &raw)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if i == 1 && raw.Classes != nil {
			// The default's classes are an example for machines nobody has
			// configured; the first file that has classes starts afresh.
			c.Policy.Classes, c.Rules = nil, nil
		}
		errs = append(errs, resolve(&c, raw, d))
	}
	if err := errors.Join(errs...); err != nil {
		return Config{}, err
	}
	return c, nil
}

func resolve(c *Config, raw rawConfig, d document) error {
	var errs []error
	fail := func(path []any, format string, args ...any) {
		errs = append(errs, d.errorf(path, format, args...))
	}
	if raw.Interval != nil {
		v, err := units.ParseSeconds(*raw.Interval)
		switch {
		case err != nil:
			fail([]any{"interval"}, "%v", err)
		case v < 0.01 || v > 3600:
			fail([]any{"interval"}, "%v is not between 10ms and 1 hour", v)
		default:
			c.Interval = v.Duration()
		}
	}
	if raw.Headroom != nil {
		v, err := parsePercent(*raw.Headroom)
		switch {
		case err != nil:
			fail([]any{"headroom"}, "%v", err)
		case v < 0.1 || v > 1:
			fail([]any{"headroom"}, "%q is not between 10%% and 100%%", *raw.Headroom)
		default:
			c.Policy.Headroom = v
		}
	}
	if raw.Tenants != nil {
		switch s := placement.Separation(*raw.Tenants); s {
		case placement.ByCore, placement.ByCache:
			c.Policy.Apart = s
		default:
			fail([]any{"tenants"}, "want core or cache, not %q", s)
		}
	}
	if raw.Idle != nil {
		c.Policy.DisableIdle = raw.Idle.Disable
	}
	set(&c.EnableControllers, raw.EnableControllers)
	set(&c.Reclaim, raw.Reclaim)
	set(&c.Platform, raw.Platform)
	set(&c.StateDir, raw.StateDir)
	set(&c.Socket, raw.Socket)
	for _, p := range []struct {
		key   string
		value *string
	}{{"state_dir", raw.StateDir}, {"socket", raw.Socket}} {
		if p.value != nil && !filepath.IsAbs(*p.value) {
			fail([]any{p.key}, "%q is not an absolute path", *p.value)
		}
	}
	seen := map[string]bool{}
	for i, rc := range raw.Classes {
		class, rule, err := resolveClass(rc, d, i)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if seen[class.Name] {
			fail([]any{"classes", i, "name"}, "class %q is there twice", class.Name)
		}
		seen[class.Name] = true
		if at := slices.IndexFunc(c.Policy.Classes, func(o placement.Class) bool { return o.Name == class.Name }); at >= 0 {
			c.Policy.Classes[at], c.Rules[at] = class, rule
			continue
		}
		c.Policy.Classes = append(c.Policy.Classes, class)
		c.Rules = append(c.Rules, rule)
	}
	return errors.Join(errs...)
}

func set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

func resolveClass(rc rawClass, d document, i int) (placement.Class, Rule, error) {
	var errs []error
	at := func(key string) []any { return []any{"classes", i, key} }
	fail := func(key, format string, args ...any) {
		errs = append(errs, d.errorf(at(key), format, args...))
	}
	var class placement.Class
	if rc.Name == nil || strings.TrimSpace(*rc.Name) == "" {
		fail("name", "a class needs a name")
	} else {
		class.Name = *rc.Name
	}
	rule := Rule{Class: class.Name}
	if len(rc.Cgroups) == 0 {
		fail("cgroups", "a class needs the cgroups it is for, e.g. [\"machine.slice/*\"]")
	}
	for k, pattern := range rc.Cgroups {
		g, err := containers.ParseGlob(pattern)
		if err != nil {
			errs = append(errs, d.errorf(append(at("cgroups"), k), "%v", err))
			continue
		}
		rule.Cgroups = append(rule.Cgroups, g)
	}
	switch o := placement.Objective(deref(rc.Objective)); o {
	case placement.Energy, placement.Latency:
		class.Objective = o
	default:
		fail("objective", "want energy or latency, not %q", o)
	}
	if rc.MaxSlowdown != nil {
		v, err := parsePercent(*rc.MaxSlowdown)
		if err != nil {
			fail("max_slowdown", "%v", err)
		}
		class.MaxSlowdown = &v
		if class.Objective == placement.Latency {
			fail("max_slowdown", "it bounds class objective energy; objective latency keeps the hardware's maximum")
		}
	}
	if rc.CPULimit != nil {
		if !(*rc.CPULimit >= 0.01) || math.IsInf(*rc.CPULimit, 0) {
			fail("cpu_limit", "%g is not a number of cores (at least 0.01)", *rc.CPULimit)
		}
		class.CPULimit = rc.CPULimit
	}
	class.Priority = cmp.Or(deref(rc.Priority), 0)
	if rc.MaxWakeLatency != nil {
		v, err := units.ParseSeconds(*rc.MaxWakeLatency)
		switch {
		case err != nil:
			fail("max_wake_latency", "%v", err)
		case v > 2000:
			fail("max_wake_latency", "%v is more than the kernel's file holds", v)
		default:
			us := v.Duration().Truncate(time.Microsecond)
			class.MaxWakeLatency = &us
		}
	}
	if rc.MaxDelay != nil {
		v, err := units.ParseSeconds(*rc.MaxDelay)
		switch {
		case err != nil:
			fail("max_delay", "%v", err)
		case v != 0 && (v < 0.01 || v > 1):
			fail("max_delay", "%v is neither 0s nor between 10ms and 1s", v)
		case v > 0 && class.Objective == placement.Latency:
			fail("max_delay", "only work of objective energy may be held back")
		default:
			class.MaxDelay = v.Duration().Truncate(time.Microsecond)
		}
	}
	return class, rule, errors.Join(errs...)
}

func deref[T any](p *T) T {
	var zero T
	if p == nil {
		return zero
	}
	return *p
}

// parsePercent reads "80%" as 0.8.
func parsePercent(s string) (float64, error) {
	number, ok := strings.CutSuffix(strings.TrimSpace(s), "%")
	v, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if !ok || err != nil || !(v >= 0) || v > 1e6 {
		return 0, fmt.Errorf("want a percentage such as 80%%, not %q", s)
	}
	return v / 100, nil
}

// Load reads the configuration. A path given must be there; without one it is
// /etc/powerd/powerd.yaml and the drop-ins /etc/powerd/conf.d/*.yaml in order of
// name, as far as they exist below the folder etc.
func Load(path, etc string) (Config, error) {
	var names []string
	if path != "" {
		names = []string{path}
	} else {
		main := filepath.Join(etc, "powerd", "powerd.yaml")
		if _, err := os.Stat(main); err == nil {
			names = append(names, main)
		}
		drop, err := filepath.Glob(filepath.Join(etc, "powerd", "conf.d", "*.yaml"))
		if err != nil {
			return Config{}, err
		}
		names = append(names, drop...)
	}
	var files []File
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			return Config{}, fmt.Errorf("cannot read configuration: %v", err)
		}
		files = append(files, File{name, data})
	}
	return Parse(files...)
}
