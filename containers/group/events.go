package group

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// event returns a value of cgroup.events.
func (r Ref) event(key string) (string, error) {
	data, err := os.ReadFile(r.file("cgroup.events"))
	if err != nil {
		return "", err
	}
	return parseEvent(string(data), key)
}

// parseEvent finds a value among
//
//	populated 1
//	frozen 0
func parseEvent(s, key string) (string, error) {
	for line := range strings.Lines(s) {
		if k, v, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " "); ok && k == key {
			return v, nil
		}
	}
	return "", fmt.Errorf("the kernel tells no %q", key)
}

// await waits until cgroup.events has a value.
func (r Ref) await(ctx context.Context, key, want string) error {
	f, err := os.Open(r.file("cgroup.events"))
	if err != nil {
		return err
	}
	defer f.Close()
	var buf [256]byte
	for {
		// Reading again is what rearms POLLPRI.
		n, err := f.ReadAt(buf[:], 0)
		if n == 0 {
			return err
		}
		if v, err := parseEvent(string(buf[:n]), key); err != nil || v == want {
			return err
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("its events still say %q: %w", strings.ReplaceAll(strings.TrimSpace(string(buf[:n])), "\n", ", "), err)
		}
		fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLPRI}}
		if _, err := unix.Poll(fds, 20); err != nil && !errors.Is(err, unix.EINTR) { // ctx ends at times
			return err
		}
	}
}

// OOM tells how many processes of the cgroup and those below the kernel has killed
// for want of memory, each time that there are more. The channel closes when the
// last process has ended, the cgroup goes, or ctx ends.
func (r Ref) OOM(ctx context.Context) (<-chan uint64, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("cannot watch cgroup %s: %w", r.Path, err)
	}
	watch := os.NewFile(uintptr(fd), "inotify")
	for _, name := range []string{"memory.events", "cgroup.events"} {
		if _, err := unix.InotifyAddWatch(fd, r.file(name), unix.IN_MODIFY|unix.IN_DELETE_SELF); err != nil {
			watch.Close()
			if name == "memory.events" && r.Exists() {
				return nil, fmt.Errorf("cannot watch memory of cgroup %s: it has not got the memory controller: %w", r.Path, err)
			}
			return nil, fmt.Errorf("cannot watch cgroup %s: %w", r.Path, err)
		}
	}
	kills := func() (uint64, bool) {
		data, err := os.ReadFile(r.file("memory.events"))
		if err != nil {
			return 0, false
		}
		v, _ := parseEvent(string(data), "oom_kill")
		n, err := strconv.ParseUint(v, 10, 64)
		return n, err == nil
	}
	known, ok := kills()
	if !ok {
		watch.Close()
		return nil, fmt.Errorf("cannot watch memory of cgroup %s: it tells of no kills", r.Path)
	}
	out := make(chan uint64)
	stop := context.AfterFunc(ctx, func() { watch.Close() })
	go func() {
		defer close(out)
		defer watch.Close()
		defer stop()
		buf := make([]byte, 4096)
		for {
			n, ok := kills()
			if ok && n > known {
				known = n
				select {
				case out <- n:
				case <-ctx.Done():
					return
				}
			}
			if v, err := r.event("populated"); !ok || err != nil || v == "0" {
				// A kill may have come between: memory.events is written first.
				if n, ok := kills(); !ok || n == known {
					return
				}
				continue
			}
			if _, err := watch.Read(buf); err != nil {
				return
			}
		}
	}()
	return out, nil
}
