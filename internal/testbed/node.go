package testbed

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/powerd/powerd/internal/sysfs"
	"github.com/powerd/powerd/internal/testbed/wire"
	"github.com/powerd/powerd/internal/units"
)

// A Node is a running virtual machine. It is a sysfs.FS of the guest's root, with
// the guest kernel's errnos; names may begin with "/". It may be used by several
// goroutines.
type Node struct {
	cfg      Config
	dir      string // temporary files of this boot
	cmd      *exec.Cmd
	exited   chan struct{}
	exitErr  error // valid once exited is closed
	qmp      *qmp
	throttle *throttle
	loop     *loop
	agent    *agentConn
	close    sync.Once
	closeErr error
	still    sync.Once
	found    atomic.Pointer[string] // what inspect found
	last     atomic.Pointer[string] // the console as of Close
}

var _ sysfs.FS = (*Node)(nil)

// Start boots a node for a test and closes it at the test's end. It fails the test
// if it cannot, and logs the guest's console if the test failed.
func Start(t testing.TB, cfg Config) *Node {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute) // most of it for its turn
	defer cancel()
	n, err := Boot(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			size := 4000
			if found := n.found.Load(); found != nil {
				size = 64000
				t.Logf("when it did not answer:\n%s", *found)
			}
			t.Logf("the guest's console:\n%s", tail(n.Console(), size))
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// Boot starts a node and returns when its agent answers; the harness follows the
// node's P-states from then on. Close must be called. While another process has a
// node, Boot waits. The first boot on a machine
// downloads the kernel and makes the Debian root, which may take minutes.
func Boot(ctx context.Context, cfg Config) (_ *Node, err error) {
	cfg, err = cfg.withDefaults(runtime.NumCPU())
	if err != nil {
		return nil, err
	}
	if err := takeTurn(ctx); err != nil {
		return nil, err
	}
	for _, left := range leftovers(os.TempDir()) {
		os.RemoveAll(left)
	}
	dir, err := os.MkdirTemp("", fmt.Sprintf("%s%d-", ownPrefix, os.Getpid()))
	if err != nil {
		endTurn()
		return nil, fmt.Errorf("cannot boot node: %w", err)
	}
	n := &Node{cfg: cfg, dir: dir, exited: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	args, err := n.prepare(ctx)
	if err != nil {
		close(n.exited)
		return nil, err
	}
	qmpConn, agentConn, err := n.start(args)
	if err != nil {
		return nil, err
	}
	if n.qmp, err = newQMP(qmpConn); err != nil {
		return nil, n.explain(err)
	}
	threads, err := n.qmp.threads()
	if err != nil {
		return nil, n.explain(err)
	}
	if n.throttle, err = newThrottle(n.cmd.Process.Pid, threads); err != nil {
		return nil, err
	}
	if n.agent, err = newAgentConn(ctx, agentConn); err != nil {
		return nil, n.explain(fmt.Errorf("cannot reach the guest's agent: %w", err))
	}
	if n.loop, err = startLoop(cfg, n.qmp, n.cmd.Process.Pid, threads, n.throttle); err != nil {
		return nil, n.explain(err)
	}
	return n, nil
}

// explain adds what the guest said last to an error of booting.
func (n *Node) explain(err error) error {
	return fmt.Errorf("%w\nQEMU said: %s\nthe console ends with:\n%s", err, n.log("qemu.log"), tail(n.Console(), 1500))
}

func (n *Node) log(name string) string {
	data, err := os.ReadFile(filepath.Join(n.dir, name))
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// prepare makes what QEMU is to load and returns its command line.
func (n *Node) prepare(ctx context.Context) ([]string, error) {
	k, err := fetchKernel(ctx)
	if err != nil {
		return nil, err
	}
	agent, err := buildAgent(ctx, n.dir)
	if err != nil {
		return nil, err
	}
	ssdt, err := compileSSDT(ctx, n.dir, n.cfg)
	if err != nil {
		return nil, err
	}
	args := []string{
		"-accel", "tcg,thread=multi",
		// acpi-cpufreq takes TCG's own AMD family 15 for a K8 and refuses it.
		"-cpu", "max,vendor=GenuineIntel,family=6,model=60,stepping=3",
		"-machine", "q35", "-m", strconv.Itoa(n.cfg.Memory),
		"-smp", fmt.Sprintf("%d,sockets=%d,cores=%d,threads=%d", n.cfg.CPUs(), n.cfg.Sockets, n.cfg.CoresPerSocket, n.cfg.ThreadsPerCore),
		"-nodefaults", "-no-user-config", "-display", "none", "-nic", "none", "-no-reboot",
		"-name", "powerd-testbed,debug-threads=on",
		"-serial", "file:" + filepath.Join(n.dir, "console"),
		"-chardev", "socket,id=qmp,fd=3", "-mon", "chardev=qmp,mode=control",
		"-chardev", "socket,id=agent,fd=4", "-device", "virtio-serial-pci", "-device", "virtserialport,chardev=agent,name=" + wire.Port,
		"-acpitable", "file=" + ssdt,
		"-kernel", k.image, "-initrd", filepath.Join(n.dir, "initramfs"),
		// A vCPU that is throttled or waits for a busy host looks stuck, and its
		// clock unsteady, to watchdogs. intel_pstate would take the cpus.
		"-append", "console=ttyS0 quiet panic=-1 intel_pstate=disable tsc=reliable nowatchdog " +
			"rcupdate.rcu_cpu_stall_suppress=1 mitigations=off nokaslr " +
			"maxcpus=1", // the agent brings the others up

	}
	files := maps.Clone(n.cfg.Files)
	if n.cfg.Root == Debian {
		image, err := debianImage(ctx, n.cfg.Packages)
		if err != nil {
			return nil, err
		}
		args = append(args, "-drive", "file="+image+",if=virtio,format=raw,snapshot=on")
		for _, disk := range n.cfg.Disks {
			args = append(args, "-drive", "file="+disk+",if=virtio,format=raw,snapshot=on")
		}
		unit := filepath.Join(n.dir, "agent.service")
		if err := os.WriteFile(unit, []byte(agentUnit), 0o644); err != nil {
			return nil, err
		}
		if files == nil {
			files = map[string]string{}
		}
		files["/etc/systemd/system/powerd-testbed-agent.service"] = unit
		files[agentPath] = agent
	}
	return args, writeInitramfs(filepath.Join(n.dir, "initramfs"), k, agent, n.cfg.Root == Debian, n.cfg.Modules, files)
}

// start starts QEMU with a socket for QMP and one for the agent, and returns our
// ends of them.
func (n *Node) start(args []string) (qmpConn, agentConn net.Conn, err error) {
	fail := func(err error) (net.Conn, net.Conn, error) {
		select {
		case <-n.exited:
		default:
			close(n.exited)
		}
		return nil, nil, fmt.Errorf("cannot start QEMU: %w", err)
	}
	qmpConn, qmpEnd, err := socketPair()
	if err != nil {
		return fail(err)
	}
	defer qmpEnd.Close()
	agentConn, agentEnd, err := socketPair()
	if err != nil {
		return fail(err)
	}
	defer agentEnd.Close()
	log, err := os.Create(filepath.Join(n.dir, "qemu.log"))
	if err != nil {
		return fail(err)
	}
	defer log.Close()
	const qemu = "qemu-system-x86_64"
	if _, err := exec.LookPath(qemu); err != nil {
		return fail(errors.New(qemu + " is not installed; " + setupHint))
	}
	cmd := exec.Command(qemu, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{qmpEnd, agentEnd}
	// Its own process group, so that ^C at the terminal reaches it through Close
	// alone; and no QEMU outlives a test that is killed. The kernel ties that
	// signal to the thread that forked, so this thread stays until QEMU has ended.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			n.exitErr = cmd.Wait()
			close(n.exited)
		}
	}()
	if err := <-started; err != nil {
		return fail(err)
	}
	n.cmd = cmd
	return qmpConn, agentConn, nil
}

// socketPair returns the two ends of a stream: ours and a child's.
func socketPair() (net.Conn, *os.File, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "host"), os.NewFile(uintptr(fds[1]), "qemu")
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return conn, theirs, nil
}

// Close ends the node and removes all that it made on the host. It returns what
// went wrong, in the harness' loop too, since the boot.
func (n *Node) Close() error {
	n.close.Do(func() {
		var errs []error
		if n.loop != nil {
			errs = append(errs, n.loop.close())
		}
		if n.cmd != nil {
			// A guest has nothing to save, so QEMU need not be asked.
			n.cmd.Process.Kill()
		}
		<-n.exited
		if n.qmp != nil {
			n.qmp.conn.Close()
		}
		if n.agent != nil {
			n.agent.conn.Close()
		}
		if n.throttle != nil {
			errs = append(errs, n.throttle.remove())
		}
		console := n.log("console")
		n.last.Store(&console)
		errs = append(errs, os.RemoveAll(n.dir))
		n.closeErr = errors.Join(errs...)
		endTurn()
	})
	return n.closeErr
}

// Console returns what the guest's serial console printed so far.
func (n *Node) Console() string {
	if last := n.last.Load(); last != nil {
		return *last
	}
	return n.log("console")
}

// Config returns the node's config with its defaults filled in.
func (n *Node) Config() Config { return n.cfg }

// PState returns the ACPI P-state in a domain's port, 0 being the fastest, as seen
// from outside.
func (n *Node) PState(domain int) (int, error) {
	if domain < 0 || domain >= len(n.cfg.Domains) {
		return 0, fmt.Errorf("cannot read domain %d: the node has %d", domain, len(n.cfg.Domains))
	}
	v, err := n.qmp.readPort(pstatePorts[domain])
	return int(v), err
}

// Frequency returns the clock that a domain's port stands for.
func (n *Node) Frequency(domain int) (units.Frequency, error) {
	p, err := n.PState(domain)
	if err != nil {
		return 0, err
	}
	o, err := n.cfg.opp(p)
	return o.Frequency, err
}

// Truth returns the account of the node since its boot. The error is of the loop
// that keeps it, which ends with its first.
func (n *Node) Truth() (Truth, error) { return n.loop.truth() }

// Run runs a command in the guest to its end. A command that cannot be started is
// an error, one that fails is not. Cancelling ctx kills it.
func (n *Node) Run(ctx context.Context, argv ...string) (Result, error) {
	return n.Do(ctx, Command{Argv: argv})
}

// A Command is a process to run in the guest; a Result is how it ended.
type (
	Command = wire.Command
	Result  = wire.Result
)

// Do is Run for a command with input, environment or folder.
func (n *Node) Do(ctx context.Context, c Command) (Result, error) {
	r, err := n.agent.call(ctx, wire.Request{Op: wire.Run, Command: &c})
	if err != nil {
		n.inspect(err)
		return Result{}, fmt.Errorf("cannot run %q in the guest: %w", c.Argv, err)
	}
	return *r.Result, nil
}

// Start starts a command in the guest's background, its output going to the end of
// a file there, and returns its pid. Its process group has the same number.
func (n *Node) Start(ctx context.Context, output string, c Command) (pid int, err error) {
	r, err := n.agent.call(ctx, wire.Request{Op: wire.Start, Name: inRoot(output), Command: &c})
	if err != nil {
		return 0, fmt.Errorf("cannot start %q in the guest: %w", c.Argv, err)
	}
	return r.Pid, nil
}

// Wait waits for a command that Start started; its code is as in Result.
func (n *Node) Wait(ctx context.Context, pid int) (code int, err error) {
	r, err := n.agent.call(ctx, wire.Request{Op: wire.Wait, Pid: pid})
	if err != nil {
		return 0, fmt.Errorf("cannot wait in the guest: %w", err)
	}
	return r.Result.Code, nil
}

// Signal sends a signal to a process, or with -pid to a process group.
func (n *Node) Signal(pid int, sig syscall.Signal) error {
	_, err := n.file(wire.Request{Op: wire.Signal, Pid: pid, Signal: int(sig)})
	return err
}

// ReadFile implements sysfs.FS.
func (n *Node) ReadFile(name string) ([]byte, error) {
	r, err := n.file(wire.Request{Op: wire.Read, Name: name})
	return r.Data, err
}

// WriteFile implements sysfs.FS.
func (n *Node) WriteFile(name string, data []byte) error {
	_, err := n.file(wire.Request{Op: wire.Write, Name: name, Data: data})
	return err
}

// ReadDir implements sysfs.FS.
func (n *Node) ReadDir(name string) ([]string, error) {
	r, err := n.file(wire.Request{Op: wire.List, Name: name})
	return r.Names, err
}

// Mkdir implements sysfs.FS.
func (n *Node) Mkdir(name string) error {
	_, err := n.file(wire.Request{Op: wire.Mkdir, Name: name})
	return err
}

// Remove implements sysfs.FS.
func (n *Node) Remove(name string) error {
	_, err := n.file(wire.Request{Op: wire.Remove, Name: name})
	return err
}

// Put writes an ordinary file, and makes it if need be.
func (n *Node) Put(name string, data []byte, mode fs.FileMode) error {
	_, err := n.file(wire.Request{Op: wire.Put, Name: name, Data: data, Mode: uint32(mode.Perm())})
	return err
}

// Glob returns the files that match, as absolute paths, sorted.
func (n *Node) Glob(pattern string) ([]string, error) {
	r, err := n.file(wire.Request{Op: wire.Glob, Name: pattern})
	return r.Names, err
}

// fileTimeout bounds the operations that have no context: sysfs.FS has none.
const fileTimeout = 30 * time.Second

func (n *Node) file(r wire.Request) (wire.Response, error) {
	ctx, cancel := context.WithTimeout(context.Background(), fileTimeout)
	defer cancel()
	r.Name = inRoot(r.Name)
	out, err := n.agent.call(ctx, r)
	n.inspect(err)
	if err != nil && r.Name != "" {
		op := out.FailedOp
		if op == "" {
			op = string(r.Op)
		}
		if out.Errno != 0 {
			err = out.Errno
		}
		return out, &fs.PathError{Op: op, Path: r.Name, Err: err}
	}
	return out, err
}

// inspect finds out, once, what the guest is doing when a deadline says that it does not
// answer: where its vCPUs are, and, if the agent still answers, which of its tasks wait
// for what (on the console: Documentation/admin-guide/sysrq.rst).
func (n *Node) inspect(err error) {
	if !errors.Is(err, context.DeadlineExceeded) {
		return
	}
	n.still.Do(func() {
		var out strings.Builder
		for range 3 {
			registers, err := n.qmp.monitor("info registers -a")
			if err != nil {
				fmt.Fprintln(&out, err)
				break
			}
			for line := range strings.Lines(registers) {
				if strings.HasPrefix(line, "CPU#") || strings.HasPrefix(line, "RIP") || strings.HasPrefix(line, "RSI") {
					out.WriteString(line)
				}
			}
			time.Sleep(100 * time.Millisecond)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		for _, key := range []string{"9", "w", "t"} {
			if _, err := n.agent.call(ctx, wire.Request{Op: wire.Write, Name: "proc/sysrq-trigger", Data: []byte(key)}); err != nil {
				fmt.Fprintf(&out, "sysrq %s: %v\n", key, err)
			}
		}
		s := out.String()
		n.found.Store(&s)
	})
}

// inRoot makes a name relative to the guest's root.
func inRoot(name string) string { return strings.TrimLeft(name, "/") }
