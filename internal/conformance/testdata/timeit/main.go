// Command timeit measures how long containers take to start and end, side by side: each
// round runs every runtime once, so that what else the machine does meets all alike.
//
//	timeit BUNDLE RUNS RUNTIME...
//
// It prints, as JSON, milliseconds and the peak memory of each: of runtimes by their
// command lines, "run" of a bundle whose program ends at once; of powerd's engine called
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
	"syscall"
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
	PeakKiB     int64   // of the process that was started; 0 where there is none
}

func main() {
	if err := measure(os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, "timeit:", err)
		os.Exit(1)
	}
}

type contender struct {
	name string
	run  func() (peak int64, err error)
}

func measure(bundle, runs string, runtimes []string) error {
	n, err := strconv.Atoi(runs)
	if err != nil || n < 1 {
		return fmt.Errorf("cannot run %q times", runs)
	}
	root := filepath.Join(bundle, "rootfs")
	list := []contender{{"program", command(filepath.Join(root, "bin/true"))}, {"floor", func() (int64, error) { return 0, floor(root) }}}
	for _, r := range runtimes {
		argv := append(strings.Fields(r), "run", "-b", bundle, "timeit")
		list = append(list, contender{r, command(argv...)})
	}
	engine := &oci.Engine{Root: "/run/timeit", NoCgroups: strings.Contains(strings.Join(runtimes, " "), "--cgroup-manager none")}
	defer engine.Prepare()()
	list = append(list, contender{"powerd's engine, in-process", func() (int64, error) {
		code, err := engine.Run(context.Background(), "timeit", bundle, oci.CreateOptions{}, nil)
		if err == nil && code != 0 {
			err = fmt.Errorf("it ended with code %d", code)
		}
		return 0, err
	}})
	times, peaks := map[string][]float64{}, map[string]int64{}
	for range n {
		for _, c := range list {
			began := time.Now()
			peak, err := c.run()
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			times[c.name] = append(times[c.name], float64(time.Since(began).Microseconds())/1000)
			peaks[c.name] = max(peaks[c.name], peak)
		}
	}
	var out []Result
	for _, c := range list {
		t := times[c.name]
		slices.Sort(t)
		out = append(out, Result{c.name, t[len(t)/2], t[len(t)*95/100], t[0], peaks[c.name]})
	}
	return json.NewEncoder(os.Stdout).Encode(out)
}

func command(argv ...string) func() (int64, error) {
	return func() (int64, error) {
		cmd := exec.Command(argv[0], argv[1:]...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return 0, fmt.Errorf("%w: %s", err, out)
		}
		return cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss, nil
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
