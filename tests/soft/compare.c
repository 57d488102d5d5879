// SPDX-License-Identifier: Apache-2.0
/* What counts as equal. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "tests/soft/diff.h"

struct diff_options diff_options;

static const char *const names[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                      "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};

struct text {
    char *p;
    size_t left;
    unsigned found;
};

static __attribute__((format(printf, 2, 3))) void say(struct text *t, const char *format, ...)
{
    va_list ap;
    int n;
    t->found++;
    if (t->left < 2)
        return;
    va_start(ap, format);
    n = vsnprintf(t->p, t->left, format, ap);
    va_end(ap);
    n = n < (int)t->left ? n : (int)t->left - 1;
    t->p += n;
    t->left -= (size_t)n;
}

static void compare_vector(struct text *t, const struct diff_state *want, const struct diff_state *got)
{
    if (want->vector != got->vector) {
        say(t, "  exception %u, engine %u\n", want->vector, got->vector);
        return;
    }
    if (want->vector != 14)
        return;
    /* Linux hides what is mapped in its own half: there the P bit is always set. */
    uint32_t mask = want->cr2 >> 47 ? ~1u : ~0u;
    if ((want->error & mask) != (got->error & mask))
        say(t, "  #PF error %x, engine %x\n", want->error, got->error);
    if (want->cr2 != got->cr2)
        say(t, "  cr2 %llx, engine %llx\n", (unsigned long long)want->cr2, (unsigned long long)got->cr2);
}

static void compare_bytes(struct text *t, const char *what, unsigned n, const uint8_t *want,
                          const uint8_t *got, unsigned bytes)
{
    if (!memcmp(want, got, bytes))
        return;
    say(t, "  %s%u ", what, n);
    for (unsigned i = bytes; i--;)
        say(t, "%02x", want[i]);
    say(t, ", engine ");
    for (unsigned i = bytes; i--;)
        say(t, "%02x", got[i]);
    say(t, "\n");
}

static void compare_fpu(struct text *t, const uint8_t *w, const uint8_t *g)
{
    if (!memcmp(w, g, 6) && !memcmp(w + 24, g + 24, 4) && !memcmp(w + 32, g + 32, 384) &&
        !memcmp(w + 576, g + 576, 256) && !diff_options.x87_pointers)
        return;
    compare_bytes(t, "fcw", 0, w, g, 2);
    compare_bytes(t, "fsw", 0, w + 2, g + 2, 2);
    compare_bytes(t, "ftw", 0, w + 4, g + 4, 1);
    if (diff_options.x87_pointers) {
        compare_bytes(t, "fop", 0, w + 6, g + 6, 2);
        compare_bytes(t, "fip", 0, w + 8, g + 8, 8);
        compare_bytes(t, "fdp", 0, w + 16, g + 16, 8);
    }
    compare_bytes(t, "mxcsr", 0, w + 24, g + 24, 4);
    for (unsigned i = 0; i < 8; i++)
        compare_bytes(t, "st", i, w + 32 + 16 * i, g + 32 + 16 * i, 10);
    for (unsigned i = 0; i < 16; i++) {
        compare_bytes(t, "xmm", i, w + 160 + 16 * i, g + 160 + 16 * i, 16);
        compare_bytes(t, "ymm upper ", i, w + 576 + 16 * i, g + 576 + 16 * i, 16);
    }
}

bool diff_compare(const struct diff_state *want, const uint8_t *want_mem, const struct diff_state *got,
                  const uint8_t *got_mem, unsigned undefined, char *text, size_t bytes)
{
    struct text t = {text, bytes, 0};
    uint64_t flags = 0x244c00u | SOFT_ARITH;
    text[0] = 0;
    if (!diff_options.strict_flags)
        flags &= ~(uint64_t)undefined;
    compare_vector(&t, want, got);
    for (unsigned i = 0; i < 16; i++)
        if (want->gpr[i] != got->gpr[i])
            say(&t, "  %s %llx, engine %llx\n", names[i], (unsigned long long)want->gpr[i],
                (unsigned long long)got->gpr[i]);
    if (want->rip != got->rip)
        say(&t, "  rip %llx, engine %llx\n", (unsigned long long)want->rip, (unsigned long long)got->rip);
    if ((want->rflags ^ got->rflags) & flags)
        say(&t, "  flags %llx, engine %llx, compared %llx\n", (unsigned long long)want->rflags,
            (unsigned long long)got->rflags, (unsigned long long)flags);
    compare_fpu(&t, want->xsave, got->xsave);
    if (memcmp(want_mem, got_mem, DIFF_DATA_BYTES))
        for (unsigned i = 0; i < DIFF_DATA_BYTES; i += 8)
            if (memcmp(want_mem + i, got_mem + i, 8))
                compare_bytes(&t, "memory ", i, want_mem + i, got_mem + i, 8);
    return !t.found;
}

void diff_print_state(const char *title, const struct diff_state *s)
{
    printf("%s\n", title);
    for (unsigned i = 0; i < 16; i++)
        printf("  %-3s %016llx%s", names[i], (unsigned long long)s->gpr[i], i % 4 == 3 ? "\n" : "");
    printf("  rip %llx rflags %llx mxcsr %02x%02x fcw %02x%02x fsw %02x%02x ftw %02x\n",
           (unsigned long long)s->rip, (unsigned long long)s->rflags, s->xsave[25], s->xsave[24], s->xsave[1],
           s->xsave[0], s->xsave[3], s->xsave[2], s->xsave[4]);
}

void diff_print_tolerances(void)
{
    printf(
        "tolerances:\n"
        "  arithmetic flags that a row names as undefined: %s\n"
        "  x87 last opcode, instruction and data pointers: %s\n"
        "  arithmetic flags at a fault inside REP CMPS, REP SCAS: not compared (Intel keeps those from "
        "before, AMD does not)\n"
        "  not generated: 66 before near branches and MOVSXD, SHLD and SHRD of 16 bits by more than 16, "
        "VPERMQ and VPERMPD with W0, VPEXTRD and VPINSRD with W1 outside 64-bit mode (AMD and Intel differ)\n"
        "  which operand of CMPS faults first: not compared (differs from case to case on Zen 4)\n"
        "  which byte of an x87 instruction's memory operand faults: not compared inside a page (AMD names "
        "the "
        "last of FNSAVE's)\n"
        "  LDMXCSR of a value with bit 17 (AMD's misaligned mode, offered by no model): #GP expected\n"
        "  a stream that differs is run once more: the host's kernel loses x87 selectors when it switches\n"
        "  registers after a fault in POPA: not compared (processors keep what they have popped)\n"
        "  #PF's P bit for addresses of the kernel's half: not compared (Linux hides it)\n",
        diff_options.strict_flags ? "compared" : "not compared, nor read by what follows",
        diff_options.x87_pointers ? "compared" : "not compared");
}
