// SPDX-License-Identifier: Apache-2.0
/* Ring 0, as little as there can be: on a KVM that emulates it, every instruction here costs a microsecond. PVH
 * entry, long mode, descriptor tables, entry to ring 3, four traps, fault reports, start of the other vCPUs. */

#define SEL_CODE0 0x08
#define SEL_DATA0 0x10
#define SEL_DATA3 0x1b
#define SEL_CODE3 0x23
#define SEL_TSS0 0x28

#define STACKS 0xe00000
#define STACK_SHIFT 14 /* a vCPU: 8 KiB for ring 3, 8 KiB for ring 0 */
#define TRAMPOLINE 0x6000

    .section .note.Xen, "a", @note
    .align 4
    .long 4, 8, 18
    .asciz "Xen"
    .quad pvh_start

    .text
    .code32
    .globl pvh_start
pvh_start:
    cli
    cld
    movl %ebx, start_info
    movl $0, start_info + 4
    movl $STACKS + (1 << STACK_SHIFT), %esp
    /* identity map of 4 GiB by 2 MiB pages, open to ring 3 */
    movl $pdpt + 7, pml4
    movl $pd + 0x0007, pdpt
    movl $pd + 0x1007, pdpt + 8
    movl $pd + 0x2007, pdpt + 16
    movl $pd + 0x3007, pdpt + 24
    movl $pd, %edi
    movl $0x87, %eax
    movl $2048, %ecx
1:  movl %eax, (%edi)
    addl $8, %edi
    addl $0x200000, %eax
    decl %ecx
    jnz 1b
    lgdtl gdt_pointer
    call long_mode
    ljmpl $SEL_CODE0, $bsp64

/* Paging and long mode on, SSE allowed; 32-bit code, clobbers eax, ecx, edx. */
long_mode:
    movl %cr4, %eax
    orl $0x620, %eax /* PAE, OSFXSR, OSXMMEXCPT */
    movl %eax, %cr4
    movl $pml4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl %cr0, %eax
    andl $~4, %eax
    orl $0x80000003, %eax
    movl %eax, %cr0
    ret

    .code64
bsp64:
    xorl %edi, %edi
    call load_segments
    call idt_fill
    movl $guest_main, %eax
    xorl %edi, %edi
    jmp enter_ring3

/* Flat segments; the stack stays. */
load_segments:
    movl $SEL_DATA0, %eax
    movl %eax, %ss
    movl %eax, %ds
    movl %eax, %es
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    ret

/* vCPU edi into ring 3 at rax with edi as argument. Its TSS and stacks follow from its number. */
enter_ring3:
    movl %edi, %ecx
    shll $STACK_SHIFT, %ecx
    leal STACKS + (1 << STACK_SHIFT)(%rcx), %edx /* top of ring 0's stack */
    /* the TSS; all share the I/O bitmap behind the last, which allows every port: a KVM without hardware
     * virtualisation may lose IOPL on the way to ring 3 */
    imull $104, %edi, %ebx
    addl $tss, %ebx
    movq %rdx, 4(%rbx)
    movl $io_bitmap, %r9d
    subl %ebx, %r9d
    movw %r9w, 102(%rbx)
    addl $8192, %r9d
    /* its descriptor */
    movl %edi, %esi
    shll $4, %esi
    leal gdt_tss(%rsi), %ebp
    movl %ebx, %ecx
    shll $16, %ecx
    orl %r9d, %ecx /* its limit */
    movl %ecx, (%rbp)
    movl %ebx, %ecx
    shrl $16, %ecx
    andl $0xff, %ecx
    orl $0x8900, %ecx
    movl %ebx, %r8d
    andl $0xff000000, %r8d
    orl %r8d, %ecx
    movl %ecx, 4(%rbp)
    addl $SEL_TSS0, %esi
    ltr %si
    lidt idt_pointer
    subl $(1 << STACK_SHIFT) / 2 + 8, %edx /* ring 3's stack ends in the middle */
    pushq $SEL_DATA3
    pushq %rdx
    pushq $0x3002 /* IOPL 3, interrupts off */
    pushq $SEL_CODE3
    pushq %rax
    movl $SEL_DATA3, %ecx
    movl %ecx, %ds
    movl %ecx, %es
    iretq

