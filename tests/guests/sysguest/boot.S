// SPDX-License-Identifier: Apache-2.0
/* Entry, changes of mode, and the ends of every snippet. A snippet is started with all registers from in[] and ends with
 * the first exception or interrupt, whose state is left in out[]. */
#include "layout.h"

#define IN(s) in + 8 * (s)
#define OUT(s) out + 8 * (s)
#define LOWAT(x) (LOW + (x) - low_start)
#define LOWOFF(x) ((x) - low_start)

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
    movl $boot_stack_end, %esp
    movl %ebx, start_info
    movl $pdpt + 7, pml4
    movl $pd + 0x0003, pdpt
    movl $pd + 0x1007, pdpt + 8 /* the first GiB for ring 3 */
    movl $pd + 0x3003, pdpt + 24
    movl $pd, %edi
    movl $0x83, %eax
    movl $2048, %ecx
1:  movl %eax, (%edi)
    addl $8, %edi
    addl $0x200000, %eax
    decl %ecx
    jnz 1b
    movl $pd + 0x1000, %edi
    movl $0x87, %eax
    movl $512, %ecx
1:  movl %eax, (%edi)
    addl $8, %edi
    addl $0x200000, %eax
    decl %ecx
    jnz 1b
    lgdtl gdt_pointer
    call long_mode
    ljmpl $CODE64, $1f
    .code64
1:  call load_segments
    call main
1:  cli
    hlt
    jmp 1b

/* Paging and long mode on; 32-bit code, clobbers eax, ecx, edx. */
    .code32
long_mode:
    movl $0x620, %eax /* PAE, OSFXSR, OSXMMEXCPT */
    movl %eax, %cr4
    movl $pml4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x900, %eax /* LME, NXE */
    wrmsr
    movl $0x80010033, %eax /* PG, WP, NE, ET, MP, PE */
    movl %eax, %cr0
    ret

    .code64
load_segments:
    movl $DATA0, %eax
    movl %eax, %ss
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %fs
    movl %eax, %gs
    ret

/* void run64(void): long mode, in[CS] says which half and ring. */
    .globl run64
run64:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, saved_rsp
    movl IN(S_DS), %eax
    movl %eax, %ds
    movl IN(S_ES), %eax
    movl %eax, %es
    pushq IN(S_SS)
    pushq IN(S_SP)
    pushq IN(S_FL)
    pushq IN(S_CS)
    pushq IN(S_IP)
    movq IN(S_AX), %rax
    movq IN(S_CX), %rcx
    movq IN(S_DX), %rdx
    movq IN(S_BX), %rbx
    movq IN(S_BP), %rbp
    movq IN(S_SI), %rsi
    movq IN(S_DI), %rdi
    movq IN(S_R8), %r8
    .globl run64_iret
run64_iret:
    iretq

/* stack: vector, error code, frame */
    .globl common64
common64:
    movq %rax, OUT(S_AX)
    pushfq
    popq %rax
    movq %rax, OUT(S_HFL)
    cld
    xorl %eax, %eax
    movw %ss, %ax
    movq %rax, OUT(S_HSS)
    leaq 56(%rsp), %rax /* where the frame began */
    movq %rax, OUT(S_HSP)
    movl %ds, %eax
    movq %rax, OUT(S_DS)
    movl %es, %eax
    movq %rax, OUT(S_ES)
    movl %fs, %eax
    movq %rax, OUT(S_FS)
    movl %gs, %eax
    movq %rax, OUT(S_GS)
    movl $DATA0, %eax
    movl %eax, %ds
    movl %eax, %es
    movq %rcx, OUT(S_CX)
    movq %rdx, OUT(S_DX)
    movq %rbx, OUT(S_BX)
    movq %rbp, OUT(S_BP)
    movq %rsi, OUT(S_SI)
    movq %rdi, OUT(S_DI)
    movq %r8, OUT(S_R8)
    popq OUT(S_VEC)
    popq OUT(S_ERR)
    popq OUT(S_IP)
    popq OUT(S_CS)
    popq OUT(S_FL)
    popq OUT(S_SP)
    popq OUT(S_SS)
    movq %cr0, %rax
    movq %rax, OUT(S_CR0)
    movq %cr2, %rax
    movq %rax, OUT(S_CR2)
    xorl %eax, %eax
    str %ax
    movq %rax, OUT(S_TR)
    xorl %eax, %eax
    sldt %ax
    movq %rax, OUT(S_LDTR)
    movq hook, %rax
    testq %rax, %rax
    jz leave64
    movq $hook_stack_end, %rsp
    call *%rax
    testl %eax, %eax
    jz leave64
    movq $hook_stack_end, %rsp
    pushq OUT(S_SS)
    pushq OUT(S_SP)
    pushq OUT(S_FL)
    pushq OUT(S_CS)
    pushq OUT(S_IP)
    movq OUT(S_AX), %rax
    movq OUT(S_CX), %rcx
    movq OUT(S_DX), %rdx
    movq OUT(S_BX), %rbx
    movq OUT(S_BP), %rbp
    movq OUT(S_SI), %rsi
    movq OUT(S_DI), %rdi
    movq OUT(S_R8), %r8
    iretq
