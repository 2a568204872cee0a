#include "textflag.h"

// The reaper of --init (see reaper.go). It is copied into a program of its own, so that nothing here may refer
// to anything else by address but what reaper.go puts at fixed places. It installs no signal handlers, and so
// may use the memory below the stack pointer.
//
// R12 the stack at the start: argc, argv, NULL, envp; R14 scratch; R15 the child.

// func reaperAddr() unsafe.Pointer
TEXT ·reaperAddr(SB), NOSPLIT, $0-8
	LEAQ	·reaperCode(SB), AX
	MOVQ	AX, ret+0(FP)
	RET

TEXT ·reaperCode(SB), NOSPLIT|NOFRAME, $0
	MOVQ	SP, R12
	LEAQ	-512(R12), R14

	MOVQ	$157, AX // prctl(PR_SET_NAME, name)
	MOVQ	$15, DI
	MOVQ	$0x400700, SI
	SYSCALL

	MOVQ	$-1, AX // rt_sigprocmask(SIG_SETMASK, all)
	MOVQ	AX, 0(R14)
	MOVQ	$14, AX
	MOVQ	$2, DI
	MOVQ	R14, SI
	XORL	DX, DX
	MOVQ	$8, R10
	SYSCALL

	MOVQ	$56, AX // clone(SIGCHLD): fork
	MOVQ	$17, DI
	XORL	SI, SI
	XORL	DX, DX
	XORL	R10, R10
	XORL	R8, R8
	SYSCALL
	TESTQ	AX, AX
	JEQ	child
	JLT	fail
	MOVQ	AX, R15

loop:
	MOVQ	$128, AX // rt_sigtimedwait(all, info, forever)
	MOVQ	R14, DI
	LEAQ	64(R14), SI
	XORL	DX, DX
	MOVQ	$8, R10
	SYSCALL
	CMPQ	AX, $17
	JEQ	reap
	TESTQ	AX, AX
	JLE	loop
	MOVQ	AX, SI // kill(child, the same)
	MOVQ	R15, DI
	MOVQ	$62, AX
	SYSCALL
	JMP	loop

reap:
	MOVQ	$61, AX // wait4(-1, &status, WNOHANG)
	MOVQ	$-1, DI
	LEAQ	8(R14), SI
	MOVQ	$1, DX
	XORL	R10, R10
	SYSCALL
	TESTQ	AX, AX
	JLE	loop
	CMPQ	AX, R15
	JNE	reap
	MOVL	8(R14), DI // the exit code, or 128 and the signal
	MOVL	DI, AX
	ANDL	$127, AX
	JNE	signaled
	SHRL	$8, DI
	ANDL	$255, DI
	JMP	exit

signaled:
	LEAL	128(AX), DI
	JMP	exit

child:
	MOVQ	$109, AX // setpgid(0, 0)
	XORL	DI, DI
	XORL	SI, SI
	SYSCALL
	MOVQ	$39, AX // getpid
	SYSCALL
	MOVL	AX, 16(R14)
	MOVQ	$16, AX // ioctl(0, TIOCSPGRP, &pid): the foreground, if it is a terminal
	XORL	DI, DI
	MOVQ	$0x5410, SI
	LEAQ	16(R14), DX
	SYSCALL
	MOVQ	$0, 0(R14) // rt_sigprocmask(SIG_SETMASK, none)
	MOVQ	$14, AX
	MOVQ	$2, DI
	MOVQ	R14, SI
	XORL	DX, DX
	MOVQ	$8, R10
	SYSCALL
	MOVQ	0(R12), AX
	LEAQ	16(R12)(AX*8), R13 // envp
	MOVQ	$0x400800, BX

try:
	MOVBLZX	0(BX), AX
	TESTL	AX, AX
	JEQ	fail
	MOVQ	$59, AX // execve(candidate, argv + 2, envp)
	MOVQ	BX, DI
	LEAQ	24(R12), SI
	MOVQ	R13, DX
	SYSCALL

next:
	MOVBLZX	0(BX), AX
	INCQ	BX
	TESTL	AX, AX
	JNE	next
	JMP	try

fail:
	MOVQ	$127, DI

exit:
	MOVQ	$231, AX // exit_group
	SYSCALL
	JMP	exit
