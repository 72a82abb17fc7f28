// Package conformance holds powerd-oci against what others say a runtime is: the
// validation programs of opencontainers/runtime-tools, crun's own tests, podman,
// containerd, and Debian's runc and crun beside it. Its tests run in the testbed; this
// file reads what the programs say.
package conformance

import "strings"

// A Verdict is what one validation program came to.
type Verdict string

// Verdicts.
const (
	Pass Verdict = "pass"
	Fail Verdict = "fail"
	// Skip is of a program that found nothing to test on this machine.
	Skip Verdict = "skip"
)

// Judge reads what a validation program printed: TAP, with that of the program inside
// the container quoted in it. One that ends well but says nothing, or whose inside said
// nothing, has not passed: its inner process died.
//
// See https://testanything.org/tap-specification.html.
func Judge(code int, stdout, stderr string) Verdict {
	ok, skipped := 0, 0
	for line := range strings.Lines(stdout) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "not ok"), strings.HasPrefix(line, "Bail out"), line == `stdout: ""`:
			return Fail
		case strings.HasPrefix(line, "ok") && strings.Contains(line, "# SKIP"):
			skipped++
		case strings.HasPrefix(line, "ok"):
			ok++
		}
	}
	switch {
	case code != 0 || strings.Contains(stderr, "failed to create the container") || strings.Contains(stderr, "failed to start the container"):
		return Fail
	case ok > 0:
		return Pass
	case skipped > 0:
		return Skip
	}
	return Fail
}
