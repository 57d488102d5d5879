// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <elf.h>

#include "hv/vm/load.h"
#include "proto/wire.h"
#include "tests/unit/memory_fixture.h"

#define MIB (1ull << 20)
#define LEN 0x2000u
#define BASE 0x200000u

static struct fy_gmem *m;
static uint8_t module[10000];

static int setup(void **state)
{
    (void)state;
    m = fx_memory(64 * MIB, NULL);
    memset(module, 0x5a, sizeof module);
    return m ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    fy_gmem_free(m);
    return 0;
}

static uint32_t at32(uint64_t gpa)
{
    uint8_t b[4];
    assert_int_equal(fy_gmem_read(m, gpa, b, 4, NULL), 0);
    return fy_get32(b);
}

static const char *text_at(uint64_t gpa)
{
    const uint8_t *p = fy_gmem_at(m, gpa, 64);
    assert_non_null(p);
    return (const char *)p;
}

static int load(const uint8_t *k, size_t len, const char *cmdline, size_t initrd, struct fy_boot *b,
                struct fy_err *e)
{
    struct fy_boot_images im = {.kernel = k,
                                .kernel_len = len,
                                .initrd = initrd ? module : NULL,
                                .initrd_len = initrd,
                                .cmdline = cmdline,
                                .acpi_rsdp = 0xe0000};
    e->code = 0;
    return fy_load_kernel(m, &im, b, e);
}

static void header1(uint8_t *p, uint32_t flags)
{
    fy_put32(p, 0x1badb002);
    fy_put32(p + 4, flags);
    fy_put32(p + 8, -(0x1badb002 + flags));
}

static void seal2(uint8_t *p, uint32_t len)
{
    fy_put32(p, 0xe85250d6);
    fy_put32(p + 4, 0);
    fy_put32(p + 8, len);
    fy_put32(p + 12, -(0xe85250d6 + len));
}

/* A flat image whose header is at 0x100: load from the file's begin to BASE, entry there plus 0x40. */
static void make_flat1(uint8_t *k)
{
    memset(k, 0x90, LEN);
    header1(k + 0x100, 0x10003);
    fy_put32(k + 0x10c, BASE + 0x100);
    fy_put32(k + 0x110, BASE);
    fy_put32(k + 0x114, BASE + 0x1800);
    fy_put32(k + 0x118, BASE + 0x3000);
    fy_put32(k + 0x11c, BASE + 0x40);
}

static void make_flat2(uint8_t *k)
{
    memset(k, 0x90, LEN);
    uint8_t *p = k + 0x100;
    seal2(p, 64);
    memset(p + 16, 0, 48);
    fy_put16(p + 16, 2);
    fy_put32(p + 20, 24);
    fy_put32(p + 24, BASE + 0x100);
    fy_put32(p + 28, BASE);
    fy_put32(p + 40, 0);
    fy_put16(p + 40, 3);
    fy_put32(p + 44, 12);
    fy_put32(p + 48, BASE + 0x40);
    fy_put32(p + 60, 8);
}

/* ELF of either class, linked high and loaded at BASE, with a header of version 1. */
static void make_elf(uint8_t *k, bool wide)
{
    memset(k, 0, LEN);
    memcpy(k, ELFMAG, SELFMAG);
    k[EI_CLASS] = wide ? ELFCLASS64 : ELFCLASS32;
    k[EI_DATA] = ELFDATA2LSB;
    if (wide) {
        Elf64_Ehdr h = {
            .e_machine = EM_X86_64, .e_entry = 0xffffffff80000040ull, .e_phoff = 64, .e_phnum = 1};
        Elf64_Phdr p = {.p_type = PT_LOAD,
                        .p_offset = 0x1000,
                        .p_vaddr = 0xffffffff80000000ull,
                        .p_paddr = BASE,
                        .p_filesz = 0x800,
                        .p_memsz = 0x900};
        h.e_phentsize = sizeof p;
        memcpy(h.e_ident, k, EI_NIDENT);
        memcpy(k, &h, sizeof h);
        memcpy(k + 64, &p, sizeof p);
    } else {
        Elf32_Ehdr h = {.e_machine = EM_386, .e_entry = 0xc0000040, .e_phoff = 64, .e_phnum = 1};
        Elf32_Phdr p = {.p_type = PT_LOAD,
                        .p_offset = 0x1000,
                        .p_vaddr = 0xc0000000,
                        .p_paddr = BASE,
                        .p_filesz = 0x800,
                        .p_memsz = 0x900};
        h.e_phentsize = sizeof p;
        memcpy(h.e_ident, k, EI_NIDENT);
        memcpy(k, &h, sizeof h);
        memcpy(k + 64, &p, sizeof p);
    }
    memset(k + 0x1000, 0xcc, 0x1000);
    header1(k + 0x1000, 3);
}

