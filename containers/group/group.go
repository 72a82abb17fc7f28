package group

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A Group is a cgroup that was just made.
type Group struct {
	Ref
	// Dir is the cgroup's folder, opened O_PATH for clone3(CLONE_INTO_CGROUP).
	Dir *os.File

	holder *holder
	// devices tells when the device rules are in force, and whether.
	devices <-chan error
	// later is to be set when the holder is out.
	later []setting
}

// Options are what a container asks of its cgroup beside limits.
type Options struct {
	// Annotations may set properties of a systemd unit, as
	// org.systemd.property.TimeoutStopUSec: "uint64 5000000".
	Annotations map[string]string
	// Attributes are trusted.* extended attributes of the cgroup: notes that whoever
	// looks at it later finds, and that only the host's root can write.
	Attributes map[string]string
	// Owner, if not nil, is the host's uid that gets to make cgroups below. See Owner.
	Owner *int
}

// Create makes a cgroup that is not there yet, with its limits in force; its devices are
// when Ready returns, for the kernel takes its time to check their rules. What Ref it
// returns has to be saved before a process is put into it; the one passed, before the
// call. Close must follow when the process is in.
//
// If it fails nothing of it is left. The error is a *FieldError if a field is to blame,
// and has fs.ErrExist if the cgroup is there already: it is another's then, and not to
// be removed.
func (m Manager) Create(ctx context.Context, r Ref, limits *specs.LinuxResources, o Options) (*Group, error) {
	// First what can be wrong without a cgroup.
	list, err := settings(limits, func(string) string { return "" })
	if err != nil {
		return nil, err
	}
	var devices []specs.LinuxDeviceCgroup
	if limits != nil {
		devices = limits.Devices
	}
	rules, err := deviceRules(devices)
	if err != nil {
		return nil, err
	}
	annotated, err := annotations(o.Annotations)
	if err != nil {
		return nil, err
	}
	g := &Group{Ref: r}
	if r.Unit != "" {
		if _, err := os.Stat(r.Folder()); err == nil {
			return nil, field("linux.cgroupsPath", "cgroup %s is there already: %w", r.Path, fs.ErrExist)
		}
		g.holder, err = startScope(ctx, r, append(properties(list), annotated...))
	} else {
		err = r.mkdir()
	}
	if err == nil {
		err = g.note(o.Attributes)
	}
	if err == nil {
		err = g.prepare(list, rules, o.Owner)
	}
	if err == nil {
		return g, nil
	}
	// The holder ends, and a scope with it. The caller's context may be what failed.
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	g.later = nil
	cerr := g.Close()
	if !errors.Is(err, fs.ErrExist) || g.Inode != 0 {
		cerr = errors.Join(cerr, g.Remove(clean))
	}
	return nil, errors.Join(err, cerr)
}

// note sets attributes of the cgroup's folder.
func (g *Group) note(attributes map[string]string) error {
	for name, value := range attributes {
		if err := unix.Setxattr(g.Folder(), name, []byte(value), 0); err != nil {
			return fmt.Errorf("cannot note %s on cgroup %s: %w", name, g.Path, err)
		}
	}
	return nil
}

// prepare does all to a new cgroup that comes before its first process.
func (g *Group) prepare(list []setting, rules []deviceRule, owner *int) error {
	var st unix.Stat_t
	if err := unix.Stat(g.Folder(), &st); err != nil {
		return fmt.Errorf("cannot find the new cgroup %s: %w", g.Path, err)
	}
	g.Inode = st.Ino
	g.enable()
	if kind := g.read("cgroup.type"); kind == "domain invalid" || kind == "threaded" {
		return field("linux.cgroupsPath", "cgroup %s is below a threaded one, where no container can be", g.Path)
	}
	if g.holder != nil { // it counts until it is out
		for i, s := range list {
			if n, err := strconv.ParseUint(s.value, 10, 63); s.file == "pids.max" && err == nil {
				g.later = append(g.later, s)
				list = slices.Clone(list)
				list[i].value = strconv.FormatUint(n+1, 10)
			}
		}
	}
	if _, err := g.apply(list); err != nil {
		return err
	}
	if !g.Rootless {
		done := make(chan error, 1)
		g.devices = done
		go func(r Ref) { done <- r.setDevices(rules) }(g.Ref)
	}
	if owner != nil {
		if err := g.chown(*owner); err != nil {
			return err
		}
	}
	dir, err := os.OpenFile(g.Folder(), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("cannot open cgroup %s: %w", g.Path, err)
	}
	g.Dir = dir
	return nil
}

// Ready returns when the devices are in force. No program is to run before.
func (g *Group) Ready() error {
	if g.devices == nil {
		return nil
	}
	err := <-g.devices
	g.devices = nil
	return err
}

// Close lets go of the folder and the placeholder: now the container's own process,
// if it is in, is what keeps a scope alive.
func (g *Group) Close() error {
	errs := []error{g.Ready()}
	if g.Dir != nil {
		errs = append(errs, g.Dir.Close())
		g.Dir = nil
	}
	if g.holder != nil {
		errs = append(errs, g.holder.end())
		g.holder = nil
	}
	if g.Exists() {
		if _, err := g.apply(g.later); !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, err)
		}
	}
	g.later = nil
	return errors.Join(errs...)
}

