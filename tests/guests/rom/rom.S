// SPDX-License-Identifier: Apache-2.0
/* A firmware image of 64 KiB that checks what firmware may expect of the machine: it starts at the reset vector in real mode,
 * nothing changes the ROM, its copy below 1 MiB is RAM, and what is not there reads as ones. It says "rom ok" or the number of
 * what is wrong, at COM1 and by the debug exit port. */
#define TOP 0xffff0000
#define LOW 0x000f0000
#define AT(label) (TOP + label - image)

    .section .text, "ax"
    .globl image
image:
    .code16
start:
    cli
    movw %cs, %ax
    cmpw $0xf000, %ax /* its base is 0xffff0000 all the same, or this would not run */
    jne 1f
    movl %cr0, %eax
    testl $0x80000001, %eax
    jnz 1f
    lgdtl %cs:gdtr - image
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $8, $AT(flat)
1:  hlt
    jmp 1b

    .code32
flat:
    movw $16, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl $0x80000, %esp
    movl $1, %ebx /* a plain write */
    movl $0x12345678, AT(word)
    call same
    incl %ebx /* 2: read, modify, write, locked */
    movl $0x1111, %eax
    lock xaddl %eax, AT(word)
    cmpl $0x600dbeef, %eax
    jne bad
    call same
    incl %ebx /* 3: a string */
    movl $AT(word) - 8, %edi
    movl $6, %ecx
    xorl %eax, %eax
    cld
    rep stosl
    call same
    incl %ebx /* 4: across a page */
    movl $0, TOP + 0x0ffe
    cmpl $0xffffffff, TOP + 0x0ffe
    jne bad
    incl %ebx /* 5: a byte after a read of the same page, which a TLB might remember */
    movb AT(word), %al
    movb $0x55, AT(word)
    call same
    incl %ebx /* 6: a write to an instruction that has run */
    movb $0xf4, AT(flat)
    cmpb $0x66, AT(flat)
    jne bad
    incl %ebx /* 7: the copy */
    movl $TOP, %esi
    movl $LOW, %edi
    movl $0x4000, %ecx
    repe cmpsl
    jne bad
    incl %ebx /* 8: is RAM */
    movl $0xcafe, LOW + word - image
    cmpl $0xcafe, LOW + word - image
    jne bad
    call same
    incl %ebx /* 9: below the ROM */
    cmpl $0xffffffff, 0xffe00000
    jne bad
    movl $0, 0xffe00000
    cmpl $0xffffffff, 0xffe00000
    jne bad
    incl %ebx /* 10: fw_cfg knows itself */
    movw $0x510, %dx
    xorl %eax, %eax
    outw %ax, %dx
    incw %dx
    inb %dx, %al
    cmpb $'Q', %al
    jne bad
    xorl %ebx, %ebx
    movl $AT(good), %esi
    jmp say
bad:
    movl $AT(wrong), %esi
say:
    movw $0x3f8, %dx
2:  movb (%esi), %al
    incl %esi
    testb %al, %al
    jz 3f
    outb %al, %dx
    jmp 2b
3:  movl %ebx, %eax
    movw $0xf4, %dx
    outl %eax, %dx
4:  hlt
    jmp 4b

same:
    cmpl $0x600dbeef, AT(word)
    jne bad
    ret

good:
    .asciz "rom ok\n"
wrong:
    .asciz "rom bad\n"
    .balign 8
gdt:
    .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
gdtr:
    .short gdtr - gdt - 1
    .long AT(gdt)
    .balign 16
    .quad 0
word:
    .long 0x600dbeef, 0, 0, 0

    .org 0xfff0, 0xff
    .code16
    jmp start
    .org 0x10000, 0xff
    .section .note.GNU-stack, "", @progbits
