// SPDX-License-Identifier: Apache-2.0
#include "hv/cpu/features.h"

/* Sources: Intel SDM volume 2A, CPUID; AMD APM volume 3, appendix E; Linux
 * Documentation/virt/kvm/x86/cpuid.rst. */
enum { W1C, W1D, W7B, W7C, W7D, W71A, WD1, W81C, W81D, W87D, W88B, WKVM };

#define BIT(n) (1u << (n))

const struct fy_feature_word fy_feature_words[] = {
    /* never: DTES64, MONITOR, DS-CPL, VMX, SMX, EST, TM2, SDBG, PDCM, DCA; volatile: OSXSAVE */
    [W1C] = {1, 0, FY_ECX, "1.ECX",
             BIT(2) | BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(7) | BIT(8) | BIT(11) | BIT(15) | BIT(18),
             BIT(27)},
    /* never: PSN, DS, ACPI, TM, PBE; volatile: APIC (follows its enable bit), HTT */
    [W1D] = {1, 0, FY_EDX, "1.EDX", BIT(18) | BIT(21) | BIT(22) | BIT(29) | BIT(31), BIT(28)},
    /* never: SGX, PQM, MPX, PQE, Intel PT */
    [W7B] = {7, 0, FY_EBX, "7.EBX", BIT(2) | BIT(12) | BIT(14) | BIT(15) | BIT(25), 0},
    /* never: WAITPKG, CET_SS, TME, SGX_LC, key locker; volatile: OSPKE */
    [W7C] = {7, 0, FY_ECX, "7.ECX", BIT(5) | BIT(7) | BIT(13) | BIT(23) | BIT(30), BIT(4)},
    /* never: SGX keys, hybrid, PCONFIG, arch LBR, CET_IBT, AMX, ARCH_CAPABILITIES, CORE_CAPABILITIES */
    [W7D] = {7, 0, FY_EDX, "7.EDX",
             BIT(1) | BIT(15) | BIT(18) | BIT(19) | BIT(20) | BIT(22) | BIT(24) | BIT(25) | BIT(29) | BIT(30),
             0},
    /* never: AMX-FP16, HRESET, LAM, FRED, LKGS, WRMSRNS */
    [W71A] = {7, 1, FY_EAX, "7.1.EAX", BIT(17) | BIT(18) | BIT(19) | BIT(21) | BIT(22) | BIT(26), 0},
    /* never: XSAVES, XFD: supervisor components do not travel yet */
    [WD1] = {0xd, 1, FY_EAX, "0xD.1.EAX", BIT(3) | BIT(4), 0},
    /* never: SVM, extended APIC space, OSVW, IBS, SKINIT, WDT, LWP, node ids, topology extensions, counters,
     * MWAITX; volatile: CMP legacy */
    [W81C] = {0x80000001u, 0, FY_ECX, "0x80000001.ECX",
              BIT(2) | BIT(3) | BIT(9) | BIT(10) | BIT(12) | BIT(13) | BIT(15) | BIT(19) | BIT(22) | BIT(23) |
                  BIT(24) | BIT(26) | BIT(27) | BIT(28) | BIT(29) | BIT(30),
              BIT(1)},
    [W81D] = {0x80000001u, 0, FY_EDX, "0x80000001.EDX", 0, 0},
    [W87D] = {0x80000007u, 0, FY_EDX, "0x80000007.EDX", ~BIT(8), 0},
    [W88B] = {0x80000008u, 0, FY_EBX, "0x80000008.EBX", BIT(3) | BIT(6) | BIT(25) | BIT(26), 0},
    /* never: async page faults (bits 4, 10, 14), PV EOI (6), poll control (12), migration control (17) */
    [WKVM] = {0x40000001u, 0, FY_EAX, "0x40000001.EAX",
              BIT(4) | BIT(6) | BIT(8) | BIT(10) | BIT(12) | BIT(14) | BIT(15) | BIT(16) | BIT(17), 0},
};
const size_t fy_feature_word_count = sizeof fy_feature_words / sizeof fy_feature_words[0];

