/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Start-up of the test guests: PVH entry or SIPI -> protected mode -> long mode -> C at CPL 3.
 *
 * Some hosts run guest CPL 0 in an emulator that is slow and incomplete, and CPL 3 natively. So
 * CPL 0 does the least it can: it loads tables which are ready in the image, enables kvmclock, and
 * leaves by iretq. C code at CPL 3 does its own port I/O (all-zero I/O bitmap), MMIO (identity map,
 * user pages) and page table edits. It comes back to CPL 0 by interrupts, and by touching one of
 * three unmapped addresses, the doors:
 *   DOOR_WAIT  sleep until an interrupt, unless *(u64 *)rdi already differs from rsi
 *   DOOR_STOP  halt for ever
 *   DOOR_MSR   write rsi to the MSR edi
 */
#define MAX_CPUS	4
#define TSS_BYTES	12288
#define STACK_BYTES	16384
#define DOOR_WAIT	0x7ffffff000
#define DOOR_STOP	0x7fffffe000
#define DOOR_MSR	0x7fffffd000
#define DOOR_INSN_BYTES	2			/* movb %al, (%rax) */

	.section .note.pvh, "a", @note
	.long	4, 4, 18
	.asciz	"Xen"
	.long	_start

	.text
	.code32
	.globl	_start
_start:
	cli
	movl	%ebx, boot_info
	xorl	%esi, %esi
common32:					/* esi = number of this CPU */
	movl	$0x20, %eax			/* PAE */
	movl	%eax, %cr4
	movl	$pml4, %eax
	movl	%eax, %cr3
	movl	$0xc0000080, %ecx		/* EFER.LME */
	rdmsr
	orl	$0x100, %eax
	wrmsr
	movl	%cr0, %eax
	andl	$0x9fffffff, %eax		/* caches on, they are off after INIT */
	orl	$0x80000001, %eax
	movl	%eax, %cr0
	lgdt	gdtr
	ljmp	$0x10, $long_mode

	.code64
long_mode:
	movl	$0x18, %eax
	movl	%eax, %ss
	movl	%eax, %ds
	movl	%eax, %es
	movl	%esi, %eax			/* rbx = TSS, rdi = its descriptor */
	imull	$TSS_BYTES, %eax, %ebx
	addl	$tss, %ebx
	shll	$4, %eax
	leal	gdt_tss(%rax), %edi
	leal	0x38(%rax), %edx
	movl	%ebx, %eax
	movw	$0x2068, (%rdi)
	movw	%ax, 2(%rdi)
	shrl	$16, %eax
	movb	%al, 4(%rdi)
	movb	$0x89, 5(%rdi)
	movb	%ah, 7(%rdi)
	imull	$STACK_BYTES, %esi, %eax
	leal	kernel_stacks + STACK_BYTES(%rax), %ecx
	movl	%ecx, 4(%rbx)			/* rsp0 */
	movl	%ecx, %esp
	movw	$104, 102(%rbx)			/* I/O bitmap, all zero */
	ltr	%dx
	lidt	idtr
	leal	user_stacks + STACK_BYTES(%rax), %ebx
	movl	%esi, %eax			/* kvmclock */
	shll	$6, %eax
	leal	pvclock + 1(%rax), %eax
	movl	$0x4b564d01, %ecx
	xorl	%edx, %edx
	wrmsr
	pushq	$0x33
	pushq	%rbx
	pushq	$0x3202
	pushq	$0x2b
	pushq	$user
	iretq
user:
	movl	%esi, %edi
	xorl	%ebp, %ebp
	call	cpu_main
	ud2

/* void cpu_wait(const volatile uint64_t *counter, uint64_t seen) */
	.globl	cpu_wait
cpu_wait:
	movabsq	$DOOR_WAIT, %rax
	movb	%al, (%rax)
	ret

/* void msr_write(uint32_t index, uint64_t value) */
	.globl	msr_write
msr_write:
	movabsq	$DOOR_MSR, %rax
	movb	%al, (%rax)
	ret

/* void cpu_stop(void) */
	.globl	cpu_stop
cpu_stop:
	movabsq	$DOOR_STOP, %rax
	movb	%al, (%rax)
	jmp	cpu_stop

/* Exception: the stack holds vector, error code, rip, cs, rflags, rsp, ss. */
exception:
	pushq	%rax
	pushq	%rcx
	cmpl	$14, 16(%rsp)
	jne	1f
	movq	%cr2, %rax
	movabsq	$DOOR_WAIT, %rcx
	cmpq	%rcx, %rax
	je	door_wait
	movabsq	$DOOR_STOP, %rcx
	cmpq	%rcx, %rax
	je	door_stop
	movabsq	$DOOR_MSR, %rcx
	cmpq	%rcx, %rax
	je	door_msr
