// Command seccomp-agent answers the calls of one container: it prints the container's
// state, and each call gets ENOSPC.
package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// See struct seccomp_notif and seccomp_notif_resp of seccomp_unotify(2).
type request struct {
	id         uint64
	pid, flags uint32
	nr         int32
	arch       uint32
	ip         uint64
	args       [6]uint64
}

type answer struct {
	id    uint64
	val   int64
	err   int32
	flags uint32
}

func main() {
	if err := serve(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve(name string) error {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
	if err != nil {
		return err
	}
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return err
		}
		data, oob := make([]byte, 1<<16), make([]byte, 64)
		n, m, _, _, err := conn.ReadMsgUnix(data, oob)
		if err != nil {
			return err
		}
		var state specs.ContainerProcessState
		if err := json.Unmarshal(data[:n], &state); err != nil {
			return err
		}
		fmt.Println(state.Fds, state.Metadata, state.State.ID, state.State.Status, state.Pid == state.State.Pid)
		msgs, err := unix.ParseSocketControlMessage(oob[:m])
		if err != nil || len(msgs) != 1 {
			return fmt.Errorf("%d messages, %v", len(msgs), err)
		}
		fds, err := unix.ParseUnixRights(&msgs[0])
		if err != nil {
			return err
		}
		go func() {
			for {
				r := request{}
				if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fds[0]), 0xc0502100, uintptr(unsafe.Pointer(&r))); e != 0 {
					return // nobody is left to ask
				}
				a := answer{id: r.id, err: -int32(unix.ENOSPC)}
				unix.Syscall(unix.SYS_IOCTL, uintptr(fds[0]), 0xc0182101, uintptr(unsafe.Pointer(&a)))
			}
		}()
	}
}
