package launch

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/powerd/powerd/containers/images"
	"github.com/powerd/powerd/containers/network"
	"github.com/powerd/powerd/containers/oci"
)

// A Launcher runs containers.
type Launcher struct {
	// Dir holds images and containers, e.g. /var/lib/powerd.
	Dir string
	// Engine runs them; its Root must not outlive a boot.
	Engine oci.Engine
	// Net is what containers with the network "bridge" are on.
	Net   network.Network
	store *images.Store
}

// A Container is what container.json says, and what became of it.
type Container struct {
	Name     string    `json:"name"`
	Image    string    `json:"image"` // in full
	Digest   string    `json:"digest,omitempty"`
	Args     []string  `json:"args"`
	Created  time.Time `json:"created"`
	Hostname string    `json:"hostname"`
	Network  string    `json:"network"`
	Detach   bool      `json:"detach,omitempty"`
	Remove   bool      `json:"remove,omitempty"` // when it has ended
	Init     bool      `json:"init,omitempty"`
	Terminal bool      `json:"terminal,omitempty"`
	// StopSignal asks it to end.
	StopSignal string       `json:"stop_signal,omitempty"`
	Overlay    *oci.Overlay `json:"overlay,omitempty"`
	// Ports are published, if it is on the bridge, and Address is its own there.
	Ports   []network.Port `json:"ports,omitempty"`
	Address string         `json:"address,omitempty"`

	// Status is creating, created, running, paused or stopped.
	Status specs.ContainerState `json:"status"`
	Pid    int                  `json:"pid,omitempty"`
	// ExitCode of one that has ended: the program's, 128 + the signal that ended it;
	// nil if nobody was there to see.
	ExitCode *int `json:"exit_code,omitempty"`
}

// ErrNotFound is of a container that is not there.
var ErrNotFound = errors.New("there is no such container; `powerd ps --all` lists them")

func (l *Launcher) dir(name string) string { return filepath.Join(l.Dir, "containers", name) }

// Images opens the store of images, once.
func (l *Launcher) Images() (*images.Store, error) {
	if l.store == nil {
		var err error
		if l.store, err = images.Open(filepath.Join(l.Dir, "images")); err != nil {
			return nil, err
		}
	}
	return l.store, nil
}

// Name makes a name from an image's reference: its last part and four digits.
func Name(ref string) string {
	base := path.Base(strings.TrimRight(ref, "/"))
	base, _, _ = strings.Cut(base, "@")
	base, _, _ = strings.Cut(base, ":")
	base = strings.TrimLeft(strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '_' {
			return r
		}
		return -1
	}, strings.ToLower(base)), "-_")
	var b [2]byte
	rand.Read(b[:]) //nolint:errcheck // it never fails
	return cmp.Or(base[:min(len(base), 40)], "container") + "-" + hex.EncodeToString(b[:])
}

