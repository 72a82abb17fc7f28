package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/powerd/powerd/internal/testbed/wire"
)

// initialise is process 1 in the initramfs. It returns only with an error.
func initialise() error {
	for _, m := range []struct{ kind, on, options string }{
		{"proc", "/proc", ""},
		{"sysfs", "/sys", ""},
		{"devtmpfs", "/dev", ""},
	} {
		if err := mount(m.kind, m.on, m.options); err != nil {
			return err
		}
	}
	if err := patchBandwidth(); err != nil {
		return err
	}
	if err := bringUp(); err != nil {
		return err
	}
	data, err := os.ReadFile(wire.BootFile)
	if err != nil {
		return err
	}
	var boot wire.Boot
	if err := json.Unmarshal(data, &boot); err != nil {
		return err
	}
	for _, m := range boot.Modules {
		if err := loadModule(m); err != nil {
			return fmt.Errorf("cannot load module %s: %w", m, err)
		}
	}
	if boot.RootDevice != "" {
		return switchRoot(boot)
	}
	return stay()
}

// QEMU's translator, before 8.1, can miss that one vCPU patches the code that another is
// just translating: what it then keeps is the breakpoint that the kernel puts there for the
// moment, for ever, and every vCPU that comes by never leaves it. The kernel patches its code
// where a static key turns (Documentation/staging/static-keys.rst), often at the end of its
// boot, and when the first cpu.max of a machine is written and the last is lifted, in code
// that each cpu runs at each tick. So a node boots on one cpu (maxcpus=1), turns
// the key of cpu.max for good, and brings the others up then.

// patchBandwidth turns the static key of cpu.max: a cgroup that is removed with a quota
// leaves it so (kernel/sched/core.c, tg_set_cfs_bandwidth; destroy_cfs_bandwidth does not
// turn it back).
func patchBandwidth() (err error) {
	const root = "/sys/fs/cgroup"
	if err := mount("cgroup2", root, ""); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Unmount(root, 0)) }()
	control := filepath.Join(root, "cgroup.subtree_control")
	if err := os.WriteFile(control, []byte("+cpu"), 0); err != nil {
		return err
	}
	child := filepath.Join(root, "patch")
	if err := os.Mkdir(child, 0o755); err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(child, "cpu.max"), []byte("50000 100000"), 0),
		unix.Rmdir(child),
		os.WriteFile(control, []byte("-cpu"), 0))
}

// bringUp brings every cpu up that there is.
func bringUp() error {
	down, err := filepath.Glob("/sys/devices/system/cpu/cpu[0-9]*/online")
	if err != nil {
		return err
	}
	for _, file := range down {
		if err := os.WriteFile(file, []byte("1"), 0); err != nil {
			return err
		}
	}
	return nil
}

func mount(kind, on, options string) error {
	if err := os.MkdirAll(on, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(kind, on, kind, 0, options); err != nil {
		return fmt.Errorf("cannot mount %s on %s: %w", kind, on, err)
	}
	return nil
}

func loadModule(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

// stay makes the initramfs a usable node, starts the agent and reaps what is
// orphaned.
func stay() error {
	for _, m := range []struct{ kind, on, options string }{
		{"tmpfs", "/run", ""},
		{"tmpfs", "/tmp", ""},
		{"devpts", "/dev/pts", ""},
		{"cgroup2", "/sys/fs/cgroup", ""},
	} {
		if err := mount(m.kind, m.on, m.options); err != nil {
			return err
		}
	}
	// As systemd leaves it, so that cgroups below the root have the files.
	if err := os.WriteFile("/sys/fs/cgroup/cgroup.subtree_control", []byte("+cpuset +cpu +io +memory +pids"), 0); err != nil {
		return err
	}
	os.Setenv("PATH", "/bin:/usr/bin")
	for _, argv := range [][]string{
		{"/bin/busybox", "--install", "-s", "/bin"},
		{"/bin/busybox", "ip", "link", "set", "lo", "up"},
	} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("cannot run %v: %w: %s", argv, err, out)
		}
	}
	agent := exec.Command("/proc/self/exe")
	agent.Stdout, agent.Stderr = os.Stdout, os.Stderr
	if err := agent.Start(); err != nil {
		return err
	}
	for {
		pid, err := unix.Wait4(-1, nil, 0, nil)
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("cannot wait for processes: %w", err)
		}
		if pid == agent.Process.Pid {
			return errors.New("the agent ended")
		}
	}
}

const newRoot = "/newroot"

// switchRoot goes on as systemd on the disk, with the files and the agent (a
// unit of its own) copied in.
func switchRoot(boot wire.Boot) error {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(boot.RootDevice); err == nil {
			break
		} else if time.Now().After(deadline) {
			return err
		}
	}
	if err := os.MkdirAll(newRoot, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(boot.RootDevice, newRoot, "ext4", unix.MS_NOATIME, ""); err != nil {
		return fmt.Errorf("cannot mount %s: %w", boot.RootDevice, err)
	}
	for _, name := range boot.Files {
		if err := copyFile(wire.FilesDir+name, newRoot+name); err != nil {
			return err
		}
	}
	for _, on := range []string{"/proc", "/sys", "/dev"} {
		if err := unix.Mount(on, newRoot+on, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("cannot move %s: %w", on, err)
		}
	}
	if err := os.Chdir(newRoot); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("cannot move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	const systemd = "/lib/systemd/systemd"
	return fmt.Errorf("cannot start %s: %w", systemd, unix.Exec(systemd, []string{systemd}, os.Environ()))
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, info.Mode().Perm())
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}
