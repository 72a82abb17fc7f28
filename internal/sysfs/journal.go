package sysfs

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A Journal is a machine whose every change can be taken back.
//
// Before the first write of a file, the file's value is saved and fsynced to the
// state directory; Restore writes the first values back in reverse order. The
// journal is one file of JSON lines. A line that a crash cut short belongs to a
// write that never happened, and is dropped. It is not safe for concurrent use.
type Journal struct {
	// Guard, if set, refuses a write that would make a state no reader should
	// see, and names the file that stands against it.
	Guard func(m FS, w Write) (other string, err error)
	// Mend, if set, is asked when the kernel refuses a file's first value. It may
	// bring it back another way, through the journal, or tell what is as good.
	Mend func(j *Journal, w Write, refused error) (asGood string, err error)

	under   FS
	dir     string
	log     *os.File
	header  header
	entries []*entry
	byFile  map[string]*entry
	lines   int
}

// header is the journal's first line. Pseudo-files lose their values at reboot,
// so a journal of another boot has nothing to restore.
type header struct {
	Version int    `json:"version"`
	Root    string `json:"root"`
	Boot    string `json:"boot"`
	Pid     int    `json:"pid"`
}

// A record is a later line: First opens an entry, To precedes each write, Left
// is what the file read afterwards, Done closes the entry.
type record struct {
	File  string  `json:"file"`
	First *string `json:"first,omitempty"`
	Made  bool    `json:"made,omitempty"`
	To    *string `json:"to,omitempty"`
	Left  *string `json:"left,omitempty"`
	Done  bool    `json:"done,omitempty"`
}

type entry struct {
	file  string
	first string
	made  bool // a directory powerd made
	to    string
	left  *string // nil while a write is under way
}

const journalVersion = 1

// ErrJournalBusy is wrapped by OpenJournal when another powerd holds the journal.
var ErrJournalBusy = errors.New("another powerd holds the journal")

// OpenJournal opens, or makes, the journal of machine m in the folder dir. Root
// names the machine; boot is its boot id. A journal of another root is an error;
// one of another boot is dropped, for its values went with that boot.
func OpenJournal(dir string, m FS, root, boot string) (*Journal, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make state directory: %w", err)
	}
	name := filepath.Join(dir, "journal")
	log, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot open journal: %w", err)
	}
	j := &Journal{under: m, dir: dir, log: log, byFile: map[string]*entry{},
		header: header{journalVersion, root, boot, os.Getpid()}}
	if err := j.load(name, root, boot); err != nil {
		log.Close()
		return nil, err
	}
	return j, nil
}