leave64:
    movl $DATA0, %eax
    movl %eax, %ss
    movq saved_rsp, %rsp
    pushq $2
    popfq
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret

/* void run32(void): out of long mode, into protected, virtual-8086 or real mode, and back. */
    .globl run32
run32:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, saved_rsp
    movq %cr4, %rax
    movq %rax, saved_cr4
    pushq $CODE32
    pushq $1f
    lretq
    .code32
1:  movl $DATA0, %eax
    movl %eax, %ss
    movl %eax, %ds
    movl %eax, %es
    movl $hook_stack_end, %esp
    movl %cr0, %eax
    andl $0x7fffffff, %eax
    movl %eax, %cr0
    movl $0xc0000080, %ecx
    rdmsr
    andl $~0x100, %eax
    wrmsr
    movl IN(S_CR3), %eax
    movl %eax, %cr3
    movl IN(S_CR4), %eax
    movl %eax, %cr4
    cmpl $0, IN(S_HOW)
    jne to_real
    movl IN(S_CR0), %eax
    movl %eax, %cr0
    lidtl idt32_pointer
    movl IN(S_TR), %eax
    ltr %ax
    movl IN(S_LDTR), %eax
    lldt %ax
    testl $0x20000, IN(S_FL)
    jz 2f
    pushl IN(S_GS)
    pushl IN(S_FS)
    pushl IN(S_DS)
    pushl IN(S_ES)
    jmp 3f
2:  testl $3, IN(S_CS)
    jz 4f
3:  pushl IN(S_SS)
    pushl IN(S_SP)
    jmp 5f
4:  movl IN(S_SS), %eax
    movl IN(S_SP), %ebx
    movl %eax, %ss
    movl %ebx, %esp
5:  pushl %cs:IN(S_FL)
    pushl %cs:IN(S_CS)
    pushl %cs:IN(S_IP)
    testl $0x20000, %cs:IN(S_FL)
    jnz 6f
    movl %cs:IN(S_ES), %eax
    movl %eax, %es
    movl %cs:IN(S_FS), %eax
    movl %eax, %fs
    movl %cs:IN(S_GS), %eax
    movl %eax, %gs
    movl %cs:IN(S_DS), %eax
    movl %eax, %ds
6:  movl %cs:IN(S_AX), %eax
    movl %cs:IN(S_CX), %ecx
    movl %cs:IN(S_DX), %edx
    movl %cs:IN(S_BX), %ebx
    movl %cs:IN(S_BP), %ebp
    movl %cs:IN(S_SI), %esi
    movl %cs:IN(S_DI), %edi
    iretl

    .globl common32
common32:
    pushl %eax
    pushl %ds
    movl $DATA0, %eax
    movl %eax, %ds
    popl OUT(S_DS)
    popl OUT(S_AX)
    pushfl
    popl OUT(S_HFL)
    cld
    movl %ecx, OUT(S_CX)
    movl %edx, OUT(S_DX)
    movl %ebx, OUT(S_BX)
    movl %ebp, OUT(S_BP)
    movl %esi, OUT(S_SI)
    movl %edi, OUT(S_DI)
    popl OUT(S_VEC)
    popl OUT(S_ERR)
    popl OUT(S_IP)
    popl OUT(S_CS)
    popl OUT(S_FL)
    movl %esp, OUT(S_SP)
    movl %esp, OUT(S_HSP)
    movl %ss, %eax
    movl %eax, OUT(S_SS)
    movl %eax, OUT(S_HSS)
    movl %es, %eax
    movl %eax, OUT(S_ES)
    movl %fs, %eax
    movl %eax, OUT(S_FS)
    movl %gs, %eax
    movl %eax, OUT(S_GS)
    testl $0x20000, OUT(S_FL)
    jnz 1f
    testl $3, OUT(S_CS)
    jz leave32
1:  popl OUT(S_SP)
    popl OUT(S_SS)
    movl %esp, OUT(S_HSP)
    testl $0x20000, OUT(S_FL)
    jz leave32
    popl OUT(S_ES)
    popl OUT(S_DS)
    popl OUT(S_FS)
    popl OUT(S_GS)
    movl %esp, OUT(S_HSP)
