package main

import (
	"os"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rogpeppe/go-internal/testscript"
)

// The scripts run this binary as powerd.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"powerd": main, "powerd-without-root": withoutRoot})
}

// withoutRoot is powerd as somebody whom file modes bind: root without the
// capabilities to override them.
func withoutRoot() {
	if os.Geteuid() == 0 {
		runtime.LockOSThread()
		for _, c := range []uintptr{unix.CAP_DAC_OVERRIDE, unix.CAP_DAC_READ_SEARCH} {
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
				panic(err)
			}
		}
		panic(syscall.Exec("/proc/self/exe", append([]string{"powerd"}, os.Args[1:]...), os.Environ()))
	}
	main()
}

// TestScript runs testdata/script/*.txtar. UPDATE=1 rewrites what their cmp
// lines expect.
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/script",
		UpdateScripts: os.Getenv("UPDATE") != "",
	})
}
