package spawn

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// finish waits for a process and returns its exit code.
func finish(t testing.TB, pid int) int {
	t.Helper()
	var status syscall.WaitStatus
	for {
		if _, err := syscall.Wait4(pid, &status, 0, nil); err != syscall.EINTR {
			if err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

func TestExec(t *testing.T) {
	out, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	var s Script
	s.Do("move standard output", unix.SYS_DUP3, FD(w.Fd()), 1, 0)
	dir := s.Do("open /", unix.SYS_OPENAT, unix.AT_FDCWD, "/", unix.O_PATH|unix.O_CLOEXEC).Save()
	s.Do("enter /", unix.SYS_FCHDIR, dir)
	s.Do("open what is not there", unix.SYS_OPENAT, unix.AT_FDCWD, "/nonesuch", 0).SkipOn(syscall.ENOENT, 1)
	s.Do("make a call that is skipped", unix.SYS_FCHDIR, -1)
	if err := s.Exec("sh", []string{"sh", "-c", "echo $A in $PWD; exit 7"}, []string{"A=a b", "PATH=/usr/bin"}, "relative:/nonesuch:/usr/bin:/bin"); err != nil {
		t.Fatal(err)
	}
	p, err := Start(&s, Options{})
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	if err := p.Wait(); err != nil {
		t.Fatal(err)
	}
	text := make([]byte, 100)
	n, _ := out.Read(text)
	if code := finish(t, p.Pid); code != 7 || string(text[:n]) != "a b in /\n" {
		t.Errorf("code %d, output %q", code, text[:n])
	}
}

func TestFailure(t *testing.T) {
	var s Script
	s.Do("count", unix.SYS_GETPID)
	s.Do("enter the folder", unix.SYS_CHDIR, "/nonesuch")
	s.Do("never", unix.SYS_EXIT_GROUP, 3)
	p, err := Start(&s, Options{})
	if err != nil {
		t.Fatal(err)
	}
	err = p.Wait()
	var ce *CallError
	if !errors.As(err, &ce) || ce.Errno != syscall.ENOENT || err.Error() != "cannot enter the folder: no such file or directory" {
		t.Errorf("%v", err)
	}
	if code := finish(t, p.Pid); code != 127 {
		t.Errorf("code %d", code)
	}
	if _, err := Start(&Script{}, Options{}); err == nil {
		t.Error("an empty script is started")
	}
	if err := s.Exec("a\x00b", nil, nil, "/bin"); err == nil {
		t.Error("a NUL is taken")
	}
	if err := s.Exec("sh", nil, nil, "relative"); err == nil {
		t.Error("a PATH of relative folders is taken")
	}
}

// A pipe's end is a failure where a byte is demanded: the parent has died.
func TestSome(t *testing.T) {
	for _, send := range []bool{false, true} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		var s Script
		s.Do("wait for the parent", unix.SYS_READ, FD(r.Fd()), make([]byte, 1), 1).Some()
		p, err := Start(&s, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if send {
			w.Write([]byte("x"))
		}
		w.Close()
		if err := p.Wait(); (err == nil) != send || !send && !errors.Is(err, syscall.EPIPE) {
			t.Errorf("send %v: %v", send, err)
		}
		finish(t, p.Pid)
	}
}

// The child is single-threaded, so it may join a user namespace; a fork goes on in
// a child of ours.
func TestNamespaces(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to map ids at will")
	}
	hold := exec.Command("sleep", "1000")
	hold.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWUTS | syscall.CLONE_NEWPID,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 1000, Size: 1}}, GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 1000, Size: 1}}}
	if err := hold.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { hold.Process.Kill(); hold.Wait() }()
	out, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	var s Script
	var fds []Register
	for _, ns := range []string{"user", "uts", "pid"} {
		fds = append(fds, s.Do("open namespace "+ns, unix.SYS_OPENAT, unix.AT_FDCWD, fmt.Sprintf("/proc/%d/ns/%s", hold.Process.Pid, ns), unix.O_RDONLY|unix.O_CLOEXEC).Save())
	}
	for _, fd := range fds {
		s.Do("join a namespace", unix.SYS_SETNS, fd, 0)
	}
	s.Fork("go on in the pid namespace", 0)
	s.Do("become root there", unix.SYS_SETRESUID, 0, 0, 0)
	s.Do("set the host's name", unix.SYS_SETHOSTNAME, "inside", len("inside"))
	s.Do("move standard output", unix.SYS_DUP3, FD(w.Fd()), 1, 0)
	if err := s.Exec("/bin/sh", []string{"sh", "-c", "hostname; id -u; echo $$"}, []string{"PATH=/usr/bin:/bin"}, ""); err != nil {
		t.Fatal(err)
	}
	p, err := Start(&s, Options{})
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	pid, err := p.Forked()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(); err != nil {
		t.Fatal(err)
	}
	if code := finish(t, p.Pid); code != 0 {
		t.Errorf("the first process ended with %d", code)
	}
	if code := finish(t, pid); code != 0 {
		t.Errorf("the second process ended with %d", code)
	}
	text := make([]byte, 100)
	n, _ := out.Read(text)
	if f := strings.Fields(string(text[:n])); len(f) != 3 || f[0] != "inside" || f[1] != "0" || f[2] == "1" {
		t.Errorf("inside: %q", f)
	}
	if name, _ := os.Hostname(); name == "inside" {
		t.Error("the host's name has changed")
	}
}

