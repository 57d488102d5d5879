// SPDX-License-Identifier: Apache-2.0
/* Which rows of the opcode table are generated, and why the others are not. */
#include <stdio.h>
#include <string.h>

#include "tests/soft/diff.h"

struct diff_row diff_rows[4096];
uint64_t diff_features;
bool diff_32;

static bool has(const char *flags, const char *name)
{
    size_t n = strlen(name);
    for (const char *p = strstr(flags, name); p; p = strstr(p + n, name))
        if (p[-1] == ' ' && (p[n] == ' ' || p[n] == '\n'))
            return true;
    return false;
}

/* As the kernel names them in /proc/cpuinfo; NULL: always there. "-": not tested. */
static const char *const names[SOFT_F_COUNT] = {
    [SOFT_F_LONG] = "lm",
    [SOFT_F_FPU] = "fpu",
    [SOFT_F_MMX] = "mmx",
    [SOFT_F_SSE] = "sse",
    [SOFT_F_SSE2] = "sse2",
    [SOFT_F_SSE3] = "pni",
    [SOFT_F_SSSE3] = "ssse3",
    [SOFT_F_SSE41] = "sse4_1",
    [SOFT_F_SSE42] = "sse4_2",
    [SOFT_F_AES] = "aes",
    [SOFT_F_PCLMUL] = "pclmulqdq",
    [SOFT_F_POPCNT] = "popcnt",
    [SOFT_F_MOVBE] = "movbe",
    [SOFT_F_FSGSBASE] = "fsgsbase",
    [SOFT_F_RDRAND] = "rdrand",
    [SOFT_F_RDSEED] = "rdseed",
    [SOFT_F_XSAVE] = "xsave",
    [SOFT_F_XSAVEOPT] = "xsaveopt",
    [SOFT_F_XSAVEC] = "xsavec",
    [SOFT_F_BMI1] = "bmi1",
    [SOFT_F_BMI2] = "bmi2",
    [SOFT_F_ADX] = "adx",
    [SOFT_F_AVX] = "avx",
    [SOFT_F_AVX2] = "avx2",
    [SOFT_F_FMA] = "fma",
    [SOFT_F_F16C] = "f16c",
    [SOFT_F_LZCNT] = "abm",
    [SOFT_F_CX8] = "cx8",
    [SOFT_F_CX16] = "cx16",
    [SOFT_F_CMOV] = "cmov",
    [SOFT_F_LAHF64] = "lahf_lm",
    [SOFT_F_SYSCALL] = "syscall",
    [SOFT_F_SEP] = "sep",
    [SOFT_F_RDTSCP] = "rdtscp",
    [SOFT_F_CLFLUSH] = "clflush",
    [SOFT_F_CLFLUSHOPT] = "clflushopt",
    [SOFT_F_CLWB] = "clwb",
    [SOFT_F_SMAP] = "smap",
    [SOFT_F_INVPCID] = "invpcid",
    [SOFT_F_RDPID] = "rdpid",
    [SOFT_F_FXSR] = "fxsr",
    [SOFT_F_TSC] = "tsc",
    [SOFT_F_MSR] = "msr",
    [SOFT_F_PREFETCHW] = "3dnowprefetch",
    [SOFT_F_3DNOWPREFETCH] = "3dnowprefetch",
};

static void find_features(void)
{
    static char line[8192];
    FILE *f = fopen("/proc/cpuinfo", "r");
    while (f && fgets(line, sizeof line, f))
        if (!strncmp(line, "flags", 5))
            break;
    if (f)
        fclose(f);
    for (unsigned i = 0; i < SOFT_F_COUNT; i++)
        if (!names[i] || has(line, names[i]))
            diff_features |= 1ull << i;
}

