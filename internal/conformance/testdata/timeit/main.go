// Command timeit measures how long containers take to start and end, side by side: each
// round runs every runtime once, so that what else the machine does meets all alike.
//
//	timeit BUNDLE RUNS RUNTIME...
//
// It prints, as JSON, milliseconds of each: of runtimes by their command lines, "run" of a bundle whose program ends at once; of powerd's engine called
// in-process, as its daemon does; and of the floor, the same namespaces, a root pivoted to
// and a program, without anything that makes it a container.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/powerd/powerd/containers/oci"
	"github.com/powerd/powerd/containers/spawn"
)

// A Result is what one contender came to.
type Result struct {
	Name        string
	Median, P95 float64 // ms
	Least       float64 // ms
	// Steps are the medians of a start's parts, where they are told.
	Steps []Step
}

// A Step is a part of a start.
type Step struct {
	Name   string
	Median float64 // ms
}

func main() {
	if err := measure(os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, "timeit:", err)
		os.Exit(1)
	}
}

type contender struct {
	name string
	run  func() error
}

func measure(bundle, runs string, runtimes []string) error {
	n, err := strconv.Atoi(runs)
	if err != nil || n < 1 {
		return fmt.Errorf("cannot run %q times", runs)
	}
	root := filepath.Join(bundle, "rootfs")
	list := []contender{{"program", command(filepath.Join(root, "bin/true"))}, {"floor", func() error { return floor(root) }}}
	for _, r := range runtimes {
		argv := append(strings.Fields(r), "run", "-b", bundle, "timeit")
		list = append(list, contender{r, command(argv...)})
	}
	engine := &oci.Engine{Root: "/run/timeit", NoCgroups: strings.Contains(strings.Join(runtimes, " "), "--cgroup-manager none")}
	defer engine.Prepare()()
	var order []string
	steps := map[string][]float64{}
	var last time.Time
	engine.Step = func(done string) {
		if _, known := steps[done]; !known {
			order = append(order, done)
		}
		steps[done] = append(steps[done], since(last))
		last = time.Now()
	}
	const inProcess = "powerd's engine, in-process"
	list = append(list, contender{inProcess, func() error {
		last = time.Now()
		code, err := engine.Run(context.Background(), "timeit", bundle, oci.CreateOptions{}, nil)
		if err == nil && code != 0 {
			err = fmt.Errorf("it ended with code %d", code)
		}
		return err
	}})
	times := map[string][]float64{}
	for range n {
		for _, c := range list {
			began := time.Now()
			if err := c.run(); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			times[c.name] = append(times[c.name], since(began))
		}
	}
	var out []Result
	for _, c := range list {
		t := times[c.name]
		slices.Sort(t)
		r := Result{Name: c.name, Median: t[len(t)/2], P95: t[len(t)*95/100], Least: t[0]}
		if c.name == inProcess {
			for _, name := range order {
				t := steps[name]
				slices.Sort(t)
				r.Steps = append(r.Steps, Step{name, t[len(t)/2]})
			}
		}
		out = append(out, r)
	}
	return json.NewEncoder(os.Stdout).Encode(out)
}

// since is ms.
func since(t time.Time) float64 { return float64(time.Since(t).Microseconds()) / 1000 }

func command(argv ...string) func() error {
	return func() error {
		cmd := exec.Command(argv[0], argv[1:]...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
}

// floor starts a program in namespaces and a root of its own.
func floor(root string) error {
	s := &spawn.Script{}
	s.Do("keep mounts", unix.SYS_MOUNT, 0, "/", 0, unix.MS_REC|unix.MS_PRIVATE, 0)
	s.Do("bind the root", unix.SYS_MOUNT, root, root, 0, unix.MS_BIND, 0)
	s.Do("enter the root", unix.SYS_CHDIR, root)
	s.Do("pivot", unix.SYS_PIVOT_ROOT, ".", ".")
	s.Do("leave the old root", unix.SYS_UMOUNT2, ".", unix.MNT_DETACH)
	if err := s.Exec("/bin/true", []string{"true"}, nil, ""); err != nil {
		return err
	}
	p, err := spawn.Start(s, spawn.Options{Namespaces: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP})
	if err != nil {
		return err
	}
	defer p.Pidfd.Close()
	err = p.Wait()
	var status unix.WaitStatus
	for {
		if _, werr := unix.Wait4(p.Pid, &status, 0, nil); werr != unix.EINTR {
			break
		}
	}
	if err == nil && status.ExitStatus() != 0 {
		err = fmt.Errorf("it ended with code %d", status.ExitStatus())
	}
	return err
}
