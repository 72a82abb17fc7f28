package oci

import (
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/powerd/powerd/containers/seccomp"
	"github.com/powerd/powerd/containers/spawn"
)

// identity is what a process gets beside what config.json says of it.
type identity struct {
	// preserve is how many descriptors above 2 are for the program.
	preserve    int
	keepKeyring bool
	filter      *seccomp.Filter // may be nil
	console     bool            // its standard descriptors are a terminal's
	talk        *talk           // to tell of a listener
	affinity    *specs.CPUAffinity
}

var ioClasses = map[specs.IOPriorityClass]int{specs.IOPRIO_CLASS_RT: 1, specs.IOPRIO_CLASS_BE: 2, specs.IOPRIO_CLASS_IDLE: 3}

var personalities = map[specs.LinuxPersonalityDomain]int{specs.PerLinux: 0, specs.PerLinux32: 8}

var schedPolicies = map[specs.LinuxSchedulerPolicy]uint32{
	specs.SchedOther: 0, specs.SchedFIFO: 1, specs.SchedRR: 2, specs.SchedBatch: 3, specs.SchedISO: 4, specs.SchedIdle: 5, specs.SchedDeadline: 6,
}

var schedFlags = map[specs.LinuxSchedulerFlag]uint64{
	specs.SchedFlagResetOnFork: 1, specs.SchedFlagReclaim: 2, specs.SchedFlagDLOverrun: 4, specs.SchedFlagKeepPolicy: 8,
	specs.SchedFlagKeepParams: 16, specs.SchedFlagUtilClampMin: 32, specs.SchedFlagUtilClampMax: 64,
}

// schedAttr is struct sched_attr of sched_setattr(2).
func schedAttr(s *specs.Scheduler) *unix.SchedAttr {
	a := &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: schedPolicies[s.Policy], Nice: s.Nice, Priority: uint32(s.Priority), Runtime: s.Runtime, Deadline: s.Deadline, Period: s.Period}
	for _, f := range s.Flags {
		a.Flags |= schedFlags[f]
	}
	return a
}

// stdio gives the standard descriptors to the user of the process, who may want to
// open them anew.
func (b *builder) stdio(p *specs.Process, in identity) {
	if in.console || p.User.UID == 0 && !b.user {
		return
	}
	for fd := range 3 {
		var st unix.Stat_t
		if unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT == unix.S_IFCHR { // a device is the host's
			continue
		}
		b.Do("own a standard descriptor", unix.SYS_FCHOWN, fd, int(p.User.UID), -1).Ignore(syscall.EINVAL, syscall.EPERM, syscall.EROFS)
	}
}

// label says what the security module is to make of the program. It is written to
// the host's own /proc: one that the container made may be anything (CVE-2019-16884,
// CVE-2025-52881).
func (b *builder) label(name, file, prefix, label string) {
	if label == "" {
		return
	}
	what := "set " + name
	// What the process may by now, its program may too, so it has nothing to hide.
	b.Do(what, unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 1, 0, 0, 0)
	b.write(what, b.Do(what, unix.SYS_OPENAT, b.openProc, file, unix.O_WRONLY|unix.O_CLOEXEC).Save(), prefix+label)
}

// seccomp installs the filter.
//
// See seccomp(2), SECCOMP_SET_MODE_FILTER.
func (b *builder) seccomp(in identity) {
	if in.filter == nil {
		return
	}
	var prog []byte
	for i := range in.filter.Program {
		prog = append(prog, spawn.Struct(&in.filter.Program[i])...)
	}
	fprog := []uint64{uint64(len(in.filter.Program)), uint64(b.Data(prog))}
	b.Do("set linux.seccomp", unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, in.filter.Flags, words(fprog))
	if in.filter.Notify {
		in.talk.ask(b, "give an agent the listener of linux.seccomp")
	}
}

