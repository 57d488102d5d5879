// SPDX-License-Identifier: Apache-2.0
/* The option ROM by which a BIOS boots the kernel that fw_cfg has: a bootstrap entry (Plug and Play BIOS
 * Specification 1.0A, section 3.2; BIOS Boot Specification 1.01) that loads setup code, command line, kernel
 * and initrd by fw_cfg's DMA to where the items say, and enters the setup code (Linux
 * Documentation/arch/x86/boot.rst, "Running the Kernel"). */
#include <string.h>

#include "hv/vm/fwkernel.h"
#include "proto/wire.h"

#define PNP_HEADER 0x20
#define PNP_BYTES 32
#define PNP_CHECKSUM 9

extern const uint8_t fy_fwkernel_code[], fy_fwkernel_code_end[];

/* clang-format off */
__asm__(
    ".pushsection .rodata\n"
    ".globl fy_fwkernel_code, fy_fwkernel_code_end\n"
    ".hidden fy_fwkernel_code, fy_fwkernel_code_end\n"
    "fy_fwkernel_code:\n"
    ".code16\n"
    "    .byte 0x55, 0xaa, 2\n"         /* 1024 bytes */
    "    lret\n"                        /* nothing to initialise */
    "    .org fy_fwkernel_code + 0x1a\n"
    "    .word 0x20\n"
    "    .org fy_fwkernel_code + 0x20\n"
    "    .ascii \"$PnP\"\n"
    "    .byte 1, 2\n"                  /* revision, length in 16 bytes */
    "    .word 0\n"                     /* no other header */
    "    .byte 0, 0\n"                  /* checksum: filled in */
    "    .long 0\n"
    "    .word 0, .Lproduct - fy_fwkernel_code\n"
    "    .byte 0, 0, 0, 0\n"
    "    .word 0, 0, .Lboot - fy_fwkernel_code, 0, 0\n"
    ".Lproduct:\n"
    "    .asciz \"Ferry kernel\"\n"

    /* ss:bp: the access structure, 16 bytes, then a word that is read. eax: control, ecx: length, edi: where to. */
    ".Ldma:\n"
    "    bswapl %eax\n"
    "    movl %eax, (%bp)\n"
    "    bswapl %ecx\n"
    "    movl %ecx, 4(%bp)\n"
    "    movl $0, 8(%bp)\n"
    "    bswapl %edi\n"
    "    movl %edi, 12(%bp)\n"
    "    xorl %eax, %eax\n"
    "    movw %ss, %ax\n"
    "    shll $4, %eax\n"
    "    movzwl %bp, %edx\n"
    "    addl %edx, %eax\n"
    "    bswapl %eax\n"
    "    movw $0x518, %dx\n"
    "    outl %eax, %dx\n"
    "    cmpl $0, (%bp)\n"
    "    jne .Lfail\n"
    "    ret\n"

    /* eax: the value of item ax. */
    ".Lget:\n"
    "    shll $16, %eax\n"
    "    movb $0x0a, %al\n"             /* select, read */
    "    movl $4, %ecx\n"
    "    xorl %edi, %edi\n"
    "    movw %ss, %di\n"
    "    shll $4, %edi\n"
    "    movzwl %bp, %edx\n"
    "    leal 16(%edi, %edx), %edi\n"
    "    call .Ldma\n"
    "    movl 16(%bp), %eax\n"
    "    ret\n"

    /* ds:si: numbers of the items with length, address and bytes. */
    ".Lload:\n"
    "    movzwl (%si), %eax\n"
    "    call .Lget\n"
    "    movl %eax, %ebx\n"
    "    testl %eax, %eax\n"
    "    jz 1f\n"
    "    movzwl 2(%si), %eax\n"
    "    call .Lget\n"
    "    movl %eax, %edi\n"
    "    movl %ebx, %ecx\n"
    "    movzwl 4(%si), %eax\n"
    "    shll $16, %eax\n"
    "    movb $0x0a, %al\n"
    "    call .Ldma\n"
    "1:  addw $6, %si\n"
    "    ret\n"

    ".Lboot:\n"
    "    cld\n"
    "    movw %cs, %ax\n"
    "    movw %ax, %ds\n"
    "    subw $32, %sp\n"
    "    movw %sp, %bp\n"
    "    movw $.Litems - fy_fwkernel_code, %si\n"
    "    call .Lload\n"
    "    call .Lload\n"
    "    call .Lload\n"
    "    call .Lload\n"
    "    movl $0x16, %eax\n"            /* where the setup code lies */
    "    call .Lget\n"
    "    shrl $4, %eax\n"
    "    cli\n"
    "    movw %ax, %ds\n"
    "    movw %ax, %es\n"
    "    movw %ax, %fs\n"
    "    movw %ax, %gs\n"
    "    movw %ax, %ss\n"
    "    movw $0xfff0, %sp\n"
    "    addw $0x20, %ax\n"
    "    pushw %ax\n"
    "    pushw $0\n"
    "    lret\n"

    ".Lfail:\n"
    "    movw $.Lsorry - fy_fwkernel_code, %si\n"
    "    movw %cs, %ax\n"
    "    movw %ax, %ds\n"
    "1:  lodsb\n"
    "    testb %al, %al\n"
    "    jz 2f\n"
    "    movb $0x0e, %ah\n"
    "    movw $7, %bx\n"
    "    int $0x10\n"
    "    jmp 1b\n"
    "2:  hlt\n"
    "    jmp 2b\n"
    ".Lsorry:\n"
    "    .asciz \"The kernel cannot be loaded.\\r\\n\"\n"
    "    .balign 2\n"
    ".Litems:\n"
    "    .word 0x17, 0x16, 0x18\n"      /* setup code */
    "    .word 0x14, 0x13, 0x15\n"      /* command line */
    "    .word 0x08, 0x07, 0x11\n"      /* kernel */
    "    .word 0x0b, 0x0a, 0x12\n"      /* initrd */
    "fy_fwkernel_code_end:\n"
    ".code64\n"
    ".popsection\n");
/* clang-format on */

static uint8_t sum(const uint8_t *p, size_t n)
{
    uint8_t s = 0;
    for (size_t i = 0; i < n; i++)
        s = (uint8_t)(s + p[i]);
    return s;
}

void fy_fwkernel_rom(uint8_t out[FY_FWKERNEL_ROM_BYTES])
{
    memset(out, 0, FY_FWKERNEL_ROM_BYTES);
    memcpy(out, fy_fwkernel_code, (size_t)(fy_fwkernel_code_end - fy_fwkernel_code));
    out[PNP_HEADER + PNP_CHECKSUM] = (uint8_t)-sum(out + PNP_HEADER, PNP_BYTES);
    out[FY_FWKERNEL_ROM_BYTES - 1] = (uint8_t)-sum(out, FY_FWKERNEL_ROM_BYTES);
}