// Prepare makes a container's folder: its root, and its config. Nothing runs yet.
// What fails leaves nothing.
func (l *Launcher) Prepare(ctx context.Context, r Request) (c *Container, err error) {
	r.Name = cmp.Or(r.Name, Name(r.Image))
	dir := l.dir(r.Name)
	if !validName(r.Name) {
		return nil, fmt.Errorf("cannot use the name %q: want letters, digits and _ . -", r.Name)
	}
	if err := r.check(); err != nil {
		return nil, err
	}
	store, err := l.Images()
	if err != nil {
		return nil, err
	}
	img, err := store.Get(ctx, r.Image, images.Options{Platform: r.Platform, Pull: r.Pull})
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the containers' folder: %v", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("cannot make container %s: there is one of that name; `powerd rm %s` removes it", r.Name, r.Name)
		}
		return nil, fmt.Errorf("cannot make container %s: %v", r.Name, err)
	}
	c = &Container{Name: r.Name, Image: img.Ref, Digest: img.Digest, Created: time.Now().UTC(), Network: r.Network, Ports: r.Publish, Detach: r.Detach, Remove: r.Remove, Init: r.Init, Terminal: r.Terminal,
		StopSignal: cmp.Or(img.Config.StopSignal, "TERM"), Status: specs.StateCreating}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.remove(ctx, c))
			c = nil
		}
	}()
	// First the record: what there is of a container, remove finds.
	if err := l.save(c); err != nil {
		return c, err
	}
	root, err := store.Root(ctx, img, r.Name, images.RootOptions{Writable: true, InPlace: r.InPlace, Copy: r.UserNS != nil && !r.InPlace, IDMap: r.idMap()})
	if err != nil {
		return c, err
	}
	spec, err := r.spec(store, img, root)
	if err != nil {
		return c, err
	}
	if root.Path == "" {
		c.Overlay = &oci.Overlay{Lower: root.Lower, Upper: root.Upper, Work: root.Work, UserXattr: root.UserXattr}
		err = os.Mkdir(filepath.Join(dir, "rootfs"), 0o755)
		spec.Root.Path = filepath.Join(dir, "rootfs")
	} else {
		spec.Root.Path = root.Path
	}
	if err != nil {
		return c, err
	}
	if err := r.files(dir, spec); err != nil {
		return c, err
	}
	c.Args, c.Hostname = spec.Process.Args, spec.Hostname
	data, err := json.MarshalIndent(spec, "", "\t")
	if err != nil {
		return c, err
	}
	if _, err := oci.Parse(data); err != nil { // before anything runs
		return c, err
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), data, 0o600); err != nil {
		return c, fmt.Errorf("cannot write config.json: %v", err)
	}
	return c, l.save(c)
}

func validName(s string) bool {
	return s != "" && len(s) <= 200 && s[0] != '.' && s[0] != '-' && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_.-", r))
	})
}

// options are the engine's for a container.
func (l *Launcher) options(c *Container) oci.CreateOptions {
	o := oci.CreateOptions{Overlay: c.Overlay, Init: c.Init}
	if c.Network == Bridge {
		o.Visit = func(pid int) error { return l.connect(c, pid) }
	}
	return o
}

