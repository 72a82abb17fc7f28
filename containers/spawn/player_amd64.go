package spawn

import "unsafe"

const elfMachine = 62 // EM_X86_64

func player()

func playerAddress() unsafe.Pointer

//go:noescape
func cloneExec(args *cloneArgs, size uintptr, p *execPlan) (pid int)
