package wire

import (
	"bytes"
	"io"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFrames(t *testing.T) {
	sent := []Response{
		{Op: Hello},
		{ID: 7, Op: Run, Result: &Result{Stdout: []byte{0, 0xff, '\n'}, Code: 137}},
		{ID: 8, Op: Write, Err: "invalid argument", FailedOp: "write", Errno: syscall.EINVAL},
	}
	var b bytes.Buffer
	for _, r := range sent {
		if err := Send(&b, r); err != nil {
			t.Fatal(err)
		}
	}
	whole := bytes.Clone(b.Bytes())
	for _, want := range sent {
		var got Response
		if err := Receive(&b, &got); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
	}
	var r Response
	if err := Receive(&b, &r); err != io.EOF {
		t.Errorf("after the last frame: %v, want EOF", err)
	}
	if err := Receive(bytes.NewReader(whole[:9]), &r); err != io.ErrUnexpectedEOF {
		t.Errorf("in a frame cut short: %v, want unexpected EOF", err)
	}
}

func FuzzReceive(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x02{}"))
	f.Add([]byte("\xff\xff\xff\xff{}"))
	f.Add([]byte("\x00\x00\x00\x09{\"ID\":7}"))
	f.Fuzz(func(t *testing.T, frame []byte) {
		var r Request
		if Receive(bytes.NewReader(frame), &r) != nil {
			return
		}
		var b bytes.Buffer
		var again Request
		if err := Send(&b, r); err != nil {
			t.Fatal(err)
		}
		if err := Receive(&b, &again); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(r, again); d != "" {
			t.Error(d)
		}
	})
}
