// Command powerd finds the cheapest way to do a machine's work, in joules, and
// holds the machine to it.
package main

import (
	"errors"
	"io"
	"os"
)

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2 // the command line itself is wrong
)

// run is powerd without the process around it.
func run(args []string, in io.Reader, out, errs io.Writer) int {
	u := newUI(out, errs)
	root := newRootCmd(u)
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
	u.fail(err)
	if errors.As(err, new(usageError)) {
		return exitUsage
	}
	return exitFailed
}
