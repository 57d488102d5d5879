// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "hv/dev/platform.h"
#include "hv/vm/load.h"
#include "proto/wire.h"
#include "tests/unit/memory_fixture.h"

static struct fy_gmem *m;

static int setup(void **state)
{
    (void)state;
    m = fx_memory(2 << 20, NULL);
    return m ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    fy_gmem_free(m);
    return 0;
}

static uint8_t sum(const uint8_t *p, size_t len)
{
    uint8_t s = 0;
    while (len--)
        s = (uint8_t)(s + *p++);
    return s;
}

/* The table at gpa, its length and checksum right. */
static const uint8_t *table(uint64_t gpa, const char *signature)
{
    const uint8_t *t = fy_gmem_at(m, gpa, 36);
    assert_non_null(t);
    assert_memory_equal(t, signature, 4);
    assert_non_null(fy_gmem_at(m, gpa, fy_get32(t + 4)));
    assert_int_equal(sum(t, fy_get32(t + 4)), 0);
    return t;
}

static const uint8_t *listed(uint64_t rsdp, const char *signature)
{
    const uint8_t *r = fy_gmem_at(m, rsdp, 36);
    uint64_t xsdt = fy_get64(r + 24);
    const uint8_t *x = table(xsdt, "XSDT");
    for (uint32_t at = 36; at < fy_get32(x + 4); at += 8) {
        const uint8_t *t = fy_gmem_at(m, fy_get64(x + at), 36);
        assert_non_null(t);
        if (memcmp(t, signature, 4) == 0)
            return table(fy_get64(x + at), signature);
    }
    fail_msg("no %s", signature);
    return NULL;
}

static void check_tables(unsigned vcpus)
{
    uint64_t rsdp = 0;
    struct fy_err e = {0};
    if (fy_acpi_write(m, 1, vcpus, &rsdp, &e))
        fail_msg("%s", e.text);
    const uint8_t *r = fy_gmem_at(m, rsdp, 36);
    assert_true(rsdp >= 0xe0000 && rsdp < 0x100000 && rsdp % 16 == 0);
    assert_memory_equal(r, "RSD PTR ", 8);
    assert_int_equal(sum(r, 20), 0);
    assert_int_equal(sum(r, 36), 0);
    const uint8_t *f = listed(rsdp, "FACP");
    table(fy_get64(f + 140), "DSDT");
    assert_memory_equal(fy_gmem_at(m, fy_get32(f + 36), 64), "FACS", 4);
    assert_int_equal(fy_get32(f + 36) % 64, 0);
    assert_int_equal(fy_get64(f + 148 + 4), FY_PORT_PM1_EVENT);
    assert_int_equal(fy_get32(f + 56), FY_PORT_PM1_EVENT);
    assert_int_equal(fy_get64(f + 172 + 4), FY_PORT_PM1_CONTROL);
    assert_int_equal(fy_get64(f + 208 + 4), FY_PORT_PM_TIMER);
    assert_int_equal(fy_get64(f + 116 + 4), FY_PORT_RESET);
    assert_int_equal(f[128], FY_RESET_VALUE);
    assert_int_equal(fy_get32(f + 112) & 1u << 20, 0); /* not hardware-reduced */
    const uint8_t *a = listed(rsdp, "APIC");
    unsigned cpus = 0;
    unsigned ioapics = 0;
    for (uint32_t at = 44; at < fy_get32(a + 4); at += a[at + 1]) {
        assert_true(a[at + 1] >= 2);
        if (a[at] == 0)
            assert_int_equal(a[at + 3], cpus++);
        if (a[at] == 1) {
            ioapics++;
            assert_true(a[at + 2] >= vcpus);
        }
    }
    assert_int_equal(cpus, vcpus);
    assert_int_equal(ioapics, 1);
    const uint8_t *s = listed(rsdp, "SSDT");
    unsigned devices = 0;
    for (uint32_t at = 36; at + 8 <= fy_get32(s + 4); at++)
        devices += memcmp(s + at, "ACPI0007", 8) == 0;
    assert_int_equal(devices, vcpus);
}

static void tables(void **state)
{
    (void)state;
    check_tables(1);
    check_tables(2);
    check_tables(64);
    uint64_t rsdp;
    assert_int_equal(fy_acpi_write(m, 1, 0, &rsdp, NULL), -1);
    assert_int_equal(fy_acpi_write(m, 1, 65, &rsdp, NULL), -1);
}

/* A second opinion: the disassembler reads every table and finds what we meant. */
static void disassembles(void **state)
{
    (void)state;
    static const struct {
        const char *table, *text;
    } expect[] = {{"DSDT", "PNP0501"},
                  {"SSDT", "Device (C03F)"},
                  {"FACP", "Reset Register"},
                  {"APIC", "Local Apic ID : 3F"}};
    if (system("command -v iasl >/dev/null 2>&1") != 0) {
        print_message("iasl is not installed: skipped\n");
        skip();
    }
    char dir[] = "/tmp/ferry-acpi-XXXXXX";
    assert_non_null(mkdtemp(dir));
    uint64_t rsdp;
    assert_int_equal(fy_acpi_write(m, 1, 64, &rsdp, NULL), 0);
    int bad = 0;
    for (size_t i = 0; i < sizeof expect / sizeof expect[0]; i++) {
        const uint8_t *t =
            i ? listed(rsdp, expect[i].table) : table(fy_get64(listed(rsdp, "FACP") + 140), "DSDT");
        char cmd[300];
        snprintf(cmd, sizeof cmd, "%s/t.aml", dir);
        FILE *f = fopen(cmd, "wb");
        assert_non_null(f);
        assert_int_equal(fwrite(t, 1, fy_get32(t + 4), f), fy_get32(t + 4));
        fclose(f);
        snprintf(cmd, sizeof cmd,
                 "cd %s && iasl -d t.aml >log 2>&1 && grep -q '%s' t.dsl && ! grep -qi 'error\\|invalid' log",
                 dir, expect[i].text);
        if (system(cmd) != 0) {
            print_error("iasl -d: %s without \"%s\"\n", expect[i].table, expect[i].text);
            bad++;
        }
    }
    char cmd[100];
    snprintf(cmd, sizeof cmd, "rm -r %s", dir);
    assert_int_equal(system(cmd), 0);
    assert_int_equal(bad, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(tables, setup, teardown),
        cmocka_unit_test_setup_teardown(disassembles, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