leave32:
    xorl %eax, %eax
    str %ax
    movl %eax, OUT(S_TR)
    xorl %eax, %eax
    sldt %ax
    movl %eax, OUT(S_LDTR)
    movl %cr0, %eax
    movl %eax, OUT(S_CR0)
    movl %cr2, %eax
    movl %eax, OUT(S_CR2)
    movl %cr3, %eax
    movl %eax, OUT(S_CR3)
    clts
back_to_long:
    movl $DATA0, %eax
    movl %eax, %ss
    movl %eax, %es
    movl $hook_stack_end, %esp
    movl %cr0, %eax
    andl $0x7fffffff, %eax
    movl %eax, %cr0
    call long_mode
    ljmpl $CODE64, $1f
    .code64
1:  movq saved_cr4, %rax
    movq %rax, %cr4
    call load_segments
    lidt idt_pointer
    andb $~2, gdt + TSS64 + 5
    movl $TSS64, %eax
    ltr %ax
    xorl %eax, %eax
    lldt %ax
    jmp leave64

    .code32
to_real:
    lidtl ivt_pointer
    cmpl $2, IN(S_HOW)
    je 1f
    movl $DATA16, %eax
    movl %eax, %ss
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %fs
    movl %eax, %gs
    jmp 2f
1:  movl $DATA0, %eax
    movl %eax, %fs
    movl %eax, %gs
    movl $DATA16, %eax
    movl %eax, %ss
2:  ljmpl $CODE16, $LOWAT(real16)
back_from_real:
    movl $DATA0, %eax
    movl %eax, %ss
    movl %eax, %ds
    movl %eax, %es
    jmp back_to_long

    .section .low16.first, "awx"
    .code16
    .globl low_start, low_in, low_out
low_start:
/* The other processor begins here. */
    cli
    movl %eax, %cs:LOWOFF(ap_ax)
    movl %cr0, %eax
    movl %eax, %cs:LOWOFF(ap_cr0)
    pushfl /* SS:SP are 0 after INIT: at the top of the first 64 KiB */
    popl %cs:LOWOFF(ap_fl)
    movw %cs, %cs:LOWOFF(ap_cs)
    movw %ds, %cs:LOWOFF(ap_ds)
    lgdtl %cs:LOWOFF(low_gdt)
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $CODE32, $ap32

real16:
    movl %cr0, %eax
    andl $~1, %eax
    movl %eax, %cr0
    ljmpw $LOW_SEG, $LOWOFF(1f)
1:  cmpl $2, %cs:LOWOFF(low_in) + 8 * S_HOW
    je 2f
    movw %cs:LOWOFF(low_in) + 8 * S_DS, %ds
    movw %cs:LOWOFF(low_in) + 8 * S_ES, %es
    movw %cs:LOWOFF(low_in) + 8 * S_FS, %fs
    movw %cs:LOWOFF(low_in) + 8 * S_GS, %gs
2:  movw %cs:LOWOFF(low_in) + 8 * S_SS, %ss
    movl %cs:LOWOFF(low_in) + 8 * S_SP, %esp
    pushw %cs:LOWOFF(low_in) + 8 * S_FL
    pushw %cs:LOWOFF(low_in) + 8 * S_CS
    pushw %cs:LOWOFF(low_in) + 8 * S_IP
    movl %cs:LOWOFF(low_in) + 8 * S_AX, %eax
    movl %cs:LOWOFF(low_in) + 8 * S_CX, %ecx
    movl %cs:LOWOFF(low_in) + 8 * S_DX, %edx
    movl %cs:LOWOFF(low_in) + 8 * S_BX, %ebx
    movl %cs:LOWOFF(low_in) + 8 * S_BP, %ebp
    movl %cs:LOWOFF(low_in) + 8 * S_SI, %esi
    movl %cs:LOWOFF(low_in) + 8 * S_DI, %edi
    iretw

    .altmacro
    .macro stub16 n
    .globl real_\n
real_\n:
    pushw $\n
    jmp common16
    .endm
    .globl real_stubs
    .balign 8
real_stubs:
    .set n, 0
    .rept 0x30
    .balign 8
    stub16 %n
    .set n, n + 1
    .endr
