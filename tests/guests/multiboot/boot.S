// SPDX-License-Identifier: Apache-2.0
/* Entry of the Multiboot guest, with the header of specification MB (1 or 2); KLUDGE: with the addresses in the header, for
 * a flat image. */
    .section .header, "a"
#if MB == 1
#ifdef KLUDGE
#define FLAGS 0x00010003
#else
#define FLAGS 0x00000003
#endif
    .balign 4
header:
    .long 0x1badb002, FLAGS, -(0x1badb002 + FLAGS)
#ifdef KLUDGE
    .long header, load_start, load_end, bss_end, start
#endif
#else
    .balign 8
header:
    .long 0xe85250d6, 0, header_end - header, -(0xe85250d6 + (header_end - header))
    .balign 8
    .short 1, 0 /* information request: command line, memory map */
    .long 16, 1, 6
#ifdef KLUDGE
    .balign 8
    .short 2, 0
    .long 24, header, load_start, load_end, bss_end
    .balign 8
    .short 3, 0
    .long 12, start
#endif
    .balign 8
    .short 6, 1 /* modules on page boundaries, optional */
    .long 8
    .balign 8
    .short 0, 0
    .long 8
header_end:
#endif

    .text
    .code32
    .globl start
start:
    movl $stack_end, %esp
    pushl $0
    popf
    pushl %ebx
    pushl %eax
    call guest_main
1:  hlt
    jmp 1b

    .bss
    .balign 16
    .skip 8192
stack_end:
    .section .note.GNU-stack, "", @progbits
