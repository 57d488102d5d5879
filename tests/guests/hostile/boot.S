/* SPDX-License-Identifier: Apache-2.0 */
/* PVH entry (32-bit, paging off, ebx: hvm_start_info) to 64-bit code with the first 4 GiB mapped one to one, but for this image:
 * it moves to HIGH, RAM above 4 GiB, and stays where it was by its addresses. Stray descriptors are mostly small numbers and
 * would hit it below 4 GiB once in some minutes. */
    .set HERE, 0x18000000
    .set IMAGE_BYTES, 0x10000
    .set HIGH, 0x115a00000

    .section .note, "a", @note
    .long 4, 4, 18
    .asciz "Xen"
    .long start32

    .section .text
    .code32
    .globl start32
start32:
    cli
    mov     $stack_end, %esp
    mov     %ebx, %ebp
    /* tables: PML4, PDPT, four directories of 2 MiB pages */
    mov     $pdpt + 3, %eax
    mov     %eax, pml4
    mov     $pd + 3, %eax
    mov     $pdpt, %edi
    mov     $4, %ecx
1:  mov     %eax, (%edi)
    add     $4096, %eax
    add     $8, %edi
    loop    1b
    mov     $0x83, %eax
    mov     $pd, %edi
    mov     $2048, %ecx
2:  mov     %eax, (%edi)
    add     $0x200000, %eax
    add     $8, %edi
    loop    2b
    mov     $pml4, %eax
    mov     %eax, %cr3
    mov     %cr4, %eax
    or      $0x20, %eax
    mov     %eax, %cr4
    mov     $0xc0000080, %ecx
    rdmsr
    or      $0x100, %eax
    wrmsr
    mov     %cr0, %eax
    or      $0x80000001, %eax
    mov     %eax, %cr0
    lgdt    gdt_pointer
    ljmp    $0x08, $start64

    .code64
start64:
    mov     $0x10, %eax
    mov     %eax, %ds
    mov     %eax, %es
    mov     %eax, %ss
    /* HIGH is seen at the next 2 MiB; the copy's tables lead to the copy. */
    mov     $HIGH + 0x83, %rax
    mov     %rax, pd + 8 * (HERE / 0x200000 + 1)
    mov     $HERE, %esi
    mov     $HERE + 0x200000, %edi
    mov     $IMAGE_BYTES / 8, %ecx
    rep movsq
    mov     %rax, pd + 8 * (HERE / 0x200000) + 0x200000
    movq    $HERE + 0x200083, pd + 8 * (HERE / 0x200000 + 1) + 0x200000
    mov     $HIGH - HERE, %rax
    add     %rax, pml4 + 0x200000
    mov     $4, %ecx
4:  add     %rax, pdpt - 8 + 0x200000(, %rcx, 8)
    loop    4b
    add     $pml4, %rax
    mov     %rax, %cr3
    mov     %ebp, %edi
    call    main
3:  hlt
    jmp     3b

    .section .data
    .balign 8
gdt:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
gdt_pointer:
    .word . - gdt - 1
    .quad gdt

    .section .bss
    .balign 4096
pml4: .skip 4096
pdpt: .skip 4096
pd:   .skip 4 * 4096
    .skip 16384
stack_end:
