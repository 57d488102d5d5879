// SPDX-License-Identifier: Apache-2.0
/* CPU models against a host made up of CPUID leaves. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "hv/base/crc32c.h"
#include "hv/cpu/model.h"

static void put(struct fy_cpu_support *s, uint32_t fn, uint32_t a, uint32_t b, uint32_t c, uint32_t d)
{
    s->cpuid[s->cpuid_count++] = (struct fy_cpuid){.function = fn, .r = {a, b, c, d}};
}

static void puti(struct fy_cpu_support *s, uint32_t fn, uint32_t i, uint32_t a, uint32_t b, uint32_t c,
                 uint32_t d)
{
    s->cpuid[s->cpuid_count++] =
        (struct fy_cpuid){.function = fn, .index = i, .indexed = true, .r = {a, b, c, d}};
}

/* An AMD host with what the levels up to `level` need; level 4: everything there is. */
static struct fy_cpu_support host(int level)
{
    struct fy_cpu_support s = {.tsc_khz = 2000000, .tsc_offsets = true};
    uint32_t c1 = 0x81200000u, c81 = 0, b7 = 0;
    if (level >= 2) {
        c1 |= 1u | 1u << 9 | 1u << 13 | 1u << 19 | 1u << 20 | 1u << 23;
        c81 |= 1;
    }
    if (level >= 3) {
        c1 |= 1u << 12 | 1u << 22 | 1u << 26 | 1u << 28 | 1u << 29;
        b7 |= 1u << 3 | 1u << 5 | 1u << 8;
        c81 |= 1u << 5;
    }
    if (level >= 4)
        c1 = c81 = b7 = ~0u;
    put(&s, 0, 0xd, 0x68747541, 0x444d4163, 0x69746e65);
    put(&s, 1, 0xa00f11, 0, c1, 0x078bfbff);
    puti(&s, 7, 0, 0, b7, 0, 0);
    if (level >= 3) {
        puti(&s, 0xd, 0, 7, 832, 832, 0);
        puti(&s, 0xd, 2, 256, 576, 0, 0);
    }
    put(&s, 0x40000001u, 0x01007efb, 0, 0, 0);
    put(&s, 0x80000001u, 0xa00f11, 0, c81, 0x23d3fbff);
    put(&s, 0x80000008u, 0x3030, 0, 0, 0);
    return s;
}

static Ferry__CpuPolicy *resolve(const char *model, const struct fy_cpu_support *s, struct fy_err *e)
{
    Ferry__CpuPolicy *p = malloc(sizeof *p);
    ferry__cpu_policy__init(p);
    if (fy_cpu_resolve(model, s, p, e) == 0)
        return p;
    ferry__cpu_policy__free_unpacked(p, NULL);
    return NULL;
}

static void test_levels(void **state)
{
    (void)state;
    struct fy_err e;
    for (int level = 1; level <= 4; level++) {
        struct fy_cpu_support s = host(level);
        assert_string_equal(fy_cpu_default_model(&s), level >= 2 ? "x86-64-v2" : "x86-64-v1");
        for (int m = 1; m <= 3; m++) {
            Ferry__CpuPolicy *p = resolve(fy_cpu_models[m], &s, &e);
            assert_int_equal(p != NULL, m <= level);
            if (p)
                ferry__cpu_policy__free_unpacked(p, NULL);
        }
    }
}

static void test_reasons(void **state)
{
    (void)state;
    struct fy_cpu_support s = host(1);
    struct fy_err e;
    assert_null(resolve("x86-64-v2", &s, &e));
    assert_int_equal(e.code, FY_EREFUSED);
    const char *want[] = {
        "x86-64-v2 needs sse4.2 (CPUID 1.ECX bit 20)", "popcnt", "sse3", "ssse3", "sse4.1", "cmpxchg16b",
        "lahf-sahf (CPUID 0x80000001.ECX bit 0)"};
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++)
        assert_non_null(strstr(e.text, want[i]));
    int lines = 1;
    for (const char *c = e.text; *c; c++)
        lines += *c == '\n';
    assert_int_equal(lines, 7);
    assert_null(resolve("pentium", &s, &e));
    assert_int_equal(e.code, FY_EUSAGE);
}

/* A named model is the same on every host that offers it: only vendor, signature, addresses and TSC come from
 * the host. */
static void test_models_do_not_depend_on_the_host(void **state)
{
    (void)state;
    struct fy_cpu_support a = host(2), b = host(4);
    struct fy_err e;
    for (int m = 1; m <= 2; m++) {
        Ferry__CpuPolicy *x = resolve(fy_cpu_models[m], &a, &e), *y = resolve(fy_cpu_models[m], &b, &e);
        assert_non_null(x);
        assert_non_null(y);
        size_t n = ferry__cpu_policy__get_packed_size(x);
        assert_int_equal(n, ferry__cpu_policy__get_packed_size(y));
        uint8_t *bx = malloc(n), *by = malloc(n);
        ferry__cpu_policy__pack(x, bx);
        ferry__cpu_policy__pack(y, by);
        assert_memory_equal(bx, by, n);
        free(bx);
        free(by);
        ferry__cpu_policy__free_unpacked(x, NULL);
        ferry__cpu_policy__free_unpacked(y, NULL);
    }
}