// mkdir makes the folder, which must not be there, and those above it.
func (r Ref) mkdir() error {
	for try := 0; ; try++ {
		err := os.Mkdir(r.Folder(), 0o755)
		if errors.Is(err, fs.ErrNotExist) {
			if err = os.MkdirAll(filepath.Dir(r.Folder()), 0o755); err == nil {
				err = os.Mkdir(r.Folder(), 0o755)
			}
		}
		switch {
		case err == nil:
			return nil
		case errors.Is(err, fs.ErrNotExist) && try < 10: // the last container of Own has just taken it along
		case errors.Is(err, fs.ErrExist):
			return field("linux.cgroupsPath", "cgroup %s is there already: %w", r.Path, fs.ErrExist)
		case errors.Is(err, fs.ErrPermission) && r.Rootless:
			return fmt.Errorf("cannot make cgroup %s: %w; run in a cgroup delegated to this user, e.g. by systemd-run --user --scope -p Delegate=yes", r.Path, err)
		default:
			return fmt.Errorf("cannot make cgroup %s: %w", r.Path, err)
		}
	}
}

// chown gives the cgroup to a container's root, as far as the kernel means it to be.
//
// See https://docs.kernel.org/admin-guide/cgroup-v2.html#model-of-delegation.
func (r Ref) chown(uid int) error {
	files := []string{"cgroup.procs", "cgroup.subtree_control", "cgroup.threads"} // before Linux 4.15
	if data, err := os.ReadFile("/sys/kernel/cgroup/delegate"); err == nil {
		files = strings.Fields(string(data))
	}
	for _, f := range append(files, ".") {
		if err := os.Chown(r.file(f), uid, -1); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot give cgroup %s to uid %d: %w", r.Path, uid, err)
		}
	}
	return nil
}

// Update changes the limits that are given, and the devices if there are any. It
// changes all or, with an error, nothing.
func (r Ref) Update(ctx context.Context, limits *specs.LinuxResources) error {
	if !r.Exists() {
		return fmt.Errorf("cannot update cgroup %s: it is not there", r.Path)
	}
	list, err := settings(limits, r.read)
	if err != nil {
		return err
	}
	undo, err := r.apply(list)
	if err != nil {
		return err
	}
	if props := properties(list); r.Unit != "" && len(props) > 0 {
		if err = setProperties(ctx, r, props); err == nil {
			_, err = r.apply(list) // systemd rounds
		}
	}
	if err == nil && limits != nil && len(limits.Devices) > 0 && !r.Rootless {
		var rules []deviceRule
		if rules, err = deviceRules(limits.Devices); err == nil {
			err = r.setDevices(rules)
		}
	}
	if err != nil {
		return errors.Join(err, undo())
	}
	return nil
}

// Exists reports whether the cgroup is there, and is this one.
func (r Ref) Exists() bool {
	var st unix.Stat_t
	return unix.Stat(r.Folder(), &st) == nil && (r.Inode == 0 || st.Ino == r.Inode)
}

// Open opens the folder of the cgroup, or of one below it such as /sub, for a process to
// start in.
func (r Ref) Open(below string) (*os.File, error) {
	return os.OpenFile(filepath.Join(r.Folder(), path.Clean("/"+below)), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

// OpenOf opens the folder of that cgroup, this or one below, in which a process is.
func (r Ref) OpenOf(pid int) (*os.File, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(data)) {
		at, unified := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::")
		if below, inside := strings.CutPrefix(at, r.Path+"/"); unified && inside {
			return r.Open(below)
		}
	}
	return nil, fmt.Errorf("process %d is not below cgroup %s", pid, r.Path)
}

// Pids returns the processes in the cgroup; with all, those in cgroups below too.
func (r Ref) Pids(all bool) ([]int, error) {
	var out []int
	err := filepath.WalkDir(r.Folder(), func(name string, e fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist) && name != r.Folder():
			return nil // gone by now
		case err != nil || !e.IsDir():
			return err
		case name != r.Folder() && !all:
			return fs.SkipDir
		}
		data, err := os.ReadFile(filepath.Join(name, "cgroup.procs"))
		switch {
		case errors.Is(err, unix.EOPNOTSUPP): // threads of a process that is above
			return nil
		case name != r.Folder() && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV)):
			return nil
		case err != nil:
			return err
		}
		for _, word := range strings.Fields(string(data)) {
			pid, err := strconv.Atoi(word)
			if err != nil {
				return err
			}
			if pid > 0 { // 0 is one of another pid namespace
				out = append(out, pid)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("cannot list the processes of cgroup %s: %w", r.Path, err)
	}
	slices.Sort(out)
	return out, nil
}

