package group

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/big"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"github.com/powerd/powerd/containers/spawn"
)

// A manager is a connection to a systemd.
type manager struct{ *systemd.Conn }

// connect reaches the system's systemd, or the user's. It does not need the bus:
// systemd has a socket of its own.
func connect(ctx context.Context, user bool) (manager, error) {
	if !user {
		c, err := systemd.NewWithContext(ctx)
		if err != nil {
			return manager{}, fmt.Errorf("cannot reach systemd: %w; --cgroup-manager=cgroupfs does without", err)
		}
		return manager{c}, nil
	}
	runtime := os.Getenv("XDG_RUNTIME_DIR")
	uid, err := hostUID()
	if err != nil {
		return manager{}, err
	}
	if runtime == "" {
		runtime = fmt.Sprintf("/run/user/%d", uid)
	}
	bus := os.Getenv("DBUS_SESSION_BUS_ADDRESS")
	if bus == "" {
		bus = "unix:path=" + dbus.EscapeBusAddressValue(runtime+"/bus")
	}
	dial := func(address string, hello bool) (*systemd.Conn, error) {
		return systemd.NewConnection(func() (*dbus.Conn, error) {
			c, err := dbus.Dial(address, dbus.WithContext(ctx))
			if err != nil {
				return nil, err
			}
			// In a user namespace the bus knows us by the uid outside.
			if err = c.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(uid))}); err == nil && hello {
				err = c.Hello()
			}
			if err != nil {
				c.Close()
				return nil, err
			}
			return c, nil
		})
	}
	c, err := dial(bus, true)
	if err != nil {
		var perr error
		if c, perr = dial("unix:path="+dbus.EscapeBusAddressValue(runtime+"/systemd/private"), false); perr != nil {
			return manager{}, fmt.Errorf("cannot reach the systemd of uid %d: %w; log in as that user, loginctl enable-linger, or --cgroup-manager=cgroupfs", uid, errors.Join(err, perr))
		}
	}
	return manager{c}, nil
}

// hostUID is this process' uid outside of its user namespace.
func hostUID() (int, error) {
	data, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return 0, fmt.Errorf("cannot read how uids are mapped: %w", err)
	}
	return parseUIDMap(string(data), os.Getuid())
}

// parseUIDMap looks a uid up in
//
//	0       1000          1
func parseUIDMap(s string, uid int) (int, error) {
	for line := range strings.Lines(s) {
		var inside, outside, n int
		if _, err := fmt.Sscan(line, &inside, &outside, &n); err == nil && uid >= inside && uid-inside < n {
			return outside + uid - inside, nil
		}
	}
	return 0, fmt.Errorf("uid %d is not mapped", uid)
}

// controlGroup is the cgroup that systemd itself is in charge of.
func (m manager) controlGroup() (string, error) {
	text, err := m.GetManagerProperty("ControlGroup")
	if err == nil {
		text, err = strconv.Unquote(text)
	}
	if err != nil {
		return "", fmt.Errorf("cannot ask systemd for its cgroup: %w", err)
	}
	return text, nil
}

func property(name string, value any) systemd.Property {
	return systemd.Property{Name: name, Value: dbus.MakeVariant(value)}
}

// properties are those limits that systemd knows, so that it keeps them when it
// writes all of a unit's again. It is told no less than is asked where its own
// precision is coarser; the files have the exact values.
//
// See systemd.resource-control(5).
func properties(list []setting) []systemd.Property {
	out := map[string]any{}
	for _, s := range list {
		switch s.file {
		case "cpu.weight":
			if n, err := strconv.ParseUint(s.value, 10, 64); err == nil {
				out["CPUWeight"] = n
			}
		case "cpu.idle":
			if s.value == "1" {
				out["CPUWeight"] = uint64(0) // "idle", since version 252
			}
		case "cpu.max":
			quota, period := s.value, ""
			if q, p, ok := strings.Cut(s.value, " "); ok {
				quota, period = q, p
			}
			usec, perr := strconv.ParseUint(period, 10, 32)
			if perr == nil {
				out["CPUQuotaPeriodUSec"] = usec
			} else {
				usec = 100_000
			}
			perSec := uint64(math.MaxUint64)
			if q, err := strconv.ParseUint(quota, 10, 43); err == nil && usec > 0 {
				perSec = (q*1_000_000 + usec - 1) / usec
				perSec = (perSec + 9_999) / 10_000 * 10_000 // it saves whole percents
			}
			out["CPUQuotaPerSecUSec"] = perSec
		case "cpuset.cpus", "cpuset.mems":
			if bits, err := bitmap(s.value); err == nil {
				out[map[string]string{"cpuset.cpus": "AllowedCPUs", "cpuset.mems": "AllowedMemoryNodes"}[s.file]] = bits
			}
		case "memory.max", "memory.high", "memory.low", "memory.min", "memory.swap.max", "pids.max":
			n := uint64(math.MaxUint64)
			if s.value != "max" {
				var err error
				if n, err = strconv.ParseUint(s.value, 10, 64); err != nil {
					continue // bytes with a suffix are the file's alone
				}
			}
			if s.file == "pids.max" {
				n = max(n, 1)
			}
			out[map[string]string{"memory.max": "MemoryMax", "memory.high": "MemoryHigh", "memory.low": "MemoryLow", "memory.min": "MemoryMin",
				"memory.swap.max": "MemorySwapMax", "pids.max": "TasksMax"}[s.file]] = n
		}
	}
	var props []systemd.Property
	for _, name := range slices.Sorted(maps.Keys(out)) {
		props = append(props, property(name, out[name]))
	}
	return props
}