common16:
    popw %cs:LOWOFF(low_out) + 8 * S_VEC
    popw %cs:LOWOFF(low_out) + 8 * S_IP
    popw %cs:LOWOFF(low_out) + 8 * S_CS
    popw %cs:LOWOFF(low_out) + 8 * S_FL
    movl %eax, %cs:LOWOFF(low_out) + 8 * S_AX
    movl %ecx, %cs:LOWOFF(low_out) + 8 * S_CX
    movl %edx, %cs:LOWOFF(low_out) + 8 * S_DX
    movl %ebx, %cs:LOWOFF(low_out) + 8 * S_BX
    movl %esp, %cs:LOWOFF(low_out) + 8 * S_SP
    movl %ebp, %cs:LOWOFF(low_out) + 8 * S_BP
    movl %esi, %cs:LOWOFF(low_out) + 8 * S_SI
    movl %edi, %cs:LOWOFF(low_out) + 8 * S_DI
    movw %ss, %cs:LOWOFF(low_out) + 8 * S_SS
    movw %ds, %cs:LOWOFF(low_out) + 8 * S_DS
    movw %es, %cs:LOWOFF(low_out) + 8 * S_ES
    pushfw
    popw %cs:LOWOFF(low_out) + 8 * S_HFL
    cld
    movl %cr0, %eax
    movl %eax, %cs:LOWOFF(low_out) + 8 * S_CR0
    lgdtl %cs:LOWOFF(low_gdt)
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $CODE32, $back_from_real
    .align 8
low_in:
    .skip 8 * S_COUNT
low_out:
    .skip 8 * S_COUNT
    .globl ap_ax, ap_cr0, ap_fl, ap_cs, ap_ds
ap_ax:
    .long 0
ap_cr0:
    .long 0
ap_fl:
    .long 0
ap_cs:
    .word 0
ap_ds:
    .word 0
low_gdt:
    .word TEST + 8 * TEST_COUNT - 1
    .long gdt
    .balign 16

    .text
    .code32
ap32:
    movl $DATA0, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl $ap_stack_end, %esp
    call long_mode
    ljmpl $CODE64, $1f
    .code64
1:  call load_segments
    lidt idt_pointer
    andb $~2, gdt + TSS64_AP + 5
    movl $TSS64_AP, %eax
    ltr %ax
    call ap_main
1:  cli
    hlt
    jmp 1b

/* Interrupts from 0x30 on, and those that a test wants like that. */
irq_common:
    pushq %rax
    pushq %rcx
    pushq %rdx
    pushq %rsi
    pushq %rdi
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    cld
    movq 72(%rsp), %rdi
    leaq 80(%rsp), %rsi
    call irq
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    popq %rdi
    popq %rsi
    popq %rdx
    popq %rcx
    popq %rax
    addq $8, %rsp
    iretq

    .macro stub64 n
    .if !(\n == 8 || (\n >= 10 && \n <= 14) || \n == 17 || \n == 21)
    pushq $0
    .endif
    pushq $\n
    jmp common64
    .endm
    .balign 16
    .globl stubs64, stubs32, stubs_irq
stubs64:
    .set n, 0
    .rept 0x30
    .balign 16
    stub64 %n
    .set n, n + 1
    .endr
    .balign 16
stubs_irq:
    .set n, 0
    .rept 0x100
    .balign 16
    pushq $n
    jmp irq_common
    .set n, n + 1
    .endr
    .code32
    .macro stub32 n
    .if !(\n == 8 || (\n >= 10 && \n <= 14) || \n == 17 || \n == 21)
    pushl $0
    .endif
    pushl $\n
    jmp common32
    .endm
    .balign 16
stubs32:
    .set n, 0
    .rept 0x30
    .balign 16
    stub32 %n
    .set n, n + 1
    .endr

    .data
    .align 16
    .globl idt_pointer, idt32_pointer
gdt_pointer:
    .word TEST + 8 * TEST_COUNT - 1
    .quad gdt
idt_pointer:
    .word 4095
    .quad idt
idt32_pointer:
    .word 0x30 * 8 - 1
    .long idt32
ivt_pointer:
    .word 0x3ff
    .long 0
    .align 8
    .globl hook, in, out, gdt
hook:
    .quad 0
saved_rsp:
    .quad 0
saved_cr4:
    .quad 0
    .align 16
gdt:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
    .quad 0x00cf9b000000ffff
    .quad 0x00cffb000000ffff
    .quad 0x00cff3000000ffff
    .quad 0x00affb000000ffff
    .quad 0x00009b000000ffff
    .quad 0x000093000000ffff
    .fill (TEST - 0x48) / 8 + TEST_COUNT, 8, 0

    .bss
    .align 4096
    .globl pml4, pdpt, pd, idt, idt32
pml4:
    .skip 4096
pdpt:
    .skip 4096
pd:
    .skip 4 * 4096
idt:
    .skip 4096
idt32:
    .skip 4096
in:
    .skip 8 * S_COUNT
out:
    .skip 8 * S_COUNT
    .align 16
    .skip 8192
    .globl boot_stack_end
boot_stack_end:
    .skip 4096
hook_stack_end:
    .skip 8192
    .globl ap_stack_end
ap_stack_end:
    .section .note.GNU-stack, "", @progbits