func (j *Journal) load(name, root, boot string) error {
	if err := syscall.Flock(int(j.log.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("cannot lock %s: %w", name, ErrJournalBusy)
	}
	data, err := io.ReadAll(j.log)
	if err != nil {
		return fmt.Errorf("cannot read journal %s: %v", name, err)
	}
	first, rest, whole := bytes.Cut(data, []byte("\n"))
	if !whole {
		return j.rewrite()
	}
	var h header
	if err := json.Unmarshal(first, &h); err != nil || h.Version != journalVersion {
		return fmt.Errorf("cannot read journal %s: line 1 is not a header of version %d; a newer powerd may have written it: run its restore, or delete the file to give up the saved values", name, journalVersion)
	}
	if h.Root != root {
		return fmt.Errorf("cannot use journal %s: it is of the machine at %s, not of %s", name, h.Root, root)
	}
	if h.Boot != boot {
		return j.rewrite()
	}
	entries, err := parseJournal(rest)
	if err != nil {
		return fmt.Errorf("cannot read journal %s: %v", name, err)
	}
	for _, e := range entries {
		j.add(e)
	}
	return j.rewrite()
}

// parseJournal reads the lines after the header and returns the open entries in
// order of their first change.
func parseJournal(data []byte) ([]*entry, error) {
	var out []*entry
	at := map[string]*entry{}
	sc := bufio.NewScanner(bytes.NewReader(data))
	sc.Buffer(nil, maxFile)
	torn := len(data) > 0 && data[len(data)-1] != '\n'
	lines := bytes.Count(data, []byte("\n"))
	for n := 2; sc.Scan(); n++ {
		var r record
		if err := json.Unmarshal(sc.Bytes(), &r); err != nil {
			if torn && n == lines+2 {
				break
			}
			return nil, fmt.Errorf("line %d: %v", n, err)
		}
		e := at[r.File]
		switch {
		case r.File == "":
			return nil, fmt.Errorf("line %d: it names no file", n)
		case r.First != nil || r.Made:
			if e != nil {
				return nil, fmt.Errorf("line %d: %s is opened twice", n, r.File)
			}
			e = &entry{file: r.File, made: r.Made}
			if r.First != nil {
				e.first, e.to, e.left = *r.First, *r.First, r.First
			}
			at[r.File] = e
			out = append(out, e)
		case e == nil:
			return nil, fmt.Errorf("line %d: %s was never opened", n, r.File)
		case r.Done:
			delete(at, r.File)
			out = slices.DeleteFunc(out, func(o *entry) bool { return o == e })
		case r.To != nil:
			e.to, e.left = *r.To, nil
		case r.Left != nil:
			e.left = r.Left
		}
	}
	return out, sc.Err()
}

func (j *Journal) add(e *entry) {
	j.entries = append(j.entries, e)
	j.byFile[e.file] = e
}

// rewrite gives the journal its shortest form, by a new file and a rename.
func (j *Journal) rewrite() error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.Encode(j.header)
	for _, e := range j.entries {
		r := record{File: e.file, Made: e.made}
		if !e.made {
			r.First = &e.first
		}
		enc.Encode(r)
		if !e.made && (e.left == nil || e.to != e.first || *e.left != e.first) {
			enc.Encode(record{File: e.file, To: &e.to})
			if e.left != nil {
				enc.Encode(record{File: e.file, Left: e.left})
			}
		}
	}
	name := filepath.Join(j.dir, "journal")
	fresh, err := os.OpenFile(name+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("cannot write journal: %w", err)
	}
	_, err = fresh.Write(b.Bytes())
	if err == nil {
		err = fresh.Sync()
	}
	if err == nil {
		err = syscall.Flock(int(fresh.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	}
	if err == nil {
		err = os.Rename(name+".new", name)
	}
	if err != nil {
		fresh.Close()
		return fmt.Errorf("cannot write journal %s: %v", name, err)
	}
	j.log.Close()
	j.log, j.lines = fresh, len(j.entries)
	return j.syncDir()
}

func (j *Journal) syncDir() error {
	d, err := os.Open(j.dir)
	if err != nil {
		return fmt.Errorf("cannot sync state directory: %v", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("cannot sync state directory: %v", err)
	}
	return nil
}

func (j *Journal) append(sync bool, records ...record) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	for _, r := range records {
		enc.Encode(r)
	}
	if _, err := j.log.Write(b.Bytes()); err != nil {
		return fmt.Errorf("cannot write journal: %v", err)
	}
	if sync {
		if err := j.log.Sync(); err != nil {
			return fmt.Errorf("cannot sync journal: %v", err)
		}
	}
	j.lines += len(records)
	return nil
}

// Close lets go of the journal. What was not restored stays in it for the next
// start.
func (j *Journal) Close() error { return j.log.Close() }

// Pending returns how many files and directories await restoring.
func (j *Journal) Pending() int { return len(j.entries) }

// First returns a file's value before powerd's first write to it.
func (j *Journal) First(name string) (string, bool) {
	e := j.byFile[name]
	if e == nil || e.made {
		return "", false
	}
	return e.first, true
}

// Left returns what a file read after powerd's last write to it. It is absent
// for files never written.
func (j *Journal) Left(name string) (string, bool) {
	e := j.byFile[name]
	if e == nil || e.made || e.left == nil {
		return "", false
	}
	return *e.left, true
}

// Adopt takes a value somebody else gave a file as what powerd left there: the
// file will be restored even so.
func (j *Journal) Adopt(name, value string) error {
	e := j.byFile[name]
	if e == nil {
		return nil
	}
	e.left = &value
	return j.append(false, record{File: name, Left: &value})
}

// Save records the values of files about to be written for the first time, with
// one fsync for all of them. A file that cannot be read cannot be restored and
// so must not be written: it is an error, and nothing is saved.
func (j *Journal) Save(files ...string) error {
	var fresh []*entry
	var records []record
	for _, name := range files {
		if j.byFile[name] != nil || slices.ContainsFunc(fresh, func(e *entry) bool { return e.file == name }) {
			continue
		}
		data, err := j.under.ReadFile(name)
		if err != nil {
			return err
		}
		first := strings.TrimRight(string(data), "\n")
		fresh = append(fresh, &entry{file: name, first: first, to: first, left: &first})
		records = append(records, record{File: name, First: &first})
	}
	if len(fresh) == 0 {
		return nil
	}
	if err := j.append(true, records...); err != nil {
		return err
	}
	for _, e := range fresh {
		j.add(e)
	}
	return nil
}

// ReadFile implements FS.
func (j *Journal) ReadFile(name string) ([]byte, error) { return j.under.ReadFile(name) }

// ReadDir implements FS.
func (j *Journal) ReadDir(name string) ([]string, error) { return j.under.ReadDir(name) }

// Open holds a file open for reading.
func (j *Journal) Open(name string) (File, error) { return Open(j.under, name) }

// WriteFile implements FS: it saves the first value, writes, and reads back what
// took.
func (j *Journal) WriteFile(name string, data []byte) error {
	if err := j.Save(name); err != nil {
		return err
	}
	e := j.byFile[name]
	before := *e
	to := string(data)
	e.to, e.left = to, nil
	if err := j.append(false, record{File: name, To: &to}); err != nil {
		*e = before
		return err
	}
	was := e.first
	if before.left != nil {
		was = *before.left
	}
	werr := j.write(name, to)
	if left, err := j.readBack(name, to, was); err == nil {
		e.left = &left
		if err := j.append(false, record{File: name, Left: &left}); err != nil {
			return errors.Join(werr, err)
		}
	}
	if werr != nil {
		return werr
	}
	if j.lines > 4096+8*len(j.entries) {
		return j.rewrite()
	}
	return nil
}

// write writes to the machine what the guard lets through.
func (j *Journal) write(name, value string) error {
	if j.Guard != nil {
		if _, err := j.Guard(j.under, Write{name, value}); err != nil {
			return err
		}
	}
	return j.under.WriteFile(name, []byte(value))
}

// Mkdir implements FS. Restore removes the directory.
func (j *Journal) Mkdir(name string) error {
	if _, err := j.under.ReadDir(name); err == nil {
		return j.under.Mkdir(name) // for its EEXIST
	}
	if err := j.append(true, record{File: name, Made: true}); err != nil {
		return err
	}
	j.add(&entry{file: name, made: true})
	if err := j.under.Mkdir(name); err != nil {
		return errors.Join(err, j.forget(j.byFile[name]))
	}
	return nil
}

// Remove implements FS. Only directories that powerd made are removed.
func (j *Journal) Remove(name string) error {
	e := j.byFile[name]
	if e == nil || !e.made {
		return pathError("rmdir", name, errors.New("powerd did not make it"))
	}
	if err := j.under.Remove(name); err != nil {
		return err
	}
	return j.forget(e)
}

func (j *Journal) forget(e *entry) error {
	j.entries = slices.DeleteFunc(j.entries, func(o *entry) bool { return o == e })
	delete(j.byFile, e.file)
	return j.append(false, record{File: e.file, Done: true})
}

// Forget drops the entries of a directory that has vanished, a removed cgroup
// for instance: a new one of that name is another one, with first values of its
// own.
func (j *Journal) Forget(dir string) error {
	var errs []error
	for _, e := range slices.Clone(j.entries) {
		if e.file == dir || strings.HasPrefix(e.file, dir+"/") {
			errs = append(errs, j.forget(e))
		}
	}
	return errors.Join(errs...)
}

// A Restored tells what became of one file.
type Restored struct {
	File    string `json:"file"`
	Outcome string `json:"outcome"` // one of the outcomes below
	Detail  string `json:"detail,omitempty"`
}

// Outcomes of a restore.
const (
	OutcomeRestored = "restored" // the file holds its first value
	OutcomeAsGood   = "as good"  // it does not, for the kernel refuses it; what it holds does the same
	OutcomeKept     = "kept"     // somebody else changed it after powerd: left as it is
	OutcomeVanished = "vanished" // there is no such file any more
	OutcomeFailed   = "failed"   // it could not be written; it stays in the journal
)

// Restore puts every file back, last change first. What somebody else changed
// after powerd is left alone unless reclaim is set. Files whose limits depend on
// each other (scaling_min_freq and scaling_max_freq) may refuse at first, so it
// tries until a pass brings nothing new. What failed stays in the journal.
func (j *Journal) Restore(reclaim bool) ([]Restored, error) {
	outcome := map[*entry]Restored{}
	todo := slices.Clone(j.entries)
	slices.Reverse(todo)
	for pass := 0; len(todo) > 0; pass++ {
		var again []*entry
		for _, e := range todo {
			o := j.restore(e, reclaim || pass > 0)
			outcome[e] = o
			if o.Outcome == OutcomeFailed {
				again = append(again, e)
			}
		}
		if len(again) == len(todo) && pass > 0 {
			break
		}
		todo = again
	}
	// A later write of a pair can move an earlier one (a lower maximum takes the
	// minimum with it), so what was restored is looked at once more.
	for e, o := range outcome {
		if o.Outcome == OutcomeRestored && !e.made {
			outcome[e] = j.restore(e, true)
		}
	}
	for _, e := range j.entries { // what mending wrote
		if _, done := outcome[e]; !done {
			outcome[e] = j.restore(e, true)
		}
	}
	// What cannot go back because of a file that somebody else keeps is theirs too.
	for e, o := range outcome {
		if o.Outcome != OutcomeFailed || e.made || j.Guard == nil {
			continue
		}
		other, err := j.Guard(j.under, Write{e.file, e.first})
		if at := j.byFile[other]; err != nil && at != nil && outcome[at].Outcome == OutcomeKept {
			o.Outcome = OutcomeKept
			outcome[e] = o
		}
	}
	var all []Restored
	var errs []error
	for _, e := range slices.Backward(slices.Clone(j.entries)) {
		o := outcome[e]
		all = append(all, o)
		if o.Outcome != OutcomeFailed {
			errs = append(errs, j.forget(e))
		}
	}
	errs = append(errs, j.rewrite())
	return all, errors.Join(errs...)
}

func (j *Journal) restore(e *entry, reclaim bool) Restored {
	o := Restored{File: e.file}
	if e.made {
		switch err := j.under.Remove(e.file); {
		case err == nil:
			o.Outcome = OutcomeRestored
		case gone(err):
			o.Outcome = OutcomeVanished
		default:
			o.Outcome, o.Detail = OutcomeFailed, bare(err)
		}
		return o
	}
	now, err := j.read(e.file)
	switch {
	case err != nil && gone(err):
		o.Outcome = OutcomeVanished
		return o
	case err == nil && now == e.first:
		o.Outcome = OutcomeRestored
		return o
	case err == nil && !reclaim && e.left != nil && now != *e.left && now != e.to:
		o.Outcome = OutcomeKept
		o.Detail = fmt.Sprintf("powerd left %q, it is now %q; its first value was %q", *e.left, now, e.first)
		return o
	}
	for _, v := range undo(e.file, e.first, now) {
		if err = j.write(e.file, v); err != nil {
			break
		}
	}
	if err == nil {
		if now, err = j.readBack(e.file, e.first, now); err == nil && now != e.first {
			err = fmt.Errorf("wrote %q, it reads %q", e.first, now)
		}
	}
	asGood := ""
	if err != nil && !gone(err) && j.Mend != nil {
		asGood, err = j.Mend(j, Write{e.file, e.first}, err)
	}
	switch {
	case err == nil && asGood != "":
		o.Outcome, o.Detail = OutcomeAsGood, asGood
	case err == nil:
		o.Outcome = OutcomeRestored
	case gone(err):
		o.Outcome = OutcomeVanished
	default:
		o.Outcome, o.Detail = OutcomeFailed, bare(err)
	}
	return o
}

// gone reports whether err means that the file, or what it stood for, is no more:
// ENODEV is what an open file of a removed cgroup or an unplugged cpu answers.
func gone(err error) bool { return Absent(err) || errors.Is(err, syscall.ENODEV) }

func (j *Journal) read(name string) (string, error) {
	data, err := j.under.ReadFile(name)
	return strings.TrimRight(string(data), "\n"), err
}

// readBack reads what became of a write. The kernel takes limits of cpufreq at once
// but puts them in force from a work queue (cpufreq_notifier_min in
// drivers/cpufreq/cpufreq.c), so a file that still shows what it showed before gets
// some milliseconds.
func (j *Journal) readBack(name, wrote, was string) (string, error) {
	now, err := j.read(name)
	late := strings.HasPrefix(path.Base(name), "scaling_")
	for wait := time.Millisecond; late && err == nil && now == was && now != strings.TrimRight(wrote, "\n") && wait < 128*time.Millisecond; wait *= 2 {
		time.Sleep(wait)
		now, err = j.read(name)
	}
	return now, err
}

// undo returns the writes that bring a file from its present value to its first.
// A write of no bytes never reaches the kernel, so empty is a newline; and
// cgroup.subtree_control takes changes ("-cpuset"), not values.
func undo(file, first, now string) []string {
	if path.Base(file) != "cgroup.subtree_control" {
		return []string{first + "\n"}
	}
	var out []string
	had, has := strings.Fields(first), strings.Fields(now)
	for _, c := range has {
		if !slices.Contains(had, c) {
			out = append(out, "-"+c)
		}
	}
	for _, c := range had {
		if !slices.Contains(has, c) {
			out = append(out, "+"+c)
		}
	}
	return out
}