// bitmap turns a list such as 0,2-3 into bytes, the first cpu the lowest bit of
// the first byte.
func bitmap(list string) ([]byte, error) {
	const most = 1 << 16
	bits := new(big.Int)
	for part := range strings.SplitSeq(list, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		from, to, ranged := strings.Cut(part, "-")
		if !ranged {
			to = from
		}
		a, err := strconv.ParseUint(from, 10, 32)
		b, berr := strconv.ParseUint(to, 10, 32)
		if err = errors.Join(err, berr); err != nil || a > b || b >= most {
			return nil, fmt.Errorf("%q is no list of cpus or nodes", list)
		}
		for ; a <= b; a++ {
			bits.SetBit(bits, int(a), 1)
		}
	}
	out := bits.Bytes()
	if len(out) == 0 {
		return nil, fmt.Errorf("%q names none", list)
	}
	slices.Reverse(out)
	return out, nil
}

var propertyName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z]{3,}$`) })

// annotations reads properties of a unit, in the text form of a D-Bus variant:
//
//	org.systemd.property.CollectMode: "'inactive-or-failed'"
//	org.systemd.property.TimeoutStopSec: "5"
//
// As with runc, seconds become the microseconds that D-Bus knows.
func annotations(all map[string]string) ([]systemd.Property, error) {
	var out []systemd.Property
	for _, key := range slices.Sorted(maps.Keys(all)) {
		name, ok := strings.CutPrefix(key, "org.systemd.property.")
		if !ok {
			continue
		}
		if !propertyName().MatchString(name) {
			return nil, field("annotations."+key, "%q is no name of a property", name)
		}
		value, err := dbus.ParseVariant(all[key], dbus.Signature{})
		if err != nil {
			return nil, field("annotations."+key, "want a value as D-Bus writes it, as 'text' or uint64 5, not %q: %w", all[key], err)
		}
		if stem, ok := strings.CutSuffix(name, "Sec"); ok && !strings.HasSuffix(stem, "U") && !strings.HasSuffix(stem, "Per") {
			var usec float64
			switch v := value.Value().(type) {
			case int16:
				usec = float64(v) * 1e6
			case int32:
				usec = float64(v) * 1e6
			case int64:
				usec = float64(v) * 1e6
			case uint16:
				usec = float64(v) * 1e6
			case uint32:
				usec = float64(v) * 1e6
			case uint64:
				usec = float64(v) * 1e6
			case float64:
				usec = v * 1e6
			default:
				return nil, field("annotations."+key, "want seconds, not %q", all[key])
			}
			if !(usec >= 0 && usec < math.MaxInt64) {
				return nil, field("annotations."+key, "want seconds, not %q", all[key])
			}
			name, value = stem+"USec", dbus.MakeVariant(uint64(usec))
		}
		out = append(out, systemd.Property{Name: name, Value: value})
	}
	return out, nil
}

// A holder is a process that does nothing but be in a scope, for systemd makes none
// without. It ends with this process, however that ends.
type holder struct{ p *spawn.Process }

func startHolder() (*holder, error) {
	self, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return nil, fmt.Errorf("cannot start a process for a scope: %w", err)
	}
	defer unix.Close(self)
	var s spawn.Script
	s.Keep(spawn.FD(self))
	s.Do("wait for its parent's end", unix.SYS_PPOLL, spawn.Struct(&unix.PollFd{Fd: int32(self), Events: unix.POLLIN}), 1, 0, 0, 0)
	p, err := spawn.Start(&s, spawn.Options{})
	if err != nil {
		return nil, fmt.Errorf("cannot start a process for a scope: %w", err)
	}
	return &holder{p}, nil
}

// end ends it and waits for that, so that it no longer counts in the cgroup.
func (h *holder) end() error {
	defer h.p.Close()
	err := unix.PidfdSendSignal(int(h.p.Pidfd.Fd()), unix.SIGKILL, nil, 0)
	if errors.Is(err, unix.ESRCH) { // killed with its cgroup
		err = nil
	}
	for err == nil {
		_, err = unix.Wait4(h.p.Pid, nil, 0, nil)
		if err == nil || errors.Is(err, unix.ECHILD) {
			return nil
		}
		if errors.Is(err, unix.EINTR) {
			err = nil
		}
	}
	return fmt.Errorf("cannot end the process of a scope: %w", err)
}

// startScope makes a scope with a holder in it.
func startScope(ctx context.Context, r Ref, limits []systemd.Property) (_ *holder, err error) {
	c, err := connect(ctx, r.Rootless)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	h, err := startHolder()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.end())
		}
	}()
	props := append([]systemd.Property{
		systemd.PropDescription("powerd container " + strings.TrimSuffix(r.Unit, ".scope")),
		systemd.PropSlice(r.Slice),
		property("PIDs", []uint32{uint32(h.p.Pid)}),
		property("Delegate", true),
		property("DefaultDependencies", false),
		property("CollectMode", "inactive-or-failed"), // leave no failed unit behind
		property("CPUAccounting", true), property("MemoryAccounting", true),
		property("IOAccounting", true), property("TasksAccounting", true),
	}, limits...)
	fail := func(err error) (*holder, error) {
		return nil, fmt.Errorf("cannot make scope %s: %w", r.Unit, err)
	}
	done := make(chan string, 1)
	if _, err := c.StartTransientUnitContext(ctx, r.Unit, "fail", props, done); err != nil {
		var de dbus.Error
		if !errors.As(err, &de) || de.Name != "org.freedesktop.systemd1.UnitExists" {
			return fail(err)
		}
		// One that failed, or is about to go now that its cgroup has.
		_ = c.ResetFailedUnitContext(ctx, r.Unit)
		if err := c.await(ctx, r.Unit); err != nil {
			return fail(err)
		}
		if _, err := c.StartTransientUnitContext(ctx, r.Unit, "fail", props, done); err != nil {
			return fail(err)
		}
	}
	if err := wait(ctx, done); err != nil {
		return fail(err)
	}
	at, err := c.GetUnitTypePropertyContext(ctx, r.Unit, "Scope", "ControlGroup")
	if err != nil {
		return fail(err)
	}
	if got, _ := at.Value.Value().(string); got != r.Path {
		return fail(fmt.Errorf("systemd put it into cgroup %q, not %q", got, r.Path))
	}
	return h, nil
}

// await waits up to 5 s until a unit that has ended is gone.
func (m manager) await(ctx context.Context, unit string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		units, err := m.ListUnitsByNamesContext(ctx, []string{unit})
		if err != nil {
			return err
		}
		if len(units) == 0 || units[0].LoadState == "not-found" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("there is one already, and it is %s", units[0].ActiveState)
		case <-tick.C:
		}
	}
}

// wait waits for a job of systemd's.
func wait(ctx context.Context, done <-chan string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	select {
	case how := <-done:
		if how != "done" {
			return fmt.Errorf("systemd's job ended as %q", how)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("systemd's job does not end: %w", ctx.Err())
	}
}

// setProperties changes a scope until it goes.
func setProperties(ctx context.Context, r Ref, props []systemd.Property) error {
	c, err := connect(ctx, r.Rootless)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetUnitPropertiesContext(ctx, r.Unit, true, props...); err != nil {
		return fmt.Errorf("cannot change scope %s: %w", r.Unit, err)
	}
	return nil
}

// stopScope makes systemd forget a scope whose processes have ended.
func stopScope(ctx context.Context, r Ref) error {
	c, err := connect(ctx, r.Rootless)
	if err != nil {
		return err
	}
	defer c.Close()
	done := make(chan string, 1)
	if _, err := c.StopUnitContext(ctx, r.Unit, "replace", done); err != nil {
		var de dbus.Error
		if errors.As(err, &de) && de.Name == "org.freedesktop.systemd1.NoSuchUnit" {
			return nil // it went by itself
		}
		return fmt.Errorf("cannot stop scope %s: %w", r.Unit, err)
	}
	if err := wait(ctx, done); err != nil {
		return fmt.Errorf("cannot stop scope %s: %w", r.Unit, err)
	}
	return nil
}
