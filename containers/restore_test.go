package containers

import (
	"io/fs"
	"strings"
	"syscall"
	"testing"

	"github.com/powerd/powerd/internal/sysfs"
	"github.com/powerd/powerd/internal/sysfs/sysfstest"
)

// kernel is files of which cpuset.cpus refuses to be cleared, and whose children
// lose theirs when the parent gives the controller up.
type kernel struct {
	*sysfs.Dir
	t *testing.T
}

func (k kernel) WriteFile(name string, data []byte) error {
	value := strings.TrimSpace(string(data))
	if strings.HasSuffix(name, "cpuset.cpus") && value == "" {
		return &fs.PathError{Op: "write", Path: name, Err: syscall.ENOSPC}
	}
	if strings.HasSuffix(name, "p/cgroup.subtree_control") {
		for _, child := range []string{"a", "b"} {
			if value == "-cpuset" {
				if err := k.Dir.WriteFile("p/"+child+"/cpuset.cpus", []byte("\n")); err != nil {
					k.t.Fatal(err)
				}
			}
		}
		data = []byte(map[string]string{"-cpuset": "cpu", "+cpuset": "cpuset cpu"}[value] + "\n")
	}
	return k.Dir.WriteFile(name, data)
}

const family = `
-- p/cgroup.subtree_control --
cpuset cpu
-- p/cpuset.cpus.effective --
0-3
-- p/a/cgroup.procs --
1
-- p/a/cpuset.cpus --

-- p/b/cgroup.procs --
2
-- p/b/cpuset.cpus --
`

func TestClearCPUs(t *testing.T) {
	for _, tt := range []struct {
		name    string
		sibling string // somebody sets it after the journal is open
		partial bool
		a       string
		outcome string
	}{
		{"alone", "\n", false, "", sysfs.OutcomeRestored},
		{"a sibling of powerd's", "\n", true, "", sysfs.OutcomeRestored},
		{"a sibling of somebody else's", "2-3", false, "0-3", sysfs.OutcomeAsGood},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, _ := sysfstest.Tree(t, family+tt.sibling)
			k := kernel{m, t}
			j, err := sysfs.OpenJournal(t.TempDir(), k, "/", "boot")
			if err != nil {
				t.Fatal(err)
			}
			defer j.Close()
			j.Mend = ClearCPUs
			if err := j.WriteFile("p/a/cpuset.cpus", []byte("0")); err != nil {
				t.Fatal(err)
			}
			if tt.partial {
				if err := j.WriteFile("p/b/cpuset.cpus", []byte("1")); err != nil {
					t.Fatal(err)
				}
			}
			outcomes, err := j.Restore(false)
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range outcomes {
				if o.File == "p/a/cpuset.cpus" && o.Outcome != tt.outcome {
					t.Errorf("%+v, want %s", o, tt.outcome)
				}
			}
			for file, want := range map[string]string{"p/a/cpuset.cpus": tt.a, "p/b/cpuset.cpus": strings.TrimSpace(tt.sibling), "p/cgroup.subtree_control": "cpuset cpu"} {
				data, err := m.ReadFile(file)
				if got := strings.TrimSpace(string(data)); err != nil || got != want {
					t.Errorf("%s is %q, %v; want %q", file, got, err, want)
				}
			}
			if j.Pending() != 0 {
				t.Errorf("%d files are left in the journal", j.Pending())
			}
		})
	}
	refused := &fs.PathError{Op: "write", Path: "x/cpu.max", Err: syscall.EINVAL}
	if _, err := ClearCPUs(nil, sysfs.Write{File: "x/cpu.max", Value: "max"}, refused); err != refused {
		t.Errorf("what it does not know it turns into %v", err)
	}
}
