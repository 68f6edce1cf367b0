# SPDX-License-Identifier: GPL-2.0
#
# An entry for QEMU's -kernel in front of a 64-bit kernel that has none of its own (CONFIG_PVH): from the state of the
# x86/HVM direct boot ABI to that of the 64-bit boot protocol (Documentation/arch/x86/boot.rst). scripts/bootable puts
# both into one file. Memory of the machine: at most 4 GiB, one initial file system.

	.section .note.pvh, "a", @note
	.long	4, 4, 18			# XEN_ELFNOTE_PHYS32_ENTRY
	.asciz	"Xen"
	.long	start

	.section .kernel, "ax", @progbits
	.incbin	"kernel"

	.text
	.code32
	.globl	start
start:						# %ebx: struct hvm_start_info
	cli
	cld
	movl	$params, %edi
	xorl	%eax, %eax
	movl	$1024, %ecx
	rep stosl

	movl	24(%ebx), %eax			# command line
	movl	%eax, params + 0x228
	movl	32(%ebx), %eax			# ACPI's root pointer
	movl	%eax, params + 0x70
	movl	16(%ebx), %esi			# initial file system: address and bytes
	movl	(%esi), %eax
	movl	%eax, params + 0x218
	movl	8(%esi), %eax
	movl	%eax, params + 0x21c

	movl	48(%ebx), %edx			# map of memory
	movb	%dl, params + 0x1e8
	movl	40(%ebx), %esi
	movl	$params + 0x2d0, %edi
1:	movl	$5, %ecx
	rep movsl
	addl	$4, %esi
	decl	%edx
	jnz	1b

	movw	$0xaa55, params + 0x1fe
	movl	$0x53726448, params + 0x202	# "HdrS"
	movw	$0x20c, params + 0x206
	movb	$0xff, params + 0x210		# a loader without a number
	movb	$1, params + 0x211		# the kernel lies high
	movl	$2047, params + 0x238

	movl	%cr4, %eax
	orl	$0x20, %eax			# PAE
	movl	%eax, %cr4
	movl	$level4, %eax
	movl	%eax, %cr3
	movl	$0xc0000080, %ecx		# EFER: long mode
	rdmsr
	orl	$0x100, %eax
	wrmsr
	movl	%cr0, %eax
	orl	$0x80000001, %eax
	movl	%eax, %cr0
	lgdt	descriptors
	ljmp	$0x10, $2f

	.code64
2:	movl	$0x18, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	%eax, %fs
	movl	%eax, %gs
	movl	%eax, %ss
	movl	$params, %esi
	movl	$kernel_entry, %eax
	jmp	*%rax

	.data
	.balign	4096
level4:	.quad	level3 + 3
	.fill	511, 8, 0
level3:	.quad	0x83, 0x40000083, 0x80000083, 0xc0000083
	.fill	508, 8, 0
params:	.fill	4096, 1, 0
	.balign	8
segments:
	.quad	0, 0, 0x00af9a000000ffff, 0x00cf92000000ffff
descriptors:
	.word	descriptors - segments - 1
	.long	segments
