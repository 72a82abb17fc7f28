// Command powerd finds the cheapest way to do a machine's work, in joules, and
// holds the machine to it.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func main() {
	start := whole
	if whole == nil || filepath.Base(os.Args[0]) == "powerd-oci" {
		start = runOCI
	}
	os.Exit(start(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2 // the command line itself is wrong
)

// exitCode is what a program that powerd ran has ended with.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("it ended with code %d", int(e)) }

// ended is what a program that has come to its end leaves powerd to end with.
func ended(code int, err error) error {
	if err == nil && code != 0 {
		return exitCode(code)
	}
	return err
}

// coded is an error with an exit code of its own.
type coded struct {
	error
	code int
}

func (c coded) Unwrap() error { return c.error }

// execute runs a command line and turns what came of it into an exit code.
func execute(u *ui, root *cobra.Command, args []string, in io.Reader, out, errs io.Writer) int {
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errs)

	err := root.Execute()
	if err == nil {
		err = u.flush()
	}
	if err == nil {
		return exitOK
	}
	if code := new(exitCode); errors.As(err, code) {
		return int(*code)
	}
	u.fail(err)
	if errors.As(err, new(usageError)) {
		return exitUsage
	}
	if c := new(coded); errors.As(err, c) {
		return c.code
	}
	return exitFailed
}

// revision is set by make.
var revision string

// version is the revision this binary was built from.
func version() string {
	if revision != "" {
		return revision
	}
	v, dirty := "devel", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision":
				v = s.Value[:min(12, len(s.Value))]
			case s.Key == "vcs.modified" && s.Value == "true":
				dirty = "-dirty"
			}
		}
	}
	return v + dirty
}
