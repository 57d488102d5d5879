// SPDX-License-Identifier: Apache-2.0
/* A guest of test_soft_icount: 32-bit, flat, entered without paging at 1 MiB. It looks at everything that could differ between a run
 * that was stopped and one that was not: TSC, PIT, RDRAND, timer interrupts by the count, HLT, REP, accessed and dirty bits that it
 * clears without telling the TLB. What it sees is mixed into the word at HASH. */
#define HASH    0x20000
#define TICKS   0x20004
#define TURNS   0x20008
#define PD      0x10000
#define PT      0x11000
#define PT_APIC 0x12000
#define IDT     0x13000
#define GDT     0x14000
#define PAGE    0x30000
#define STACK   0x40000
#define APIC    0xfee00000
    .section .rodata
    .code32
    .globl icount_guest, icount_guest_end
icount_guest:
    movl $STACK, %esp
    /* 4 KiB pages for the first 4 MiB and the LAPIC's page */
    xorl %ecx, %ecx
1:  movl %ecx, %eax
    shll $12, %eax
    orl $3, %eax
    movl %eax, PT(, %ecx, 4)
    incl %ecx
    cmpl $1024, %ecx
    jb 1b
    movl $(PT + 3), PD
    movl $(PT_APIC + 3), PD + 0x3fb * 4
    movl $(APIC + 3), PT_APIC + 0x200 * 4
    movl $0x0000ffff, GDT + 0x10
    movl $0x00cf9b00, GDT + 0x14
    movl $0x0000ffff, GDT + 0x18
    movl $0x00cf9300, GDT + 0x1c
    pushl $GDT
    pushw $0x1f
    lgdtl (%esp)
    movl $(0x100000 + handler - icount_guest), %eax
    movl %eax, %ebx
    andl $0xffff, %eax
    orl $0x100000, %eax
    movl %eax, IDT + 0x40 * 8
    andl $0xffff0000, %ebx
    orl $0x8e00, %ebx
    movl %ebx, IDT + 0x40 * 8 + 4
    pushl $IDT
    pushw $0x3ff
    lidtl (%esp)
    movl $PD, %eax
    movl %eax, %cr3
    movl %cr0, %eax
    orl $0x80010000, %eax
    movl %eax, %cr0
    /* A periodic timer of 20 us, and the PIT's channel 0 at its slowest */
    movl $0x1ff, APIC + 0xf0
    movl $0x3, APIC + 0x3e0 /* its clock by 16 */
    movl $0x20040, APIC + 0x320
    movl $1251, APIC + 0x380
    movb $0x34, %al
    outb %al, $0x43
    xorl %eax, %eax
    outb %al, $0x40
    outb %al, $0x40
    sti
turn:
    rdtsc
    call mix
    rdrand %eax
    call mix
    xorl %eax, %eax
    outb %al, $0x43
    inb $0x40, %al
    call mix
    inb $0x40, %al
    call mix
    movl APIC + 0x390, %eax
    call mix
    /* Each iteration at its own time */
    movl $0x40, %edx
    movl $(PAGE + 0x800), %edi
    movl $6, %ecx
    rep insb
    movl PAGE + 0x800, %eax
    call mix
    movl PAGE + 0x802, %eax
    call mix
    /* The page's A and D bits go without INVLPG; then what a read and a string of stores make of them. */
    andl $~0x60, PT + PAGE / 4096 * 4
    movl PAGE, %eax
    call mix
    movl PT + PAGE / 4096 * 4, %eax
    call mix
    movl HASH, %eax
    movl $PAGE, %edi
    movl $37, %ecx
    rep stosl
    movl PT + PAGE / 4096 * 4, %eax
    call mix
    /* And those of the page of this code. */
    andl $~0x60, PT + 0x100 * 4
    movl PT + 0x100 * 4, %eax
    call mix
    incl TURNS
    testl $7, TURNS
    jnz turn
    cli
    sti
    hlt
    jmp turn
mix:
    pushfl
    roll $5, HASH
    xorl %eax, HASH
    popfl
    ret
handler:
    pushl %eax
    incl TICKS
    rdtsc
    call mix
    movl 4(%esp), %eax
    call mix
    movl $0, APIC + 0xb0
    popl %eax
    iretl
icount_guest_end:
    .section .note.GNU-stack, "", @progbits
