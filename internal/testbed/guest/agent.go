package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/powerd/powerd/internal/sysfs"
	"github.com/powerd/powerd/internal/testbed/wire"
)

// An agent answers the host's requests, each in its own goroutine. It reads and
// writes files through the same sysfs.Dir as powerd does on a real machine.
type agent struct {
	root    *sysfs.Dir
	send    sync.Mutex
	port    io.Writer
	mu      sync.Mutex
	cancel  map[uint64]context.CancelFunc
	started map[int]*started
}

// A started process is one in the background.
type started struct {
	done   chan struct{}
	result wire.Result
}

// serve answers requests for as long as the machine runs.
func serve() error {
	name, err := findPort()
	if err != nil {
		return err
	}
	port, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	root, err := sysfs.Host("/")
	if err != nil {
		return err
	}
	a := &agent{root: root, port: port, cancel: map[uint64]context.CancelFunc{}, started: map[int]*started{}}
	a.answer(wire.Response{Op: wire.Hello})
	for {
		var r wire.Request
		if err := wire.Receive(port, &r); err != nil {
			return fmt.Errorf("cannot receive from the host: %w", err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		a.mu.Lock()
		a.cancel[r.ID] = cancel
		a.mu.Unlock()
		go func() {
			defer func() {
				a.mu.Lock()
				delete(a.cancel, r.ID)
				a.mu.Unlock()
				cancel()
			}()
			out, err := a.do(ctx, r)
			out.ID, out.Op = r.ID, r.Op
			if err != nil {
				out.Err = err.Error()
				errors.As(err, &out.Errno)
				if pe := (*fs.PathError)(nil); errors.As(err, &pe) {
					out.FailedOp = pe.Op
				}
			}
			a.answer(out)
		}()
	}
}

// findPort waits for the virtio-serial port, e.g. /dev/vport1p1, whose name is in
// /sys/class/virtio-ports/vport1p1/name. (Its link in /dev/virtio-ports is made
// by udev, which may not run here.)
func findPort() (string, error) {
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		names, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
		for _, name := range names {
			if data, err := os.ReadFile(name); err == nil && strings.TrimSpace(string(data)) == wire.Port {
				return "/dev/" + filepath.Base(filepath.Dir(name)), nil
			}
		}
	}
	return "", errors.New("cannot find the virtio-serial port " + wire.Port)
}

func (a *agent) answer(r wire.Response) {
	a.send.Lock()
	defer a.send.Unlock()
	if err := wire.Send(a.port, r); err != nil {
		log.Print("cannot answer the host: ", err)
	}
}

func (a *agent) do(ctx context.Context, r wire.Request) (out wire.Response, err error) {
	switch r.Op {
	case wire.Run:
		out.Result, err = run(ctx, r.Command)
	case wire.Start:
		out.Pid, err = a.start(r.Command, r.Name)
	case wire.Wait:
		out.Result, err = a.wait(ctx, r.Pid)
	case wire.Cancel:
		a.mu.Lock()
		if cancel := a.cancel[r.Target]; cancel != nil {
			cancel()
		}
		a.mu.Unlock()
	case wire.Signal:
		err = syscall.Kill(r.Pid, syscall.Signal(r.Signal))
	case wire.Read:
		out.Data, err = a.root.ReadFile(r.Name)
	case wire.Write:
		err = a.root.WriteFile(r.Name, r.Data)
	case wire.Put:
		err = os.WriteFile("/"+r.Name, r.Data, fs.FileMode(r.Mode))
	case wire.List:
		out.Names, err = a.root.ReadDir(r.Name)
	case wire.Glob:
		out.Names, err = filepath.Glob("/" + r.Name)
	case wire.Mkdir:
		err = a.root.Mkdir(r.Name)
	case wire.Remove:
		err = a.root.Remove(r.Name)
	default:
		err = fmt.Errorf("the agent knows no operation %q", r.Op)
	}
	return out, err
}

func command(ctx context.Context, c *wire.Command) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.Argv[0], c.Argv[1:]...)
	cmd.Dir = c.Dir
	cmd.Env = append(os.Environ(), c.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	// A process left in the background may hold the output open for ever.
	cmd.WaitDelay = time.Second
	return cmd
}

func checkCommand(c *wire.Command) error {
	if c == nil || len(c.Argv) == 0 {
		return errors.New("cannot run a command without words")
	}
	return nil
}

func run(ctx context.Context, c *wire.Command) (*wire.Result, error) {
	if err := checkCommand(c); err != nil {
		return nil, err
	}
	cmd := command(ctx, c)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(c.Stdin), &stdout, &stderr
	if err := cmd.Run(); cmd.ProcessState == nil {
		return nil, err
	}
	return &wire.Result{Stdout: stdout.Bytes(), Stderr: stderr.Bytes(), Code: code(cmd.ProcessState)}, nil
}

func code(s *os.ProcessState) int {
	if w := s.Sys().(syscall.WaitStatus); w.Signaled() {
		return 128 + int(w.Signal())
	}
	return s.ExitCode()
}

func (a *agent) start(c *wire.Command, output string) (int, error) {
	if err := checkCommand(c); err != nil {
		return 0, err
	}
	f, err := os.OpenFile("/"+output, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	cmd := command(context.Background(), c)
	cmd.Stdout, cmd.Stderr = f, f
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	p := &started{done: make(chan struct{})}
	a.mu.Lock()
	a.started[cmd.Process.Pid] = p
	a.mu.Unlock()
	go func() {
		cmd.Wait()
		p.result.Code = code(cmd.ProcessState)
		close(p.done)
	}()
	return cmd.Process.Pid, nil
}

func (a *agent) wait(ctx context.Context, pid int) (*wire.Result, error) {
	a.mu.Lock()
	p := a.started[pid]
	a.mu.Unlock()
	if p == nil {
		return nil, fmt.Errorf("cannot wait for process %d: it was not started here", pid)
	}
	select {
	case <-p.done:
		return &p.result, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
