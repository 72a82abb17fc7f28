//go:build !powerd_oci

package main

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/term"
)

// progress returns what shows how far a long run is: on a terminal one line that is
// written over, elsewhere a line each tenth, of so many things.
func (u *ui) progress(things string) func(done, total int, left time.Duration, what string) {
	if f, ok := u.err.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return func(done, total int, left time.Duration, what string) {
			line := fmt.Sprintf("%d of %d %s, %v left: %s", done, total, things, left.Round(time.Second), what)
			if width, _, err := term.GetSize(int(f.Fd())); err == nil && width > 0 && len(line) >= width {
				line = line[:max(0, width-1)] // a line that wraps is not written over
			}
			fmt.Fprint(u.err, "\r\033[K", line)
			u.rewriting = true
		}
	}
	tenth := 0
	return func(done, total int, left time.Duration, _ string) {
		if now := 10 * done / max(total, 1); now > tenth {
			tenth = now
			u.notef("%d of %d %s, %v left", done, total, things, left.Round(time.Second))
		}
	}
}

// endProgress clears a line that is written over.
func (u *ui) endProgress() {
	if u.rewriting {
		fmt.Fprint(u.err, "\r\033[K")
		u.rewriting = false
	}
}
