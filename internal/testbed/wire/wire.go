// Package wire is what the testbed's host and guest say to each other: frames of
// a 4-byte big-endian length and that many bytes of JSON, over a virtio-serial
// port. The host sends Requests, the guest answers each with one Response, in
// any order.
package wire

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"syscall"
)

// Port is the name of the virtio-serial port.
const Port = "powerd.testbed"

// BootFile is where the initramfs holds its Boot.
const BootFile = "/testbed.json"

// A Boot tells the guest's first process what to do.
type Boot struct {
	// Modules are kernel modules in the initramfs, in the order to load them.
	Modules []string
	// RootDevice is the ext4 disk to switch to ("" stays in the initramfs).
	RootDevice string
	// Files are the paths to copy from below FilesDir to the root switched to.
	Files []string
}

// FilesDir is the initramfs folder whose files go to the root switched to.
const FilesDir = "/files"

// An Op is what a Request asks for.
type Op string

// The operations. Hello is the guest's first frame, unasked, with ID 0. Names are
// relative to the guest's root, as in sysfs.FS.
const (
	Hello  Op = "hello"
	Run    Op = "run"    // Command to its end: Result
	Start  Op = "start"  // Command in the background, its output to the file Name: Pid
	Wait   Op = "wait"   // the end of a started Pid: Result without output
	Cancel Op = "cancel" // kill the Command or give up the Wait of request Target
	Signal Op = "signal" // Signal to Pid
	Read   Op = "read"   // the file Name: Data
	Write  Op = "write"  // Data to the existing file Name in one write(2)
	Put    Op = "put"    // Data to the file Name, made with Mode if it is new
	List   Op = "list"   // the directory Name: Names
	Glob   Op = "glob"   // the pattern Name: Names
	Mkdir  Op = "mkdir"  // the directory Name
	Remove Op = "remove" // the empty directory or the file Name
)

// A Command is a process to run in the guest.
type Command struct {
	Argv  []string
	Stdin []byte
	Env   []string // added to the agent's
	Dir   string
}

// A Result is how a Command ended. Code is the exit status, or 128 + the signal
// that ended it, as a shell counts.
type Result struct {
	Stdout, Stderr []byte
	Code           int
}

// A Request is one thing to do; which fields count depends on the Op.
type Request struct {
	ID      uint64
	Op      Op
	Name    string   `json:",omitempty"`
	Data    []byte   `json:",omitempty"`
	Mode    uint32   `json:",omitempty"`
	Command *Command `json:",omitempty"`
	Pid     int      `json:",omitempty"`
	Signal  int      `json:",omitempty"`
	Target  uint64   `json:",omitempty"`
}

// A Response answers the Request of the same ID. If the request failed, Err says
// why; what the kernel refused has its Errno and the system call in FailedOp.
type Response struct {
	ID       uint64
	Op       Op
	Data     []byte        `json:",omitempty"`
	Names    []string      `json:",omitempty"`
	Result   *Result       `json:",omitempty"`
	Pid      int           `json:",omitempty"`
	Err      string        `json:",omitempty"`
	FailedOp string        `json:",omitempty"`
	Errno    syscall.Errno `json:",omitempty"`
}

// maxFrame bounds what a broken peer can make us allocate.
const maxFrame = 64 << 20

// Send writes one frame.
func Send(w io.Writer, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("cannot encode frame: %w", err)
	}
	if len(body) > maxFrame {
		return fmt.Errorf("cannot send frame: its %d bytes are above %d", len(body), maxFrame)
	}
	frame := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(body)), uint32(len(body)))
	_, err = w.Write(append(frame, body...))
	return err
}

// Receive reads one frame into v. It returns io.EOF between frames.
func Receive(r io.Reader, v any) error {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > maxFrame {
		return fmt.Errorf("cannot receive frame: its %d bytes are above %d", n, maxFrame)
	}
	body, err := io.ReadAll(io.LimitReader(r, int64(n)))
	if err != nil {
		return err
	}
	if len(body) < int(n) {
		return io.ErrUnexpectedEOF
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("cannot decode frame: %w", err)
	}
	return nil
}