1:	cmpl	$2, 16(%rsp)			/* NMI: ignored */
	je	2f
	testb	$3, 40(%rsp)
	jz	door_stop			/* a fault at CPL 0: nothing can be saved */
	movl	16(%rsp), %eax
	movq	%rax, fault_info
	movq	24(%rsp), %rax
	movq	%rax, fault_info + 8
	movq	32(%rsp), %rax
	movq	%rax, fault_info + 16
	movq	%cr2, %rax
	movq	%rax, fault_info + 24
	movq	$fault_report, 32(%rsp)
	andq	$-16, 56(%rsp)
	subq	$8, 56(%rsp)
2:	popq	%rcx
	popq	%rax
	addq	$16, %rsp
	iretq

door_wait:
	addq	$DOOR_INSN_BYTES, 32(%rsp)
	cmpq	%rsi, (%rdi)
	jne	2b
	sti
	hlt
	cli
	jmp	2b

door_msr:
	addq	$DOOR_INSN_BYTES, 32(%rsp)
	movl	%edi, %ecx
	movl	%esi, %eax
	movq	%rsi, %rdx
	shrq	$32, %rdx
	wrmsr
	jmp	2b

door_stop:
	cli
	hlt
	jmp	door_stop

/* Entry points of the 256 vectors, VECTOR_BYTES apart: see vectors_init(). */
	.globl	vector_entries
	.balign	64
vector_entries:
	.set	n, 0
	.rept	256
	.balign	64
	.if	n < 32
	.if	n != 8 && (n < 10 || n > 14) && n != 17 && n != 21
	pushq	$0
	.endif
	pushq	$n
	jmp	exception
	.else
	pushq	%rax
	incq	irq_count + 8 * n
	movl	$0xfee000b0, %eax		/* LAPIC end of interrupt */
	movl	$0, (%rax)
	popq	%rax
	iretq
	.endif
	.set	n, n + 1
	.endr

/* Copied below 1 MiB; started by SIPI in real mode with cs:0 at its first byte. */
	.globl	ap_trampoline, ap_trampoline_end
	.code16
ap_trampoline:
	cli
	movw	%cs, %ax
	movw	%ax, %ds
	lgdtl	ap_gdtr - ap_trampoline
	movl	%cr0, %eax
	orl	$1, %eax
	movl	%eax, %cr0
	ljmpl	$0x20, $ap32
ap_gdtr:
	.word	gdt_end - gdt - 1
	.long	gdt
ap_trampoline_end:
	.code32
ap32:
	movl	$0x18, %eax
	movl	%eax, %ds
	movl	ap_number, %esi
	jmp	common32

	.data
	.balign	4096
	.globl	pml4
pml4:	.quad	pdpt + 7
	.fill	511, 8, 0
pdpt:	.quad	pd + 7, pd + 0x1007, pd + 0x2007, pd + 0x3007
	.fill	508, 8, 0
pd:						/* the first 4 GiB, identity, user */
	.set	n, 0
	.rept	2048
	.quad	n * 0x200000 + 0x87
	.set	n, n + 1
	.endr
	.balign	8
gdt:	.quad	0, 0
	/* 0x10 code 64, 0x18 data, 0x20 code 32, 0x28 user code 64, 0x30 user data */
	.quad	0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cf9b000000ffff
	.quad	0x00affb000000ffff, 0x00cff3000000ffff
gdt_tss:					/* 0x38 on: one per CPU */
	.fill	2 * MAX_CPUS, 8, 0
gdt_end:
gdtr:	.word	gdt_end - gdt - 1
	.quad	gdt
idtr:	.word	4095
	.quad	idt
	.globl	boot_info, ap_number
boot_info: .long 0
ap_number: .long 0

	.bss
	.globl	idt, irq_count, fault_info, pvclock
	.balign	4096
idt:	.skip	4096
tss:	.skip	TSS_BYTES * MAX_CPUS
kernel_stacks:
	.skip	STACK_BYTES * MAX_CPUS
user_stacks:
	.skip	STACK_BYTES * MAX_CPUS
	.balign	64
pvclock: .skip	64 * MAX_CPUS
irq_count:
	.skip	8 * 256
fault_info:
	.skip	32

	.section .note.GNU-stack, "", @progbits