// connect puts a container whose process waits on the bridge.
func (l *Launcher) connect(c *Container, pid int) error {
	lease, err := l.Net.Attach(c.Name, pid, c.Ports)
	if err != nil {
		return err
	}
	c.Address = lease.Address.String()
	// It is mounted already, so it is written to and not replaced.
	f, err := os.OpenFile(filepath.Join(l.dir(c.Name), "hosts"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%s %s\n", c.Address, c.Hostname)
	return errors.Join(err, f.Close(), l.save(c))
}

// Run runs a prepared container to its end, on our own standard descriptors, and
// returns its exit code. Signals that arrive on the channel are passed on.
func (l *Launcher) Run(ctx context.Context, c *Container, signals <-chan os.Signal) (code int, err error) {
	code, err = l.Engine.Run(ctx, c.Name, l.dir(c.Name), l.options(c), signals)
	if err == nil {
		err = errors.Join(l.ended(c, code), l.disconnect(c))
	}
	if c.Remove || err != nil {
		err = errors.Join(err, l.remove(ctx, c))
	}
	return code, err
}

func (l *Launcher) disconnect(c *Container) error {
	if c.Network != Bridge {
		return nil
	}
	return l.Net.Detach(c.Name)
}

// ended writes the exit status of a container down as the monitor does.
func (l *Launcher) ended(c *Container, code int) error {
	status := uint32(code) << 8
	if code > 128 {
		status = uint32(code - 128)
	}
	if err := os.WriteFile(filepath.Join(l.dir(c.Name), "exit"), binary.NativeEndian.AppendUint32(nil, status), 0o600); err != nil {
		return fmt.Errorf("cannot write the exit code: %v", err)
	}
	return nil
}

// save replaces container.json at once.
func (l *Launcher) save(c *Container) error {
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	name := filepath.Join(l.dir(c.Name), "container.json")
	err = os.WriteFile(name+".new", data, 0o600)
	if err == nil {
		err = os.Rename(name+".new", name)
	}
	if err != nil {
		return fmt.Errorf("cannot save container %s: %v", c.Name, err)
	}
	return nil
}

// Find returns a container and what it is doing.
func (l *Launcher) Find(name string) (*Container, error) {
	if !validName(name) {
		return nil, fmt.Errorf("cannot find container %q: %w", name, ErrNotFound)
	}
	data, err := os.ReadFile(filepath.Join(l.dir(name), "container.json"))
	c := &Container{Name: name, Status: specs.StateCreating}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, serr := os.Stat(l.dir(name)); serr != nil {
			return nil, fmt.Errorf("cannot find container %s: %w", name, ErrNotFound)
		} // else it was killed before its first record
	case err != nil:
		return nil, fmt.Errorf("cannot read container %s: %v", name, err)
	default:
		if err := json.Unmarshal(data, c); err != nil {
			return nil, fmt.Errorf("cannot read container %s: container.json: %v", name, err)
		}
	}
	c.Status, c.Pid = specs.StateStopped, 0
	if state, err := l.Engine.State(name); err == nil {
		c.Status, c.Pid = state.Status, state.Pid
	} else if !errors.Is(err, oci.ErrNotFound) {
		return nil, err
	}
	if data, err := os.ReadFile(filepath.Join(l.dir(name), "exit")); err == nil && len(data) == 4 {
		code := oci.ExitCode(unix.WaitStatus(binary.NativeEndian.Uint32(data)))
		c.ExitCode = &code
	}
	return c, nil
}

// List returns all containers, the newest first.
func (l *Launcher) List() ([]*Container, error) {
	entries, err := os.ReadDir(filepath.Join(l.Dir, "containers"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot list containers: %v", err)
	}
	var all []*Container
	for _, e := range entries {
		c, err := l.Find(e.Name())
		if errors.Is(err, ErrNotFound) {
			continue // removed since
		}
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b *Container) int { return b.Created.Compare(a.Created) })
	return all, nil
}

// Remove removes a container and all that is its, with force a running one too.
func (l *Launcher) Remove(ctx context.Context, name string, force bool) error {
	c, err := l.Find(name)
	if err != nil {
		return err
	}
	if c.Status != specs.StateStopped && !force {
		return fmt.Errorf("cannot remove container %s: it is %s; stop it, or give --force", name, c.Status)
	}
	return l.remove(ctx, c)
}

func (l *Launcher) remove(ctx context.Context, c *Container) error {
	if err := l.Engine.Delete(ctx, c.Name, true); err != nil && !errors.Is(err, oci.ErrNotFound) {
		return err
	}
	if err := l.disconnect(c); err != nil {
		return err
	}
	store, err := l.Images()
	if err == nil {
		if err = store.RemoveRoot(ctx, c.Name); errors.Is(err, images.ErrNotFound) {
			err = nil
		}
	}
	if err != nil {
		return fmt.Errorf("cannot remove container %s: %w", c.Name, err)
	}
	if err := os.RemoveAll(l.dir(c.Name)); err != nil {
		return fmt.Errorf("cannot remove container %s: %v", c.Name, err)
	}
	return nil
}

// Stop asks a container to end, kills it after a while, and waits until it is gone.
func (l *Launcher) Stop(ctx context.Context, name string, after time.Duration) error {
	c, err := l.Find(name)
	if err != nil {
		return err
	}
	if c.Status == specs.StateStopped {
		return nil
	}
	if c.Status == oci.StatePaused {
		if err := l.Engine.Resume(ctx, name); err != nil {
			return err
		}
	}
	pidfd, err := unix.PidfdOpen(c.Pid, 0)
	if err != nil {
		if errors.Is(err, unix.ESRCH) {
			return nil
		}
		return fmt.Errorf("cannot stop container %s: %v", name, err)
	}
	defer unix.Close(pidfd)
	sig, err := oci.ParseSignal(c.StopSignal)
	if err != nil { // the image's own mistake
		sig = unix.SIGTERM
	}
	for _, step := range []struct {
		sig  unix.Signal
		wait time.Duration
	}{{sig, after}, {unix.SIGKILL, 10 * time.Second}} {
		if err := l.Engine.Kill(name, step.sig, false); err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, oci.ErrNotFound) {
			if now, ferr := l.Find(name); ferr == nil && now.Status == specs.StateStopped {
				return nil // it has ended by itself
			}
			return err
		}
		gone, err := awaitEnd(ctx, pidfd, step.wait)
		if err != nil {
			return err
		}
		if gone {
			return l.settled(ctx, c)
		}
	}
	return fmt.Errorf("cannot stop container %s: its process %d does not end", name, c.Pid)
}