// listen gives an agent the listener that a process has just made.
func listen(f *seccomp.Filter, pid int, state specs.State) error {
	listener, err := findListener(pid)
	if err != nil {
		return fmt.Errorf("cannot find the listener of linux.seccomp: %w", err)
	}
	defer unix.Close(listener)
	state.Pid = pid
	return ofConfig(f.SendListener(listener, pid, state))
}

// ofConfig makes a field of linux.seccomp one of config.json.
func ofConfig(err error) error {
	if fe := new(seccomp.FieldError); errors.As(err, &fe) {
		return &FieldError{fe.Field, fe.Why}
	}
	return err
}

// findListener takes a copy of a process' listener. There is one, for there is one
// process, which waits.
//
// See pidfd_getfd(2).
func findListener(pid int) (int, error) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return -1, err
	}
	for _, e := range entries {
		if to, err := os.Readlink(dir + "/" + e.Name()); err != nil || to != "anon_inode:seccomp notify" {
			continue
		}
		pidfd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			return -1, err
		}
		defer unix.Close(pidfd)
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			return -1, err
		}
		return unix.PidfdGetfd(pidfd, fd, 0)
	}
	return -1, fmt.Errorf("process %d has none", pid)
}

// compileFilter is config.json's filter, nil if it has none.
func compileFilter(s *specs.Spec) (*seccomp.Filter, error) {
	if s.Linux.Seccomp == nil {
		return nil, nil
	}
	f, err := seccomp.Compile(s.Linux.Seccomp)
	return f, ofConfig(err)
}

// enabled tells whether a security module is.
func enabled(file string) bool {
	data, err := os.ReadFile(file)
	return err == nil && strings.HasPrefix(string(data), "Y")
}