static void flat_1(void **state)
{
    (void)state;
    uint8_t k[LEN];
    struct fy_boot b;
    struct fy_err e;
    make_flat1(k);
    memset(fy_gmem_at(m, BASE, 0x4000), 0xee, 0x4000);
    if (load(k, sizeof k, "one two", sizeof module, &b, &e))
        fail_msg("%s", e.text);
    assert_false(b.long_mode);
    assert_int_equal(b.rip, BASE + 0x40);
    assert_int_equal(b.rax, 0x2badb002);
    assert_int_equal(at32(BASE), 0x90909090);
    assert_int_equal(at32(BASE + 0x1800), 0);
    assert_int_equal(at32(BASE + 0x2ffc), 0);
    assert_int_equal(at32(BASE + 0x3000), 0xeeeeeeee);
    assert_int_equal(at32(b.rbx), 0x24d);
    assert_int_equal(at32(b.rbx + 8), 63 * 1024);
    assert_string_equal(text_at(at32(b.rbx + 16)), "one two");
    assert_string_equal(text_at(at32(b.rbx + 64)), "Ferry");
    assert_int_equal(at32(b.rbx + 20), 1);
    uint32_t mod = at32(b.rbx + 24);
    assert_int_equal(at32(mod + 4) - at32(mod), sizeof module);
    assert_int_equal(at32(mod) % 4096, 0);
    assert_true(at32(mod) >= BASE + 0x3000);
    assert_int_equal(at32(at32(mod)), 0x5a5a5a5a);
    assert_int_equal(at32(at32(b.rbx + 48)), 20);
    assert_int_equal(at32(b.rbx + 44) % 24, 0);
}

static void flat_2(void **state)
{
    (void)state;
    uint8_t k[LEN];
    struct fy_boot b;
    struct fy_err e;
    make_flat2(k);
    fy_gmem_write(m, 0xe0000, "RSD PTR 0123456789012345678901234567", 36, NULL);
    if (load(k, sizeof k, "x", sizeof module, &b, &e))
        fail_msg("%s", e.text);
    assert_int_equal(b.rip, BASE + 0x40);
    assert_int_equal(b.rax, 0x36d76289);
    uint64_t p = b.rbx + 8, end = b.rbx + at32(b.rbx);
    unsigned seen = 0;
    for (; p < end && at32(p); p += (at32(p + 4) + 7) & ~7u) {
        assert_true(at32(p) < 32 && at32(p + 4) >= 8);
        seen |= 1u << at32(p);
        if (at32(p) == 3)
            assert_int_equal(at32(p + 12) - at32(p + 8), sizeof module);
        if (at32(p) == 1)
            assert_string_equal(text_at(p + 8), "x");
        if (at32(p) == 15)
            assert_memory_equal(text_at(p + 8), "RSD PTR 01", 10);
    }
    assert_int_equal(p + 8, end);
    assert_int_equal(seen, 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 6 | 1 << 15);
}

static void elf(void **state)
{
    (void)state;
    uint8_t k[LEN];
    struct fy_boot b;
    struct fy_err e;
    for (unsigned wide = 0; wide < 2; wide++) {
        make_elf(k, wide);
        memset(fy_gmem_at(m, BASE, 0x1000), 0xee, 0x1000);
        if (load(k, sizeof k, "", 0, &b, &e))
            fail_msg("class %u: %s", wide, e.text);
        assert_int_equal(b.rip, BASE + 0x40); /* its physical address */
        assert_int_equal(at32(BASE + 0x7fc), 0xcccccccc);
        assert_int_equal(at32(BASE + 0x8fc), 0);
        assert_int_equal(at32(BASE + 0x900), 0xeeeeeeee);
        assert_int_equal(at32(b.rbx + 20), 0);
    }
}