// Freeze freezes all processes of a container.
func (l *Launcher) Freeze(ctx context.Context, name string) error {
	if _, err := l.Find(name); err != nil {
		return err
	}
	return l.Engine.Pause(ctx, name)
}

// Thaw lets a frozen container go on.
func (l *Launcher) Thaw(ctx context.Context, name string) error {
	if _, err := l.Find(name); err != nil {
		return err
	}
	return l.Engine.Resume(ctx, name)
}

// settled waits until a detached container's monitor has written its end down.
func (l *Launcher) settled(ctx context.Context, c *Container) error {
	for range 200 {
		if _, err := l.Engine.State(c.Name); !c.Detach || errors.Is(err, oci.ErrNotFound) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil // the monitor was killed: `powerd rm` does its work
}

// awaitEnd waits for a process to end.
func awaitEnd(ctx context.Context, pidfd int, timeout time.Duration) (bool, error) {
	deadline := time.Now().Add(timeout)
	for {
		left := min(time.Until(deadline), 100*time.Millisecond) // to look at ctx meanwhile
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, int(max(left, 0).Milliseconds()))
		switch {
		case n > 0:
			return true, nil
		case err != nil && err != unix.EINTR:
			return false, fmt.Errorf("cannot wait for a process: %w", err)
		case ctx.Err() != nil:
			return false, ctx.Err()
		case time.Now().After(deadline):
			return false, nil
		}
	}
}

// Log opens what a detached container wrote, at its last lines if tail is 0 or more.
func (l *Launcher) Log(name string, tail int) (*os.File, error) {
	c, err := l.Find(name)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(filepath.Join(l.dir(name), "log"))
	if errors.Is(err, fs.ErrNotExist) && !c.Detach {
		return nil, fmt.Errorf("cannot show the log of %s: it was not detached, so what it wrote went to whoever ran it", name)
	}
	if err == nil && tail >= 0 {
		if err = seekTail(f, tail); err != nil {
			f.Close()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the log of %s: %v", name, err)
	}
	return f, nil
}

// seekTail goes back to where the last n lines begin.
func seekTail(f *os.File, n int) error {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil || n == 0 || end == 0 {
		return err
	}
	buf := make([]byte, 64<<10)
	for at := end; at > 0; {
		size := min(at, int64(len(buf)))
		at -= size
		if _, err := f.ReadAt(buf[:size], at); err != nil {
			return err
		}
		for i := size - 1; i >= 0; i-- {
			// A feed at the very end ends the last line.
			if buf[i] == '\n' && at+i != end-1 {
				if n--; n == 0 {
					_, err = f.Seek(at+i+1, io.SeekStart)
					return err
				}
			}
		}
	}
	_, err = f.Seek(0, io.SeekStart)
	return err
}

// Process is a further process of a container, as its first one but for its program,
// as a user resolved by the container's own files; "" is its user.
func (l *Launcher) Process(name, user string) (*specs.Process, error) {
	spec, err := l.Engine.Spec(name)
	if err != nil {
		return nil, err
	}
	p := spec.Process
	if user == "" {
		return p, nil
	}
	store, err := l.Images()
	if err != nil {
		return nil, err
	}
	roots, err := store.Roots()
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(roots, func(r *images.Root) bool { return r.ID == name })
	if at < 0 {
		return nil, fmt.Errorf("cannot look for user %q: container %s has no root in the store", user, name)
	}
	u, home, err := store.User(roots[at], user)
	if err != nil {
		return nil, err
	}
	p.User = u
	p.Env = environment(p.Env, nil, []string{"HOME=" + home}, false)
	p.Capabilities.Effective, p.Capabilities.Permitted = nil, nil
	if u.UID == 0 {
		p.Capabilities.Effective, p.Capabilities.Permitted = p.Capabilities.Bounding, p.Capabilities.Bounding
	}
	return p, nil
}
