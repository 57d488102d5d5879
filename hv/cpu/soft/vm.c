// SPDX-License-Identifier: Apache-2.0
#include "hv/cpu/soft/vm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "hv/base/checked.h"
#include "hv/cpu/model.h"
#include "hv/cpu/soft/block.h"
#include "hv/cpu/soft/chips.h"
#include "hv/cpu/soft/optable.h"
#include "hv/cpu/soft/system.h"

/* The policy's name of each feature that the decoder asks for; those without one are always there. */
static const char *const feature_names[SOFT_F_COUNT] = {
    [SOFT_F_LONG] = "lm",          [SOFT_F_FPU] = "fpu",           [SOFT_F_MMX] = "mmx",
    [SOFT_F_SSE] = "sse",          [SOFT_F_SSE2] = "sse2",         [SOFT_F_SSE3] = "sse3",
    [SOFT_F_SSSE3] = "ssse3",      [SOFT_F_SSE41] = "sse4.1",      [SOFT_F_SSE42] = "sse4.2",
    [SOFT_F_AES] = "aes",          [SOFT_F_PCLMUL] = "pclmulqdq",  [SOFT_F_POPCNT] = "popcnt",
    [SOFT_F_MOVBE] = "movbe",      [SOFT_F_FSGSBASE] = "fsgsbase", [SOFT_F_RDRAND] = "rdrand",
    [SOFT_F_RDSEED] = "rdseed",    [SOFT_F_XSAVE] = "xsave",       [SOFT_F_XSAVEOPT] = "xsaveopt",
    [SOFT_F_XSAVEC] = "xsavec",    [SOFT_F_BMI1] = "bmi1",         [SOFT_F_BMI2] = "bmi2",
    [SOFT_F_ADX] = "adx",          [SOFT_F_AVX] = "avx",           [SOFT_F_AVX2] = "avx2",
    [SOFT_F_FMA] = "fma",          [SOFT_F_F16C] = "f16c",         [SOFT_F_LZCNT] = "lzcnt",
    [SOFT_F_CX8] = "cx8",          [SOFT_F_CX16] = "cmpxchg16b",   [SOFT_F_CMOV] = "cmov",
    [SOFT_F_LAHF64] = "lahf-sahf", [SOFT_F_SYSCALL] = "syscall",   [SOFT_F_SEP] = "sep",
    [SOFT_F_RDTSCP] = "rdtscp",    [SOFT_F_CLFLUSH] = "clflush",   [SOFT_F_CLFLUSHOPT] = "clflushopt",
    [SOFT_F_CLWB] = "clwb",        [SOFT_F_SMAP] = "smap",         [SOFT_F_INVPCID] = "invpcid",
    [SOFT_F_RDPID] = "rdpid",      [SOFT_F_FXSR] = "fxsr",         [SOFT_F_TSC] = "tsc",
    [SOFT_F_MSR] = "msr",
};

/* Vector instructions run on the host's own units. */
static bool host_runs(const char *name)
{
    static const char *const vector[] = {"sse3",      "ssse3", "sse4.1", "sse4.2", "aes",
                                         "pclmulqdq", "avx",   "avx2",   "fma",    "f16c"};
    for (size_t i = 0; i < FY_ARRAY_LEN(vector); i++)
        if (!strcmp(name, vector[i]))
            /* The compiler's word for AVX means that the host's system keeps the upper halves, too. */
            return soft_host_has(name) && (i < 6 || __builtin_cpu_supports("avx"));
    return true;
}

bool soft_feature_whole(const char *name)
{
    if (!host_runs(name))
        return false;
    for (unsigned f = 0; f < SOFT_F_COUNT; f++) {
        if (!feature_names[f] || strcmp(feature_names[f], name) != 0)
            continue;
        for (unsigned i = 0; i < soft_row_count; i++)
            if (soft_rows[i].feature == f && !soft_rows[i].handler)
                return false;
    }
    return true;
}

static uint64_t features(const Ferry__CpuPolicy *policy)
{
    uint64_t set = 0;
    for (unsigned i = 0; i < SOFT_F_COUNT; i++)
        if (!feature_names[i] || fy_cpu_has(policy, feature_names[i]))
            set |= 1ull << i;
    return set;
}

static unsigned phys_bits(const Ferry__CpuPolicy *policy)
{
    unsigned bits = 46;
    for (size_t i = 0; i < policy->n_cpuid; i++)
        if (policy->cpuid[i]->function == 0x80000008u && (policy->cpuid[i]->eax & 0xff))
            bits = policy->cpuid[i]->eax & 0xff;
    return FY_MIN(FY_MAX(bits, 36u), 52u);
}