/* By mnemonic; a name that ends in * is a prefix. */
static const struct {
    const char *name, *why;
} never[] = {
    {"int", "enters the kernel"},
    {"int1", "enters the kernel"},
    {"int3", "enters the kernel"},
    {"into", "enters the kernel"},
    {"iret", "far transfer"},
    {"iretq", "far transfer"},
    {"jmp_far", "far transfer"},
    {"call_far", "far transfer"},
    {"ret_far*", "far transfer"},
    {"mov_to_sreg", "loads a segment register"},
    {"pop_sreg", "loads a segment register"},
    {"les", "loads a segment register"},
    {"lds", "loads a segment register"},
    {"lss", "loads a segment register"},
    {"lfs", "loads a segment register"},
    {"lgs", "loads a segment register"},
    {"wrfsbase", "the child's own TLS"},
    {"rdfsbase", "the child's own TLS"},
    {"wrgsbase", "moves GS, which the child cannot put back"},
    {"rdgsbase", "with the above"},
    {"sgdt", "the host's tables"},
    {"sidt", "the host's tables"},
    {"sldt", "the host's tables"},
    {"str", "the host's tables"},
    {"smsw", "the host's CR0"},
    {"lar", "the host's tables"},
    {"lsl", "the host's tables"},
    {"verr", "the host's tables"},
    {"verw", "the host's tables"},
    {"xgetbv", "the host's XCR0"},
    {"in_imm", "needs the TSS's I/O map"},
    {"in_dx", "needs the TSS's I/O map"},
    {"out_imm", "needs the TSS's I/O map"},
    {"out_dx", "needs the TSS's I/O map"},
    {"ins", "needs the TSS's I/O map"},
    {"outs", "needs the TSS's I/O map"},
    {"monitor", "host's own"},
    {"mwait", "host's own"},
    {"xrstor*", "a random header is #GP; a valid one is not generated"},
    {"fxrstor*", "reserved MXCSR bits: random images are #GP"},
    {"xsave*", "the host's own components and MXCSR mask"},
    {"fxsave*", "the host's own MXCSR mask"},
};

static const char *reason(const struct soft_row *r, unsigned class, unsigned classes, const char *only)
{
    if (only && strcmp(r->name, only))
        return "not asked for";
    if (!(class & classes))
        return "not asked for";
    if (r->flags & (diff_32 ? SOFT_R_ONLY64 : SOFT_R_NO64))
        return diff_32 ? "only in 64-bit mode" : "not in 64-bit mode";
    if (diff_32 && ((r->map < SOFT_V0F && r->vex_w == 1) ||
                    (r->map == SOFT_M1 && r->opcode == 0x90 && r->name[0] == 'x')))
        return "needs REX";
    if (r->flags & SOFT_R_PRIV)
        return "privileged";
    if (r->flags & SOFT_R_NODIFF)
        return "results are the machine's own (optable.def)";
    if (!(diff_features >> r->feature & 1))
        return "the host does not have it";
    if (!r->handler)
        return "no handler yet";
    if (r->map == SOFT_M0F && r->opcode == 0x0d && r->mod == 2)
        return "AMD: #UD, Intel: NOP";
    if (r->map == SOFT_V0F3A && r->vex_w == 1 && r->flags & SOFT_R_NO64)
        return "VEX.W outside 64-bit mode: AMD: #UD, Intel: ignored";
    for (unsigned i = 0; i < sizeof never / sizeof *never; i++) {
        size_t n = strlen(never[i].name);
        bool prefix = never[i].name[n - 1] == '*';
        if (prefix ? !strncmp(r->name, never[i].name, n - 1) : !strcmp(r->name, never[i].name))
            return never[i].why;
    }
    return NULL;
}

unsigned diff_rows_init(unsigned classes, const char *only)
{
    unsigned left = 0;
    find_features();
    for (unsigned i = 0; i < soft_row_count; i++) {
        const struct soft_row *r = &soft_rows[i];
        unsigned class = r->flags & SOFT_R_X87 ? DIFF_X87 : r->flags & SOFT_R_SIMD ? DIFF_SIMD : DIFF_INT;
        diff_rows[i].skip = reason(r, class, classes, only);
        left += !diff_rows[i].skip;
    }
    return left;
}
