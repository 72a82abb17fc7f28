package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/powerd/powerd/containers/spawn"
)

// hookLists are the hooks of a config by the name of their field.
func hookLists(h *specs.Hooks) map[string][]specs.Hook {
	if h == nil {
		return nil
	}
	return map[string][]specs.Hook{
		//lint:ignore SA1019 engines still use prestart
		"prestart": h.Prestart, "createRuntime": h.CreateRuntime, "createContainer": h.CreateContainer,
		"startContainer": h.StartContainer, "poststart": h.Poststart, "poststop": h.Poststop,
	}
}

func checkHooks(h *specs.Hooks) error {
	for name, list := range hookLists(h) {
		for i, hook := range list {
			at := fmt.Sprintf("hooks.%s[%d]", name, i)
			switch {
			case !path.IsAbs(hook.Path):
				return field(at+".path", "want an absolute path, not %q", hook.Path)
			case strings.IndexByte(strings.Join(append(append([]string{hook.Path}, hook.Args...), hook.Env...), ""), 0) >= 0:
				return field(at, "it holds a NUL")
			case hook.Timeout != nil && *hook.Timeout <= 0:
				return field(at+".timeout", "want seconds above 0, not %d", *hook.Timeout)
			}
		}
	}
	return nil
}

// hookTimeout gives a hook's time, or none.
func hookTimeout(ctx context.Context, h specs.Hook) (context.Context, context.CancelFunc) {
	if h.Timeout == nil {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Duration(*h.Timeout)*time.Second)
}

func tooLong(h specs.Hook) error {
	if h.Timeout == nil {
		return errors.New("it was given up")
	}
	return fmt.Errorf("it took more than %d s", *h.Timeout)
}

// runHooks runs hooks in the runtime's namespaces, the state on their standard input.
// The first that fails ends it.
//
// See https://github.com/opencontainers/runtime-spec/blob/v1.3.0/config.md#posix-platform-hooks.
func runHooks(ctx context.Context, name string, list []specs.Hook, state specs.State) error {
	for i, h := range list {
		data, err := json.Marshal(state)
		if err != nil {
			return err
		}
		ctx, cancel := hookTimeout(ctx, h) // this hook's own
		cmd := exec.CommandContext(ctx, h.Path)
		if len(h.Args) > 0 {
			cmd.Args = h.Args
		}
		if len(h.Env) > 0 { // else it is ours, as with runc
			cmd.Env = h.Env
		}
		cmd.Dir = state.Bundle
		cmd.Stdin = bytes.NewReader(data)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		cmd.WaitDelay = time.Second // what it started may hold its pipes
		err = cmd.Run()
		if ctx.Err() != nil {
			err = tooLong(h)
		}
		cancel()
		if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
			return fmt.Errorf("cannot run hooks.%s[%d] %s: %v: %s", name, i, h.Path, err, tail(out.String()))
		}
	}
	return nil
}

func tail(s string) string {
	if s = strings.TrimSpace(s); len(s) > 500 {
		s = "..." + s[len(s)-500:]
	}
	return s
}

// runHooksInside runs hooks in the namespaces of a container's process.
func runHooksInside(ctx context.Context, name string, list []specs.Hook, state specs.State) error {
	for i, h := range list {
		if err := runHookInside(ctx, h, state); err != nil {
			return fmt.Errorf("cannot run hooks.%s[%d] %s: %w", name, i, h.Path, err)
		}
	}
	return nil
}

func runHookInside(ctx context.Context, h specs.Hook, state specs.State) error {
	data, err := json.Marshal(state)
	if err != nil {
		return err
	}
	in, inEnd, err := os.Pipe()
	if err != nil {
		return err
	}
	defer in.Close()
	defer inEnd.Close()
	out, outEnd, err := os.Pipe()
	if err != nil {
		return err
	}
	defer out.Close()
	defer outEnd.Close()
	if err := unix.SetNonblock(int(in.Fd()), false); err != nil {
		return err
	}
	b := &builder{}
	enter, err := enterProcess(b, state.Pid)
	if err != nil {
		return err
	}
	defer enter.Close()
	b.Do("give a hook the state", unix.SYS_DUP3, spawn.FD(in.Fd()), 0, 0)
	for fd := 1; fd < 3; fd++ {
		b.Do("give a hook its output", unix.SYS_DUP3, spawn.FD(outEnd.Fd()), fd, 0)
	}
	b.Do("keep descriptors from a hook", unix.SYS_CLOSE_RANGE, 3, uint64(1<<32-1), unix.CLOSE_RANGE_CLOEXEC)
	args := h.Args
	if len(args) == 0 {
		args = []string{h.Path}
	}
	if err := b.Exec(h.Path, args, h.Env, ""); err != nil {
		return err
	}
	p, err := spawn.Start(&b.Script, spawn.Options{})
	if err != nil {
		return err
	}
	defer p.Pidfd.Close()
	in.Close()
	outEnd.Close()
	pid, err := enter.pid(p)
	if err != nil {
		return err
	}
	if err := p.Wait(); err != nil {
		waitFor(pid)
		return err
	}
	go func() {
		inEnd.Write(data) //nolint:errcheck // who does not read it does not want it
		inEnd.Close()
	}()
	ctx, cancel := hookTimeout(ctx, h)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { unix.Kill(pid, unix.SIGKILL) }) //nolint:errcheck // it has ended
	status := waitFor(pid)
	if !stop() {
		return tooLong(h)
	}
	if code := ExitCode(status); code != 0 {
		out.SetReadDeadline(time.Now().Add(time.Second)) //nolint:errcheck // what it started may hold the pipe
		text, _ := io.ReadAll(io.LimitReader(out, 4096))
		return fmt.Errorf("it ended with code %d: %s", code, tail(string(text)))
	}
	return nil
}

func waitFor(pid int) (status unix.WaitStatus) {
	for {
		if _, err := unix.Wait4(pid, &status, 0, nil); err != unix.EINTR {
			return status
		}
	}
}

// ExitCode is a program's, or 128 + the signal that ended it.
func ExitCode(status unix.WaitStatus) int {
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}