/* An undefined instruction: at trap_site it is a call from ring 3 (software interrupts are not there on a KVM that
 * emulates ring 0, faults are), rax says what; elsewhere it is a fault. */
    .globl trap_entry
trap_entry:
    cmpq $trap_site, (%rsp)
    jne fault_6
    addq $2, (%rsp)
    testl %eax, %eax
    jnz 1f
    sti
    hlt
    cli
    iretq
1:  cmpl $2, %eax
    ja 3f
    movl %edi, %ecx
    je 2f
    rdmsr
    shlq $32, %rdx
    orq %rdx, %rax
    iretq
2:  movl %esi, %eax
    movq %rsi, %rdx
    shrq $32, %rdx
    wrmsr
    iretq
3:  cmpl $3, %eax
    jne 4f
    movq %rdx, %r8
    movl %edi, %eax
    movl %esi, %ecx
    cpuid
    movl %eax, (%r8)
    movl %ebx, 4(%r8)
    movl %ecx, 8(%r8)
    movl %edx, 12(%r8)
    iretq
4:  cli
    hlt
    jmp 4b

/* The LAPIC timer: it only ends a halt. */
    .globl timer_entry
timer_entry:
    pushq %rax
    movl $0xfee000b0, %eax
    movl $0, (%rax)
    popq %rax
    .globl spurious_entry
spurious_entry:
    iretq

/* uint64_t trap(fn, a, b, c): ring 3's side. */
    .globl trap
trap:
    pushq %rbx
    movq %rdi, %rax
    movq %rsi, %rdi
    movq %rdx, %rsi
    movq %rcx, %rdx
trap_site:
    ud2
    popq %rbx
    ret

/* Exceptions 0..31: the same frame for all. */
    .altmacro
    .macro stub n
fault_\n:
    .if !(\n == 8 || (\n >= 10 && \n <= 14) || \n == 17 || \n == 21)
    pushq $0
    .endif
    pushq $\n
    jmp fault_common
    .endm
    .set n, 0
    .rept 32
    stub %n
    .set n, n + 1
    .endr
fault_common:
    movq %rsp, %rdi
    movq %cr2, %rsi
    call fault_report
4:  cli
    hlt
    jmp 4b

    .macro entry n
    .long fault_\n
    .endm
    .section .rodata
    .align 4
    .globl fault_entries
fault_entries:
    .set n, 0
    .rept 32
    entry %n
    .set n, n + 1
    .endr

/* The other vCPUs begin here in real mode at TRAMPOLINE, straight into long mode. */
    .section .rodata
    .globl trampoline, trampoline_end
    .code16
trampoline:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    lgdtl TRAMPOLINE + tramp_gdt - trampoline
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $0x08, $TRAMPOLINE + tramp32 - trampoline
    .code32
tramp32:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl $ap32, %eax
    jmp *%eax
    .align 8
tramp_gdt_table:
    .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
tramp_gdt:
    .word 23
    .long TRAMPOLINE + tramp_gdt_table - trampoline
trampoline_end:

    .text
    .code32
ap32:
    movl ap_number, %edi
    movl %edi, %esp
    shll $STACK_SHIFT, %esp
    addl $STACKS + (1 << STACK_SHIFT), %esp
    lgdtl gdt_pointer
    call long_mode
    ljmpl $SEL_CODE0, $ap64
    .code64
ap64:
    call load_segments
    movl $run, %eax
    jmp enter_ring3

    .data
    .align 8
    .globl start_info, ap_number
start_info:
    .quad 0
ap_number:
    .quad 0
    .align 16
gdt:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
    .quad 0x00cff3000000ffff
    .quad 0x00affb000000ffff
gdt_tss:
    .fill 64 * 16
gdt_end:
gdt_pointer:
    .word gdt_end - gdt - 1
    .quad gdt
    .globl idt_pointer
idt_pointer:
    .word 256 * 16 - 1
    .quad idt

    .bss
    .align 4096
    .globl pml4, pdpt
pml4:
    .skip 4096
pdpt:
    .skip 4096
pd:
    .skip 4 * 4096
    .globl idt
idt:
    .skip 4096
tss:
    .skip 64 * 104
io_bitmap:
    .skip 8192 + 1
    .section .note.GNU-stack, "", @progbits