// Freeze stops every process in the cgroup and below, and waits until they are. If
// ctx ends first they go on.
func (r Ref) Freeze(ctx context.Context) error {
	if err := writeFile(r.file("cgroup.freeze"), "1\n"); err != nil {
		return fmt.Errorf("cannot freeze cgroup %s: %w", r.Path, err)
	}
	if err := r.await(ctx, "frozen", "1"); err != nil {
		return errors.Join(fmt.Errorf("cannot freeze cgroup %s: %w", r.Path, err), writeFile(r.file("cgroup.freeze"), "0\n"))
	}
	return nil
}

// Thaw lets frozen processes go on.
func (r Ref) Thaw(ctx context.Context) error {
	err := writeFile(r.file("cgroup.freeze"), "0\n")
	if err == nil {
		err = r.await(ctx, "frozen", "0")
	}
	if err != nil {
		return fmt.Errorf("cannot thaw cgroup %s: %w", r.Path, err)
	}
	return nil
}

// Frozen reports whether the cgroup's processes are stopped.
func (r Ref) Frozen() (bool, error) {
	v, err := r.event("frozen")
	if err != nil {
		return false, fmt.Errorf("cannot tell whether cgroup %s is frozen: %w", r.Path, err)
	}
	return v == "1", nil
}

// mine refuses a cgroup that is there and may be another's. Without an inode, after
// a crash, one without processes is ours.
func (r Ref) mine() (there bool, err error) {
	var st unix.Stat_t
	switch err := unix.Stat(r.Folder(), &st); {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	case r.Inode != 0:
		return st.Ino == r.Inode, nil
	}
	if v, err := r.event("populated"); err == nil && v != "0" {
		return true, errors.New("it has processes, and nothing tells that they are this container's")
	}
	return true, nil
}

// Kill ends every process in the cgroup and below, and waits for that. A cgroup
// that is gone has none.
func (r Ref) Kill(ctx context.Context) error {
	there, err := r.mine()
	if err == nil && there {
		err = r.kill(ctx)
	}
	if err != nil {
		return fmt.Errorf("cannot kill what is in cgroup %s: %w", r.Path, err)
	}
	return nil
}

func (r Ref) kill(ctx context.Context) error {
	err := writeFile(r.file("cgroup.kill"), "1\n")
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EOPNOTSUPP) { // before Linux 5.14, or threaded
		err = r.killEach(ctx)
	}
	if err == nil {
		err = r.await(ctx, "populated", "0")
	}
	if gone(err) {
		return nil
	}
	return err
}

// gone tells the errors of a cgroup that was just removed.
func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) }

// killEach kills one by one what is frozen meanwhile, so that none can fork away.
func (r Ref) killEach(ctx context.Context) error {
	ferr := r.Freeze(ctx) // without it, as often as it takes
	for {
		pids, err := r.Pids(true)
		if err != nil || len(pids) == 0 {
			return err
		}
		for _, pid := range pids {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
		if ferr == nil { // a frozen process dies when it goes on
			if err := writeFile(r.file("cgroup.freeze"), "0\n"); err != nil {
				return err
			}
		}
		short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		err = r.await(short, "populated", "0")
		cancel()
		if err == nil || !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			return err
		}
	}
}

// Remove kills what is in the cgroup and removes it with all below, its scope, and
// Own above if it is empty. What is gone already is no error, nor is a cgroup of the
// same path that is another's: that stays.
func (r Ref) Remove(ctx context.Context) error {
	there, err := r.mine()
	if err == nil && there && r.Unit == "" && unix.Rmdir(r.Folder()) == nil { // most often nobody is in it
		there = false
	}
	if err == nil && there {
		err = r.kill(ctx)
	}
	// Killed while it asked for a scope, a runtime may have left one that systemd has
	// yet to begin, or one without a process, whose end nothing tells systemd.
	if err == nil && r.Unit != "" && (there || r.Inode == 0) {
		if err = stopScope(ctx, r); err == nil && r.Inode == 0 {
			there, err = r.mine()
		}
	}
	if err == nil && there {
		for wait := time.Millisecond; err == nil; wait = min(2*wait, 50*time.Millisecond) {
			rerr := removeAll(r.Folder())
			if rerr == nil {
				break
			}
			if !errors.Is(rerr, unix.EBUSY) { // the last process is still on its way out
				err = rerr
				break
			}
			select {
			case <-ctx.Done():
				err = errors.Join(rerr, ctx.Err())
			case <-time.After(wait):
				err = r.kill(ctx) // a process may have come since
			}
		}
	}
	if err != nil {
		return fmt.Errorf("cannot remove cgroup %s: %w", r.Path, err)
	}
	if r.Own != "" {
		for dir := path.Dir(r.Path); strings.HasPrefix(dir+"/", r.Own+"/"); dir = path.Dir(dir) {
			if os.Remove(filepath.Join(r.Root, dir)) != nil { // others are in it
				break
			}
		}
	}
	return nil
}

// removeAll removes a cgroup and those below it.
func removeAll(dir string) error {
	entries, err := os.ReadDir(dir)
	if gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeAll(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(dir); err != nil && !gone(err) {
		return &fs.PathError{Op: "rmdir", Path: dir, Err: err}
	}
	return nil
}