/* What the image is told does not lie in the image, wherever that is. */
static void low_image(void **state)
{
    (void)state;
    uint8_t k[LEN];
    struct fy_boot b;
    struct fy_err e;
    const uint32_t bases[] = {0x1000, 0x8000, 0x9b000};
    for (size_t i = 0; i < 3; i++) {
        make_flat1(k);
        for (unsigned f = 0x10c; f <= 0x11c; f += 4)
            fy_put32(k + f, fy_get32(k + f) - BASE + bases[i]);
        if (load(k, sizeof k, "low", 0, &b, &e))
            fail_msg("%#x: %s", bases[i], e.text);
        assert_true(b.rbx >= bases[i] + 0x3000 || b.rbx + 2048 <= bases[i]);
        assert_string_equal(text_at(at32(b.rbx + 16)), "low");
    }
    make_flat1(k);
    for (unsigned f = 0x10c; f <= 0x11c; f += 4)
        fy_put32(k + f, fy_get32(k + f) - BASE + 0x1000);
    fy_put32(k + 0x118, 0x9f000); /* all of low memory: behind it */
    assert_int_equal(load(k, sizeof k, "high", 0, &b, &e), 0);
    assert_true(b.rbx >= MIB);
}

static void refusals(void **state)
{
    (void)state;
    uint8_t k[LEN];
    struct fy_boot b;
    struct fy_err e;
    for (unsigned i = 0; i < 13; i++) {
        int code = FY_ECORRUPT;
        size_t len = sizeof k;
        make_flat1(k);
        switch (i) {
        case 0: /* a feature that nobody knows */
            header1(k + 0x100, 0x10013);
            code = FY_EUNSUPPORTED;
            break;
        case 1: /* no addresses and no ELF */
            header1(k + 0x100, 3);
            break;
        case 2: /* cut off */
            len = 0x118;
            break;
        case 3: /* the header before the file */
            fy_put32(k + 0x110, BASE - 1);
            break;
        case 4: /* more than the file has */
            fy_put32(k + 0x114, BASE + LEN + 1);
            break;
        case 5:
            fy_put32(k + 0x11c, BASE + 0x3000);
            break;
        case 6: /* out of RAM */
            fy_put32(k + 0x118, 0xf0000000);
            code = FY_ERESOURCE;
            break;
        case 7: /* the firmware's place */
            for (unsigned f = 0x10c; f <= 0x11c; f += 4)
                fy_put32(k + f, fy_get32(k + f) - BASE + 0xa0000);
            code = FY_ERESOURCE;
            break;
        case 8:
            make_flat2(k);
            fy_put16(k + 0x110, 77); /* an unknown tag that is not optional */
            code = FY_EUNSUPPORTED;
            break;
        case 9:
            make_flat2(k);
            fy_put32(k + 0x114, 7);
            break;
        case 10:
            make_flat2(k);
            fy_put32(k + 0x104, 4); /* MIPS */
            fy_put32(k + 0x10c, -(0xe85250d6 + 4 + 64));
            code = FY_EUNSUPPORTED;
            break;
        case 11:
            make_elf(k, true);
            fy_put64(k + 24, 0x1234);
            break;
        case 12:
            make_elf(k, false);
            fy_put32(k + 64 + 16, LEN);
            break;
        }
        assert_int_equal(load(k, len, "", 0, &b, &e), -1);
        if (e.code != code)
            fail_msg("case %u: code %d, not %d: %s", i, e.code, code, e.text);
    }
    make_flat1(k);
    k[0x108] ^= 1; /* no header then */
    assert_int_equal(load(k, sizeof k, "", 0, &b, &e), -1);
    assert_int_equal(e.code, FY_EUNSUPPORTED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(flat_1, setup, teardown),
        cmocka_unit_test_setup_teardown(flat_2, setup, teardown),
        cmocka_unit_test_setup_teardown(elf, setup, teardown),
        cmocka_unit_test_setup_teardown(low_image, setup, teardown),
        cmocka_unit_test_setup_teardown(refusals, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
