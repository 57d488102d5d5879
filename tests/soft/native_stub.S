/* SPDX-License-Identifier: Apache-2.0 */
/* Copied to DIFF_EXIT in the child. Position-independent but for what native.c patches. struct diff_state:
 * gpr at 0, rflags 128, rip 136, host_rsp 144, use_xsave 152, target 184, xsave 192. */
    .section .rodata
    .global diff_stub_start, diff_stub_state1, diff_stub_state2, diff_stub_enter, diff_stub_leave, diff_stub_end
    .global diff_stub_target, diff_stub_enter32
diff_stub_start:
    .byte 0x48, 0xa3 /* movabs %rax, state->gpr[0] */
diff_stub_state1:
    .quad 0
    .byte 0x48, 0xb8 /* movabs $state, %rax */
diff_stub_state2:
    .quad 0
    mov %rcx, 8(%rax)
    mov %rdx, 16(%rax)
    mov %rbx, 24(%rax)
    mov %rsp, 32(%rax)
    mov %rbp, 40(%rax)
    mov %rsi, 48(%rax)
    mov %rdi, 56(%rax)
    mov %r8, 64(%rax)
    mov %r9, 72(%rax)
    mov %r10, 80(%rax)
    mov %r11, 88(%rax)
    mov %r12, 96(%rax)
    mov %r13, 104(%rax)
    mov %r14, 112(%rax)
    mov %r15, 120(%rax)
    mov 144(%rax), %rsp
    pushfq
    popq 128(%rax)
    pushq $0x202
    popfq
    mov %rax, %rbx
    cmpq $0, 152(%rbx)
    je 1f
    mov $7, %eax
    xor %edx, %edx
    xsave64 192(%rbx)
    jmp 2f
1:  fxsave64 192(%rbx)
2:  jmp diff_stub_leave

/* void enter(struct diff_state *); rip has the code segment in bits 32..47 for enter32 */
.macro ENTER
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, 144(%rdi)
    mov %rdi, %rbx
    cmpq $0, 152(%rbx)
    je 1f
    mov $7, %eax
    xor %edx, %edx
    xrstor64 192(%rbx)
    jmp 2f
1:  fxrstor64 192(%rbx)
2:  mov 136(%rbx), %rax
    mov 184(%rbx), %rcx
    mov %rax, (%rcx)
    mov %rbx, %rax
    pushq 128(%rax)
    popfq
    mov 8(%rax), %rcx
    mov 16(%rax), %rdx
    mov 24(%rax), %rbx
    mov 32(%rax), %rsp
    mov 40(%rax), %rbp
    mov 48(%rax), %rsi
    mov 56(%rax), %rdi
    mov 64(%rax), %r8
    mov 72(%rax), %r9
    mov 80(%rax), %r10
    mov 88(%rax), %r11
    mov 96(%rax), %r12
    mov 104(%rax), %r13
    mov 112(%rax), %r14
    mov 120(%rax), %r15
    mov (%rax), %rax
.endm
diff_stub_enter:
    ENTER
    jmp *diff_stub_target(%rip)
diff_stub_enter32:
    mov $0x2b, %eax
    mov %eax, %ds
    mov %eax, %es
    ENTER
    ljmp *diff_stub_target(%rip)

/* Signals come here: rsp is the child's own again. */
diff_stub_leave:
    cld
    fninit
    pushq $0x1f80
    ldmxcsr (%rsp)
    pop %rax
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    ret
    .balign 8
diff_stub_target:
    .quad 0
diff_stub_end:
    .section .note.GNU-stack, "", @progbits