// Many at once, with the garbage collector at work: nothing the child needs moves.
func TestMany(t *testing.T) {
	done := make(chan error)
	for i := range 8 {
		go func() {
			var err error
			for k := range 25 {
				var s Script
				want := (i*25 + k) % 200
				if err = s.Exec("/bin/sh", []string{"sh", "-c", fmt.Sprintf("exit %d", want)}, nil, ""); err != nil {
					break
				}
				_ = make([]byte, 1<<20)
				var p *Process
				if p, err = Start(&s, Options{}); err != nil {
					break
				}
				if err = p.Wait(); err != nil {
					break
				}
				if code := finish(t, p.Pid); code != want {
					err = fmt.Errorf("code %d, want %d", code, want)
					break
				}
				p.Pidfd.Close()
			}
			done <- err
		}()
	}
	for range 8 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func BenchmarkStart(b *testing.B) {
	for b.Loop() {
		var s Script
		if err := s.Exec("/bin/true", []string{"true"}, nil, ""); err != nil {
			b.Fatal(err)
		}
		p, err := Start(&s, Options{})
		if err != nil {
			b.Fatal(err)
		}
		if err := p.Wait(); err != nil {
			b.Fatal(err)
		}
		finish(b, p.Pid)
		p.Pidfd.Close()
	}
}

// An init passes signals on, waits for orphans, and ends as its program does.
func TestInit(t *testing.T) {
	for program, want := range map[string]int{
		"exit 7":                            7,
		"exit 0":                            0,
		"kill -9 $$":                        128 + 9,
		"kill -TERM $PPID; exec sleep 1000": 128 + 15,
		"trap 'exit 5' INT; kill -INT $PPID; while :; do sleep 0.01; done": 5,
		// Orphans that end are gone, not zombies: the init's only child is the shell.
		"(sleep 0.01 & sleep 0.02 &); sleep 0.2; [ $(cat /proc/$PPID/task/$PPID/children | wc -w) = 1 ] && exit 4": 4,
	} {
		var s Script
		done := s.Init()
		if err := s.Exec("/bin/sh", []string{"sh", "-c", program}, []string{"PATH=/usr/bin:/bin"}, ""); err != nil {
			t.Fatal(err)
		}
		done()
		p, err := Start(&s, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Wait(); err != nil {
			t.Fatal(err)
		}
		if code := finish(t, p.Pid); code != want {
			t.Errorf("%s: code %d, want %d", program, code, want)
		}
	}
	// A program that is not there is told as without an init.
	var s Script
	done := s.Init()
	if err := s.Exec("/nonesuch", []string{"x"}, nil, ""); err != nil {
		t.Fatal(err)
	}
	done()
	p, err := Start(&s, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("%v", err)
	}
	if code := finish(t, p.Pid); code != 127 {
		t.Errorf("code %d", code)
	}
}
