//go:build !amd64

package spawn

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

const elfMachine = 0

func playerAddress() unsafe.Pointer { panic("spawn: not for this architecture") }

// cloneExec refuses: there is no player for this architecture.
func cloneExec(unsafe.Pointer, uintptr, *execPlan) (pid int) { return -int(unix.ENOSYS) }
