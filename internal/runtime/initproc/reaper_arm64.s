#include "textflag.h"

// The reaper of --init; see reaper.go and the amd64 version, which this follows step by step.
//
// R20 the stack at the start: argc, argv, NULL, envp; R21 scratch; R22 the child.

// func reaperAddr() unsafe.Pointer
TEXT ·reaperAddr(SB), NOSPLIT, $0-8
	MOVD	$·reaperCode(SB), R0
	MOVD	R0, ret+0(FP)
	RET

TEXT ·reaperCode(SB), NOSPLIT|NOFRAME, $0
	MOVD	RSP, R20
	SUB	$512, R20, R21

	MOVD	$15, R0 // prctl(PR_SET_NAME, name)
	MOVD	$0x40, R1
	LSL	$16, R1, R1
	ADD	$0x700, R1, R1
	MOVD	$167, R8
	SVC

	MOVD	$-1, R0 // rt_sigprocmask(SIG_SETMASK, all)
	MOVD	R0, 0(R21)
	MOVD	$2, R0
	MOVD	R21, R1
	MOVD	$0, R2
	MOVD	$8, R3
	MOVD	$135, R8
	SVC

	MOVD	$17, R0 // clone(SIGCHLD): fork
	MOVD	$0, R1
	MOVD	$0, R2
	MOVD	$0, R3
	MOVD	$0, R4
	MOVD	$220, R8
	SVC
	CMP	$0, R0
	BEQ	child
	BLT	fail
	MOVD	R0, R22

loop:
	MOVD	R21, R0 // rt_sigtimedwait(all, info, forever)
	ADD	$64, R21, R1
	MOVD	$0, R2
	MOVD	$8, R3
	MOVD	$137, R8
	SVC
	CMP	$17, R0
	BEQ	reap
	CMP	$0, R0
	BLE	loop
	MOVD	R0, R1 // kill(child, the same)
	MOVD	R22, R0
	MOVD	$129, R8
	SVC
	B	loop

reap:
	MOVD	$-1, R0 // wait4(-1, &status, WNOHANG)
	ADD	$8, R21, R1
	MOVD	$1, R2
	MOVD	$0, R3
	MOVD	$260, R8
	SVC
	CMP	$0, R0
	BLE	loop
	CMP	R22, R0
	BNE	reap
	MOVWU	8(R21), R0 // the exit code, or 128 and the signal
	AND	$127, R0, R1
	CBNZ	R1, signaled
	LSR	$8, R0, R0
	AND	$255, R0, R0
	B	exit

signaled:
	ADD	$128, R1, R0
	B	exit

child:
	MOVD	$0, R0 // setpgid(0, 0)
	MOVD	$0, R1
	MOVD	$154, R8
	SVC
	MOVD	$172, R8 // getpid
	SVC
	MOVW	R0, 16(R21)
	MOVD	$0, R0 // ioctl(0, TIOCSPGRP, &pid): the foreground, if it is a terminal
	MOVD	$0x5410, R1
	ADD	$16, R21, R2
	MOVD	$29, R8
	SVC
	MOVD	ZR, 0(R21) // rt_sigprocmask(SIG_SETMASK, none)
	MOVD	$2, R0
	MOVD	R21, R1
	MOVD	$0, R2
	MOVD	$8, R3
	MOVD	$135, R8
	SVC
	MOVD	0(R20), R0
	ADD	R0<<3, R20, R23
	ADD	$16, R23, R23 // envp
	MOVD	$0x40, R24
	LSL	$16, R24, R24
	ADD	$0x800, R24, R24

try:
	MOVBU	0(R24), R0
	CBZ	R0, fail
	MOVD	R24, R0 // execve(candidate, argv + 2, envp)
	ADD	$24, R20, R1
	MOVD	R23, R2
	MOVD	$221, R8
	SVC

next:
	MOVBU	0(R24), R0
	ADD	$1, R24, R24
	CBNZ	R0, next
	B	try

fail:
	MOVD	$127, R0

exit:
	MOVD	$94, R8 // exit_group
	SVC
	B	exit