// process makes the process who and what it is to be.
//
// The order matters: what the program may not do any more is taken from it late, the
// filter last, for it may forbid all but execve.
func (b *builder) process(p *specs.Process, in identity) error {
	b.stdio(p, in)
	if s := p.Scheduler; s != nil {
		attr := schedAttr(s)
		b.Do("set process.scheduler", unix.SYS_SCHED_SETATTR, 0, spawn.Struct(attr), 0)
	}
	if io := p.IOPriority; io != nil {
		b.Do("set process.ioPriority", unix.SYS_IOPRIO_SET, 1, 0, ioClasses[io.Class]<<13|io.Priority)
	}
	if per := b.spec.Linux.Personality; per != nil {
		b.Do("set linux.personality", unix.SYS_PERSONALITY, personalities[per.Domain])
	}
	if err := b.memoryPolicy(); err != nil {
		return err
	}
	if err := b.affinity(in.affinity); err != nil {
		return err
	}
	for _, r := range p.Rlimits {
		lim := &unix.Rlimit{Cur: r.Soft, Max: r.Hard}
		b.Do("set process.rlimits "+r.Type, unix.SYS_PRLIMIT64, 0, rlimits[r.Type], spawn.Struct(lim), 0)
	}
	// Nothing that is open here is for the program, but the standard three.
	b.Do("keep descriptors from the program", unix.SYS_CLOSE_RANGE, 3+in.preserve, uint64(math.MaxUint32), unix.CLOSE_RANGE_CLOEXEC)
	if !in.keepKeyring {
		b.Do("make a session keyring", unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, 0).Ignore(syscall.ENOSYS, syscall.EPERM)
	}
	caps := b.grantable(p)
	for name, n := range capabilities {
		if !slices.Contains(caps["bounding"], name) {
			b.Do("drop "+name, unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, int(n), 0, 0, 0).Ignore(syscall.EINVAL) // unknown to the kernel
		}
	}
	// The working directory: inside the root, whatever its name pretends.
	what := "enter process.cwd " + p.Cwd
	cwd := b.openIn(what, p.Cwd, unix.O_PATH|unix.O_DIRECTORY)
	b.Do(what, unix.SYS_FCHDIR, cwd.Save())
	there := b.jump()
	cwd.SkipOn(syscall.ENOENT, 2)
	b.makePath(p.Cwd, false) // as runc does
	b.Do(what, unix.SYS_FCHDIR, b.openIn(what, p.Cwd, unix.O_PATH|unix.O_DIRECTORY).Save())
	there()

	if u := p.User.Umask; u != nil {
		b.Do("set process.user.umask", unix.SYS_UMASK, int(*u))
	}
	b.Do("keep capabilities over the change of user", unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, 1, 0, 0, 0)
	groups := p.User.AdditionalGids
	var list []byte
	for i := range groups {
		list = append(list, spawn.Struct(&groups[i])...)
	}
	drop := b.Do("set process.user.additionalGids", unix.SYS_SETGROUPS, len(groups), list)
	if b.user && len(groups) == 0 {
		drop.Ignore(syscall.EPERM) // its user namespace denies setgroups
	}
	b.Do("set process.user.gid", unix.SYS_SETRESGID, int(p.User.GID), int(p.User.GID), int(p.User.GID))
	b.Do("set process.user.uid", unix.SYS_SETRESUID, int(p.User.UID), int(p.User.UID), int(p.User.UID))
	// As its user, and while a filter cannot forbid to look.
	if err := b.Find(p.Args[0], searchPath(p)); err != nil {
		return err
	}
	early := in.filter != nil && !p.NoNewPrivileges
	if early {
		b.capset(caps, 1<<unix.CAP_SYS_ADMIN) // without no_new_privs a filter is a privilege
	} else {
		b.capset(caps, 0)
	}
	b.Do("clear the ambient capabilities", unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0).Ignore(syscall.EINVAL)
	for _, n := range caps["ambient"] {
		// One that it has not is not passed on: as other runtimes do.
		b.Do("raise ambient "+n, unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, int(capabilities[n]), 0, 0).Ignore(syscall.EPERM)
	}
	b.label("process.apparmorProfile", "thread-self/attr/apparmor/exec", "exec ", p.ApparmorProfile)
	b.label("process.selinuxLabel", "thread-self/attr/exec", "", p.SelinuxLabel)
	if p.NoNewPrivileges {
		b.Do("set process.noNewPrivileges", unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	}
	b.seccomp(in)
	if early {
		b.capset(caps, 0)
	}
	return nil
}

// capset sets the three sets that a process has, and more beside what is effective
// and permitted.
func (b *builder) capset(caps map[string][]string, more uint64) {
	header := &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	effective, permitted, inheritable := mask(caps["effective"])|more, mask(caps["permitted"])|more, mask(caps["inheritable"])
	data := &[2]unix.CapUserData{
		{Effective: uint32(effective), Permitted: uint32(permitted), Inheritable: uint32(inheritable)},
		{Effective: uint32(effective >> 32), Permitted: uint32(permitted >> 32), Inheritable: uint32(inheritable >> 32)}}
	b.Do("set process.capabilities", unix.SYS_CAPSET, spawn.Struct(header), spawn.Struct(data))
}

// mask is a set of capabilities as the kernel's bits.
func mask(names []string) (m uint64) {
	for _, n := range names {
		m |= 1 << capabilities[n]
	}
	return m
}

// grantable are the capabilities of each list that can be given: those that there are
// and that the runtime has. The rest is left out, as the specification demands.
//
// See https://github.com/opencontainers/runtime-spec/blob/v1.3.0/config.md#linux-process.
func (b *builder) grantable(p *specs.Process) map[string][]string {
	have := ^uint64(0)
	if !b.user { // root of a user namespace has all
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		if unix.Capget(&header, &data[0]) == nil {
			have = uint64(data[0].Permitted) | uint64(data[1].Permitted)<<32
		}
	}
	lists := capabilityLists(p)
	for name, list := range lists {
		lists[name] = slices.DeleteFunc(slices.Clone(list), func(n string) bool { return !IsCapability(n) || have&mask([]string{n}) == 0 })
	}
	return lists
}