static uint64_t *page_words(uint64_t pages)
{
    void *p =
        mmap(NULL, pages * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static void free_cpu(struct soft_cpu *c)
{
    if (!c)
        return;
    soft_cache_free(c->cache);
    free(c->foreign_msrs);
    free(c->cpuid);
    free(c->jumps);
    pthread_mutex_destroy(&c->inval_lock);
    free(c);
}

static struct soft_cpu *new_cpu(struct soft_vm *vm, unsigned index)
{
    struct soft_cpu *c = NULL;
    if (posix_memalign((void **)&c, 64, FY_ALIGN_UP(sizeof *c, 64)))
        return NULL;
    memset(c, 0, sizeof *c);
    c->index = index;
    c->vm = vm;
    c->features = features(vm->policy);
    c->run_limit = UINT64_MAX;
    c->block = &soft_unlinked;
    soft_calls_forget(c);
    pthread_mutex_init(&c->inval_lock, NULL);
    c->cache = soft_cache_new();
    c->jumps = calloc(SOFT_JUMPS, sizeof *c->jumps);
    if (c->cache && c->jumps)
        return c;
    free_cpu(c);
    return NULL;
}

/* A device wrote guest memory. */
static void on_code_written(void *arg, uint64_t offset, uint64_t len)
{
    struct soft_vm *vm = arg;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    for (uint64_t page = offset / 4096; len && page <= (offset + len - 1) / 4096; page++)
        if (__atomic_load_n(&vm->code_users[page], __ATOMIC_SEQ_CST))
            soft_code_written(vm, NULL, page);
    if (vm->tables && len)
        soft_request(vm->cpus[0], SOFT_REQ_FLUSH);
}

struct soft_vm *soft_vm_new(const struct fy_engine_config *config, struct fy_err *e)
{
    if (config->vcpus < 1 || config->vcpus > FY_VCPUS_LIMIT) {
        fy_fail(e, FY_EUSAGE, "%u vCPUs: must be 1 to %u", config->vcpus, FY_VCPUS_LIMIT);
        return NULL;
    }
    if (config->icount_ns && config->vcpus != 1) {
        fy_fail(e, FY_EUSAGE, "counting instructions needs one vCPU, not %u", config->vcpus);
        return NULL;
    }
    struct soft_vm *vm = calloc(1, sizeof *vm);
    if (!vm) {
        fy_fail(e, FY_ERESOURCE, "no memory for a machine");
        return NULL;
    }
    vm->gmem = config->gmem;
    vm->bus = config->bus;
    vm->policy = config->policy;
    vm->vcpus = config->vcpus;
    vm->pages = config->gmem->bytes / 4096;
    vm->icount = config->icount_ns;
    vm->icount_ns = config->icount_ns;
    vm->icount_seed = config->icount_seed;
    vm->alarm = config->alarm;
    vm->alarm_arg = config->alarm_arg;
    vm->stop_at = vm->alarm_due = FY_ICOUNT_NEVER;
    vm->phys_limit = 1ull << phys_bits(config->policy);
    vm->has_1g = fy_cpu_has(config->policy, "pdpe1gb");
    pthread_mutex_init(&vm->sync_lock, NULL);
    pthread_mutex_init(&vm->halt_lock, NULL);
    for (unsigned i = 0; i < FY_VCPUS_LIMIT; i++)
        pthread_cond_init(&vm->halt_wake[i], NULL);
    vm->code_users = page_words(vm->pages);
    vm->code_lines = page_words(vm->pages);
    vm->writers = page_words(vm->pages);
    vm->dirty = soft_dirty_new(vm->pages);
    bool ok = vm->code_users && vm->code_lines && vm->writers && vm->dirty;
    if (ok && vm->icount)
        ok = (vm->tables = soft_tables_new(vm->pages)) != NULL;
    for (unsigned i = 0; ok && i < vm->vcpus; i++)
        ok = (vm->cpus[i] = new_cpu(vm, i)) != NULL;
    if (!ok) {
        fy_fail(e, FY_ERESOURCE, "no memory for %u software vCPUs", vm->vcpus);
        soft_vm_free(vm);
        return NULL;
    }
    /* Sets vm->chips itself, before its timer thread runs. */
    if (!soft_chips_new(vm, e)) {
        soft_vm_free(vm);
        return NULL;
    }
    for (unsigned i = 0; i < vm->vcpus; i++) {
        soft_cpu_power_on(vm->cpus[i]);
        soft_tlb_flush(vm->cpus[i]);
        soft_mode_changed(vm->cpus[i]);
    }
    vm->gmem->code_written_arg = vm;
    vm->gmem->code_written = on_code_written;
    return vm;
}

static void unmap(uint64_t *p, uint64_t pages)
{
    if (p)
        munmap(p, pages * 8);
}

void soft_vm_free(struct soft_vm *vm)
{
    if (!vm)
        return;
    if (vm->gmem->code_written_arg == vm) {
        vm->gmem->code_written = NULL;
        vm->gmem->code_written_arg = NULL;
    }
    if (vm->chips)
        soft_chips_free(vm->chips);
    for (unsigned i = 0; i < FY_VCPUS_LIMIT; i++)
        free_cpu(vm->cpus[i]);
    unmap(vm->code_users, vm->pages);
    unmap(vm->code_lines, vm->pages);
    unmap(vm->writers, vm->pages);
    soft_dirty_free(vm->dirty, vm->pages);
    soft_tables_free(vm->tables, vm->pages);
    for (unsigned i = 0; i < FY_VCPUS_LIMIT; i++)
        pthread_cond_destroy(&vm->halt_wake[i]);
    pthread_mutex_destroy(&vm->halt_lock);
    pthread_mutex_destroy(&vm->sync_lock);
    free(vm);
}
