#include "textflag.h"

// The player is the text of a program of its own (see image.go), so it refers to
// nothing: its header stands at a fixed address, and it uses no stack.
//
//	BX header   R12 call   R13 number of calls   R14 registers   R15 index

#define CALL_SIZE 152

// func player()
TEXT ·player(SB), NOSPLIT|NOFRAME, $0-0
	MOVQ $0x20000000, BX
	// rt_sigprocmask(SIG_SETMASK, none): the parent had blocked all signals.
	MOVQ $14, AX
	MOVQ $2, DI
	LEAQ 56(BX), SI
	XORL DX, DX
	MOVQ $8, R10
	SYSCALL
	MOVQ 0(BX), R13
	MOVQ 8(BX), R12
	MOVQ 16(BX), R14
	XORL R15, R15

loop:
	CMPQ R15, R13
	JGE  done
	MOVQ 0(R12), AX
	MOVQ 8(R12), DI
	MOVQ 16(R12), SI
	MOVQ 24(R12), DX
	MOVQ 32(R12), R10
	MOVQ 40(R12), R8
	MOVQ 48(R12), R9
	MOVQ 56(R12), CX
	TESTQ $1, CX
	JEQ  a1
	MOVQ (R14)(DI*8), DI
a1:
	TESTQ $2, CX
	JEQ  a2
	MOVQ (R14)(SI*8), SI
a2:
	TESTQ $4, CX
	JEQ  a3
	MOVQ (R14)(DX*8), DX
a3:
	TESTQ $8, CX
	JEQ  a4
	MOVQ (R14)(R10*8), R10
a4:
	TESTQ $16, CX
	JEQ  a5
	MOVQ (R14)(R8*8), R8
a5:
	CMPQ AX, $-1 // loadTrap
	JNE  call
	MOVBLZX (DI), AX
	ANDQ SI, AX
	ADDQ DX, AX
	JMP  came
call:
	SYSCALL
came:
	CMPQ AX, $-4095
	JCC  failed
	// A result of 0, the end of a pipe, may be a failure.
	CMPQ 136(R12), $0
	JEQ  good
	TESTQ AX, AX
	JNE  good
	MOVQ $-32, AX // EPIPE
	JMP  failed

good:
	MOVQ 64(R12), CX
	TESTQ CX, CX
	JEQ  unsaved
	MOVQ AX, -8(R14)(CX*8)
unsaved:
	MOVQ 144(R12), CX
	TESTQ CX, CX
	JEQ  next
	TESTQ AX, AX
	JEQ  next
	// The parent's side of a fork: skip, or tell the child's pid and end.
	SUBQ $2, CX
	JGE  forgiven
	MOVQ AX, 40(BX)
	MOVQ $1, AX
	MOVQ 32(BX), DI
	LEAQ 40(BX), SI
	MOVQ $8, DX
	SYSCALL
	XORL DI, DI
	JMP  exit

next:
	ADDQ $CALL_SIZE, R12
	INCQ R15
	JMP  loop

failed:
	NEGQ AX
	CMPQ AX, $4 // EINTR: once more
	JEQ  loop
	MOVQ 104(R12), CX
	CMPQ AX, 72(R12)
	JEQ  forgiven
	MOVQ 112(R12), CX
	CMPQ AX, 80(R12)
	JEQ  forgiven
	MOVQ 120(R12), CX
	CMPQ AX, 88(R12)
	JEQ  forgiven
	MOVQ 128(R12), CX
	CMPQ AX, 96(R12)
	JEQ  forgiven
	// Report which call failed, and how.
	MOVQ R15, 40(BX)
	MOVQ AX, 48(BX)
	MOVQ $1, AX
	MOVQ 24(BX), DI
	LEAQ 40(BX), SI
	MOVQ $16, DX
	SYSCALL
	MOVQ $127, DI
	JMP  exit

forgiven:
	INCQ  CX
	ADDQ  CX, R15
	IMULQ $CALL_SIZE, CX
	ADDQ  CX, R12
	JMP   loop

done:
	XORL DI, DI
exit:
	MOVQ $231, AX // exit_group
	SYSCALL
	UNDEF
	// Where the text ends: playerEnd of image.go.
	BYTE $0x70; BYTE $0x6f; BYTE $0x77; BYTE $0x65
	BYTE $0x72; BYTE $0x64; BYTE $0x2e; BYTE $0x2e
	RET

// func playerAddress() unsafe.Pointer
TEXT ·playerAddress(SB), NOSPLIT, $0-8
	LEAQ ·player(SB), AX
	MOVQ AX, ret+0(FP)
	RET

// func cloneExec(args *cloneArgs, size uintptr, p *execPlan) (pid int)
//
// The child shares this memory, this stack too, until its execveat: so it touches
// none of it but what failed.
TEXT ·cloneExec(SB), NOSPLIT, $0-32
	MOVQ args+0(FP), DI
	MOVQ size+8(FP), SI
	MOVQ p+16(FP), BX
	MOVQ $435, AX // clone3
	SYSCALL
	TESTQ AX, AX
	JEQ  child
	MOVQ AX, pid+24(FP)
	RET

child:
	MOVQ 32(BX), R12 // descriptors to keep
	MOVQ 40(BX), R13
keep:
	TESTQ R13, R13
	JEQ  exec
	MOVQ $72, AX // fcntl(F_SETFD, 0)
	MOVQ (R12), DI
	MOVQ $2, SI
	XORL DX, DX
	SYSCALL
	TESTQ AX, AX
	JNE  fail
	ADDQ $8, R12
	DECQ R13
	JMP  keep
exec:
	MOVQ $322, AX // execveat
	MOVQ 0(BX), DI
	MOVQ 8(BX), SI
	MOVQ 16(BX), DX
	MOVQ 24(BX), R10
	MOVQ $0x1000, R8 // AT_EMPTY_PATH
	SYSCALL
fail:
	NEGQ AX
	MOVQ AX, 48(BX)
	MOVQ $231, AX
	MOVQ $127, DI
	SYSCALL
	UNDEF
