package main

// This file prints; no other does. Its rules:
//
//   - Results go to standard output, everything else to standard error.
//   - An error is one line, "powerd: cannot DO to WHAT: why", and where the
//     operator can act a second one, "hint: what to do".
//   - JSON is indented by two, ends in a line feed and names fields as the kernel
//     names files. Absent is null.
//   - Text for people is grouped in sections: the name in the first column, rows
//     aligned beside it. Absent is "-". No colour, no width below 80 is assumed.

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// ui is where a command prints.
type ui struct {
	out *bufio.Writer
	err io.Writer
	// rewriting tells that the terminal's line is one that is written over.
	rewriting bool
}

func newUI(out, errs io.Writer) *ui { return &ui{out: bufio.NewWriter(out), err: errs} }

// flush reports what writing to standard output came to.
func (u *ui) flush() error {
	if err := u.out.Flush(); err != nil {
		return fmt.Errorf("cannot write the result: %v", err)
	}
	return nil
}

// json prints v.
func (u *ui) json(v any) error {
	e := json.NewEncoder(u.out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("cannot write the result: %v", err)
	}
	return nil
}

// printf prints to standard output.
func (u *ui) printf(format string, args ...any) { fmt.Fprintf(u.out, format, args...) }

// fail prints an error and its hint.
func (u *ui) fail(err error) {
	u.out.Flush()
	fmt.Fprintf(u.err, "powerd: %v\n", err)
	var h hinted
	if errors.As(err, &h) {
		fmt.Fprintf(u.err, "hint: %s\n", h.hint)
	}
}

// notef prints progress: one line on standard error.
func (u *ui) notef(format string, args ...any) {
	u.out.Flush()
	fmt.Fprintf(u.err, "powerd: "+format+"\n", args...)
}

// A section is a titled group of rows of cells.
type section struct {
	title string
	rows  [][]string
}

// row adds a row; empty trailing cells are dropped.
func (s *section) row(cells ...string) { s.rows = append(s.rows, cells) }

// sections prints groups one below the other, their titles in one column and
// each group's cells aligned. Groups without rows are left out.
func (u *ui) sections(groups []section) {
	margin := 0
	for _, g := range groups {
		margin = max(margin, utf8.RuneCountInString(g.title))
	}
	for _, g := range groups {
		widths := []int{}
		for _, r := range g.rows {
			for i, c := range r {
				if i == len(widths) {
					widths = append(widths, 0)
				}
				if i < len(r)-1 { // the last cell of a row aligns nothing
					widths[i] = max(widths[i], utf8.RuneCountInString(c))
				}
			}
		}
		for i, r := range g.rows {
			title := ""
			if i == 0 {
				title = g.title
			}
			line := pad(title, margin)
			for j, c := range r {
				line += "  " + pad(c, widths[j])
			}
			fmt.Fprintln(u.out, strings.TrimRight(line, " "))
		}
	}
}

// table prints rows of cells, the first of them the heads of the columns.
func (u *ui) table(rows [][]string) {
	groups := make([]section, 0, len(rows))
	widths := make([]int, len(rows[0]))
	for _, r := range rows {
		for i, c := range r {
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	for _, r := range rows {
		g := section{title: r[0], rows: [][]string{{}}}
		for i, c := range r[1:] {
			g.rows[0] = append(g.rows[0], pad(c, widths[i+1]))
		}
		groups = append(groups, g)
	}
	u.sections(groups)
}

func pad(s string, width int) string {
	return s + strings.Repeat(" ", max(0, width-utf8.RuneCountInString(s)))
}

// hinted is an error with advice.
type hinted struct {
	error
	hint string
}

func (h hinted) Unwrap() error { return h.error }

// withHint adds to an error what the operator can do about it.
func withHint(err error, hint string) error { return hinted{err, hint} }

// usageError is a command line that cannot be meant.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usage(err error, hint string) error { return usageError{withHint(err, hint)} }
