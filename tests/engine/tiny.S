// SPDX-License-Identifier: Apache-2.0
/* Tiny guests, 32-bit protected mode, flat, entered by PVH at 1 MiB with ebx = start info. Position independent. */
    .section .rodata
    .code32

/* Counts in the first word of each of 64 pages from 2 MiB on, in order, for ever; a dot on the console after each
 * pass. ebp: passes done, esi: the next page. */
    .globl tiny_count, tiny_count_end
tiny_count:
    xorl %ebp, %ebp
1:  movl $0x200000, %esi
2:  incl (%esi)
    addl $4096, %esi
    cmpl $0x240000, %esi
    jb 2b
    incl %ebp
    movl $0x3f8, %edx
    movb $'.', %al
    outb %al, %dx
    jmp 1b
tiny_count_end:

/* Ends with debug exit status 2 * 21 + 1. */
    .globl tiny_exit, tiny_exit_end
tiny_exit:
    movl $21, %eax
    movl $0xf4, %edx
    outl %eax, %dx
1:  hlt
    jmp 1b
tiny_exit_end:

/* A triple fault: no IDT, then an invalid opcode. */
    .globl tiny_crash, tiny_crash_end
tiny_crash:
    movl $0xdeadbeef, %eax
    subl $8, %esp
    movw $0, (%esp)
    movl $0, 2(%esp)
    lidtl (%esp)
    ud2
tiny_crash_end:

/* Resets through port 0xcf9 after counting its boots at 3 MiB; the fifth boot ends it. */
    .globl tiny_reset, tiny_reset_end
tiny_reset:
    incl 0x300000
    movl 0x300000, %eax
    cmpl $5, %eax
    jb 1f
    movl $0xf4, %edx
    outl %eax, %dx
1:  movl $0xcf9, %edx
    movb $6, %al
    outb %al, %dx
2:  hlt
    jmp 2b
tiny_reset_end:
    .section .note.GNU-stack, "", @progbits
