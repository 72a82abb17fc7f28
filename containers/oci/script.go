package oci

import (
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/powerd/powerd/containers/spawn"
)

// parts are what the script of a container is made with.
type parts struct {
	talk    *talk
	start   *os.File // read: a byte when the program may start
	console *console // nil without process.terminal
	made    map[int]*os.File
	overlay *Overlay // nil: the root's folder is the root
	init    bool     // an init stays as process 1
	rdt     []string // resctrl groups to join
	visit   bool     // the runtime has something to do in its namespaces before the pivot
	identity
}

// script writes down all that stands between clone3 and the program.
func script(s *specs.Spec, rootfs string, pl *plan, in parts) (*spawn.Script, error) {
	b := &builder{spec: s}
	b.begin(s.Process)
	b.joinRdt(in.rdt...)
	pl.enter(b, in.talk)
	if s.Hostname != "" {
		b.Do("set hostname", unix.SYS_SETHOSTNAME, s.Hostname, len(s.Hostname))
	}
	if owns(s, specs.NetworkNamespace) {
		b.loopback()
	}
	if s.Domainname != "" {
		b.Do("set domainname", unix.SYS_SETDOMAINNAME, s.Domainname, len(s.Domainname))
	}
	if !in.init {
		b.Do("start a session", unix.SYS_SETSID).Ignore(syscall.EPERM)
	}
	if err := b.mounts(rootfs, in.overlay, in.made); err != nil {
		return nil, err
	}
	if in.visit {
		in.talk.ask(b, "visit its namespaces")
	}
	if err := b.hide(); err != nil {
		return nil, err
	}
	b.pivot()
	if in.console != nil {
		b.terminal(in.console, s.Process, true)
		if !in.init {
			b.control()
		}
	}
	b.sysctls()
	if s.Root.Readonly {
		b.makePath(s.Process.Cwd, false) // while it can be made, as with runc
	}
	b.seal()
	if err := b.process(s.Process, in.identity); err != nil {
		return nil, err
	}
	in.talk.tell(b)
	b.Do("wait to be started", unix.SYS_READ, spawn.FD(in.start.Fd()), make([]byte, 1), 1).Some()
	done := func() {}
	if in.init {
		// The session and the terminal are the program's, not its init's.
		done = b.Init()
		b.Do("start a session", unix.SYS_SETSID)
		if in.console != nil {
			b.control()
		}
	}
	if err := b.Exec(s.Process.Args[0], s.Process.Args, s.Process.Env, searchPath(s.Process)); err != nil {
		return nil, err
	}
	done()
	return &b.Script, nil
}

// loopback brings the network namespace's own interface up, as other runtimes do.
//
// See netdevice(7), SIOCSIFFLAGS.
func (b *builder) loopback() {
	const what = "bring up lo"
	request := struct {
		name  [unix.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}{flags: unix.IFF_UP}
	copy(request.name[:], "lo")
	fd := b.Do(what, unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0).Save()
	b.Do(what, unix.SYS_IOCTL, fd, unix.SIOCSIFFLAGS, spawn.Struct(&request))
	b.close(fd)
}

// begin does what has to be done as who the runtime is, and where the host's /proc is at
// hand.
func (b *builder) begin(p *specs.Process) {
	b.Do("name the process", unix.SYS_PRCTL, unix.PR_SET_NAME, "powerd-init", 0, 0, 0)
	if os.Geteuid() == 0 { // an ordinary user could not map its ids then
		b.Do("hide from who is in the container", unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	}
	if adj := p.OOMScoreAdj; adj != nil {
		const what = "set process.oomScoreAdj"
		b.write(what, b.Do(what, unix.SYS_OPENAT, unix.AT_FDCWD, "/proc/self/oom_score_adj", unix.O_WRONLY|unix.O_CLOEXEC).Save(), strconv.Itoa(*adj))
	}
	b.openProc = b.Do("open /proc", unix.SYS_OPENAT, unix.AT_FDCWD, "/proc", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC).Save()
}

// searchPath is where a process' program is looked for.
func searchPath(p *specs.Process) string {
	search := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	for _, v := range p.Env {
		if v, ok := strings.CutPrefix(v, "PATH="); ok {
			search = v
		}
	}
	return search
}