const struct fy_feature fy_features[] = {
    /* The x86-64 baseline, with what every 64-bit processor has. */
    {W1D, 0, 1, "fpu"},
    {W1D, 1, 0, "vme"},
    {W1D, 2, 1, "de"},
    {W1D, 3, 1, "pse"},
    {W1D, 4, 1, "tsc"},
    {W1D, 5, 1, "msr"},
    {W1D, 6, 1, "pae"},
    {W1D, 7, 1, "mce"},
    {W1D, 8, 1, "cx8"},
    {W1D, 9, 1, "apic"},
    {W1D, 11, 1, "sep"},
    {W1D, 12, 1, "mtrr"},
    {W1D, 13, 1, "pge"},
    {W1D, 14, 1, "mca"},
    {W1D, 15, 1, "cmov"},
    {W1D, 16, 1, "pat"},
    {W1D, 17, 1, "pse36"},
    {W1D, 19, 1, "clflush"},
    {W1D, 23, 1, "mmx"},
    {W1D, 24, 1, "fxsr"},
    {W1D, 25, 1, "sse"},
    {W1D, 26, 1, "sse2"},
    {W81D, 11, 1, "syscall"},
    {W81D, 20, 1, "nx"},
    {W81D, 29, 1, "lm"},
    /* Of the platform: every engine emulates these. */
    {W1C, 21, 1, "x2apic"},
    {W1C, 24, 1, "tsc-deadline"},
    {W1C, 31, 1, "hypervisor"},
    {WKVM, 0, 1, "kvmclock-old"},
    {WKVM, 1, 1, "kvm-nop-io-delay"},
    {WKVM, 3, 1, "kvmclock"},
    {WKVM, 5, 1, "kvm-steal-time"},
    {WKVM, 24, 1, "kvmclock-stable"},
    /* x86-64-v2 */
    {W1C, 0, 2, "sse3"},
    {W1C, 9, 2, "ssse3"},
    {W1C, 13, 2, "cmpxchg16b"},
    {W1C, 19, 2, "sse4.1"},
    {W1C, 20, 2, "sse4.2"},
    {W1C, 23, 2, "popcnt"},
    {W81C, 0, 2, "lahf-sahf"},
    /* x86-64-v3 */
    {W1C, 12, 3, "fma"},
    {W1C, 22, 3, "movbe"},
    {W1C, 26, 3, "xsave"},
    {W1C, 28, 3, "avx"},
    {W1C, 29, 3, "f16c"},
    {W7B, 3, 3, "bmi1"},
    {W7B, 5, 3, "avx2"},
    {W7B, 8, 3, "bmi2"},
    {W81C, 5, 3, "lzcnt"},
    /* Names for messages; only `host` has these. */
    {W1C, 1, 0, "pclmulqdq"},
    {W1C, 17, 0, "pcid"},
    {W1C, 25, 0, "aes"},
    {W1C, 30, 0, "rdrand"},
    {W1D, 27, 0, "self-snoop"},
    {W7B, 0, 0, "fsgsbase"},
    {W7B, 1, 0, "tsc-adjust"},
    {W7B, 7, 0, "smep"},
    {W7B, 9, 0, "erms"},
    {W7B, 10, 0, "invpcid"},
    {W7B, 16, 0, "avx512f"},
    {W7B, 17, 0, "avx512dq"},
    {W7B, 18, 0, "rdseed"},
    {W7B, 19, 0, "adx"},
    {W7B, 20, 0, "smap"},
    {W7B, 23, 0, "clflushopt"},
    {W7B, 24, 0, "clwb"},
    {W7B, 28, 0, "avx512cd"},
    {W7B, 29, 0, "sha"},
    {W7B, 30, 0, "avx512bw"},
    {W7B, 31, 0, "avx512vl"},
    {W7C, 2, 0, "umip"},
    {W7C, 3, 0, "pku"},
    {W7C, 9, 0, "vaes"},
    {W7C, 10, 0, "vpclmulqdq"},
    {W7C, 16, 0, "la57"},
    {W7C, 22, 0, "rdpid"},
    {W7D, 4, 0, "fsrm"},
    {W7D, 26, 0, "spec-ctrl"},
    {W7D, 27, 0, "stibp"},
    {W7D, 31, 0, "ssbd"},
    {WD1, 0, 0, "xsaveopt"},
    {WD1, 1, 0, "xsavec"},
    {WD1, 2, 0, "xgetbv1"},
    {W81C, 4, 0, "cr8-legacy"},
    {W81C, 6, 0, "sse4a"},
    {W81C, 7, 0, "misalignsse"},
    {W81C, 8, 0, "3dnowprefetch"},
    {W81C, 11, 0, "xop"},
    {W81C, 16, 0, "fma4"},
    {W81C, 21, 0, "tbm"},
    {W81D, 22, 0, "mmxext"},
    {W81D, 25, 0, "fxsr-opt"},
    {W81D, 26, 0, "pdpe1gb"},
    {W81D, 27, 0, "rdtscp"},
    {W81D, 30, 0, "3dnowext"},
    {W81D, 31, 0, "3dnow"},
    {W87D, 8, 0, "invariant-tsc"},
    {W88B, 0, 0, "clzero"},
    {W88B, 2, 0, "xsaveerptr"},
    {W88B, 9, 0, "wbnoinvd"},
    {W88B, 12, 0, "ibpb"},
    {W88B, 14, 0, "ibrs"},
    {W88B, 15, 0, "amd-stibp"},
    {W88B, 24, 0, "amd-ssbd"},
    {WKVM, 7, 0, "kvm-pv-unhalt"},
    {WKVM, 9, 0, "kvm-pv-tlb-flush"},
    {WKVM, 11, 0, "kvm-pv-send-ipi"},
    {WKVM, 13, 0, "kvm-pv-sched-yield"},
};
const size_t fy_feature_count = sizeof fy_features / sizeof fy_features[0];

const char *fy_feature_name(size_t word, unsigned bit)
{
    for (size_t i = 0; i < fy_feature_count; i++)
        if (fy_features[i].word == word && fy_features[i].bit == bit)
            return fy_features[i].name;
    return NULL;
}