static void test_host_model_has_nothing_that_does_not_travel(void **state)
{
    (void)state;
    struct fy_cpu_support s = host(4);
    struct fy_err e;
    Ferry__CpuPolicy *p = resolve("host", &s, &e);
    assert_non_null(p);
    for (size_t i = 0; i < p->n_cpuid; i++) {
        if (p->cpuid[i]->function == 0x80000001u)
            assert_false(p->cpuid[i]->ecx >> 2 & 1); /* SVM */
        if (p->cpuid[i]->function == 1)
            assert_false(p->cpuid[i]->ecx >> 5 & 1); /* VMX */
    }
    assert_true(fy_cpu_has(p, "avx2"));
    assert_false(fy_cpu_has(p, "no such feature"));
    ferry__cpu_policy__free_unpacked(p, NULL);
}

static void test_check_on_another_host(void **state)
{
    (void)state;
    struct fy_cpu_support rich = host(3), poor = host(1);
    struct fy_err e;
    Ferry__CpuPolicy *p = resolve("x86-64-v3", &rich, &e);
    assert_int_equal(fy_cpu_check(p, &rich, &e), 0);
    assert_int_equal(fy_cpu_check(p, &poor, &e), -1);
    assert_non_null(strstr(e.text, "avx2 (CPUID 7.EBX bit 5)"));
    assert_non_null(strstr(e.text, "XSAVE components"));
    /* All reasons at once: vendor, TSC, MSR. */
    poor.cpuid[0].r[1] = 0x756e6547;
    poor.tsc_khz = 3000000;
    p->msrs = malloc(sizeof *p->msrs);
    p->msrs[0] = 0x123;
    p->n_msrs = 1;
    assert_int_equal(fy_cpu_check(p, &poor, &e), -1);
    assert_non_null(strstr(e.text, "vendor"));
    assert_non_null(strstr(e.text, "TSC runs at 2000000 kHz"));
    assert_non_null(strstr(e.text, "MSR 0x123"));
    ferry__cpu_policy__free_unpacked(p, NULL);
}

/* A policy from a peer with a bit that does not travel, or a leaf that nothing checks. */
static void test_hostile_policy(void **state)
{
    (void)state;
    struct fy_cpu_support s = host(4);
    struct fy_err e;
    Ferry__CpuPolicy *p = resolve("x86-64-v2", &s, &e);
    for (size_t i = 0; i < p->n_cpuid; i++)
        if (p->cpuid[i]->function == 0x80000001u)
            p->cpuid[i]->ecx |= 1u << 2;
    assert_int_equal(fy_cpu_check(p, &s, &e), -1);
    assert_int_equal(e.code, FY_EREFUSED);
    p->cpuid[0]->function = 0x12345;
    assert_int_equal(fy_cpu_check(p, &s, &e), -1);
    assert_int_equal(e.code, FY_ECORRUPT);
    ferry__cpu_policy__free_unpacked(p, NULL);
}

static void test_topology(void **state)
{
    (void)state;
    struct fy_cpu_support s = host(2);
    struct fy_err e;
    struct fy_cpuid l[FY_CPUID_MAX];
    Ferry__CpuPolicy *p = resolve("x86-64-v2", &s, &e);
    size_t n = fy_cpu_leaves(p, 3, 6, l);
    for (size_t i = 0; i < n; i++) {
        if (l[i].function == 1) {
            assert_int_equal(l[i].r[1] >> 24, 3);
            assert_int_equal(l[i].r[1] >> 16 & 0xff, 6);
            assert_true(l[i].r[3] >> 28 & 1);
        }
        if (l[i].function == 0xb) {
            assert_int_equal(l[i].r[3], 3);
            assert_int_equal(l[i].r[0], l[i].index ? 3 : 0);
        }
        if (l[i].function == 0x80000008u)
            assert_int_equal(l[i].r[2], 3 << 12 | 5);
        if (l[i].function == 0x40000010u)
            assert_int_equal(l[i].r[0], 2000000);
    }
    ferry__cpu_policy__free_unpacked(p, NULL);
}

/* Machine revision 1, held: what these models show a guest never changes under it. */
static void test_golden(void **state)
{
    (void)state;
    static const uint32_t golden[] = {0xe008e10d, 0xc573bd81, 0x294d7979};
    struct fy_cpu_support s = host(4);
    struct fy_err e;
    for (int m = 1; m <= 3; m++) {
        Ferry__CpuPolicy *p = resolve(fy_cpu_models[m], &s, &e);
        size_t n = ferry__cpu_policy__get_packed_size(p);
        uint8_t *buf = malloc(n);
        ferry__cpu_policy__pack(p, buf);
        assert_int_equal(fy_crc32c(0, buf, n), golden[m - 1]);
        free(buf);
        ferry__cpu_policy__free_unpacked(p, NULL);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_levels),
        cmocka_unit_test(test_reasons),
        cmocka_unit_test(test_models_do_not_depend_on_the_host),
        cmocka_unit_test(test_host_model_has_nothing_that_does_not_travel),
        cmocka_unit_test(test_check_on_another_host),
        cmocka_unit_test(test_hostile_policy),
        cmocka_unit_test(test_topology),
        cmocka_unit_test(test_golden),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
