// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <elf.h>

#include "hv/base/checked.h"
#include "hv/vm/load.h"
#include "proto/wire.h"
#include "tests/unit/memory_fixture.h"

#define MIB (1ull << 20)

static struct fy_gmem *memory(uint64_t bytes)
{
    struct fy_err e = {0};
    struct fy_gmem *m = fx_memory(bytes, &e);
    if (!m)
        fail_msg("%s", e.text);
    return m;
}

static uint64_t read64(struct fy_gmem *m, uint64_t gpa)
{
    uint8_t b[8];
    assert_int_equal(fy_gmem_read(m, gpa, b, 8, NULL), 0);
    return fy_get64(b);
}

static uint32_t read32(struct fy_gmem *m, uint64_t gpa)
{
    return (uint32_t)read64(m, gpa);
}

#define CODE 0x200000ull
#define CODE_FILE 0x1000
#define ELF_LEN 0x2000

/* A PVH ELF64: one segment of 4 KiB and as much bss at 2 MiB, a note after the program headers. */
static void make_elf64(uint8_t *k)
{
    memset(k, 0, ELF_LEN);
    Elf64_Ehdr h = {.e_type = ET_EXEC,
                    .e_machine = EM_X86_64,
                    .e_phoff = sizeof h,
                    .e_phentsize = sizeof(Elf64_Phdr),
                    .e_phnum = 2};
    memcpy(h.e_ident, ELFMAG, SELFMAG);
    h.e_ident[EI_CLASS] = ELFCLASS64;
    h.e_ident[EI_DATA] = ELFDATA2LSB;
    Elf64_Phdr p[2] = {
        {.p_type = PT_LOAD, .p_offset = CODE_FILE, .p_paddr = CODE, .p_filesz = 0x1000, .p_memsz = 0x2000},
        {.p_type = PT_NOTE, .p_offset = 0x200, .p_filesz = 56, .p_memsz = 56, .p_align = 4}};
    memcpy(k, &h, sizeof h);
    memcpy(k + sizeof h, p, sizeof p);
    uint8_t *n = k + 0x200; /* a foreign note first */
    fy_put32(n, 4);
    fy_put32(n + 4, 5);
    fy_put32(n + 8, 18);
    memcpy(n + 12, "GNU", 4);
    n += 24;
    fy_put32(n, 4);
    fy_put32(n + 4, 8);
    fy_put32(n + 8, 18);
    memcpy(n + 12, "Xen", 4);
    fy_put64(n + 16, CODE + 0x40);
    memset(k + CODE_FILE, 0xc3, 0x1000);
}

static int load(struct fy_gmem *m, const uint8_t *k, size_t len, const char *cmdline, size_t initrd,
                struct fy_boot *boot, struct fy_err *e)
{
    static uint8_t rd[3 * MIB];
    memset(rd, 0x5a, sizeof rd);
    struct fy_boot_images images = {.kernel = k,
                                    .kernel_len = len,
                                    .initrd = initrd ? rd : NULL,
                                    .initrd_len = initrd,
                                    .cmdline = cmdline,
                                    .acpi_rsdp = 0xe0000};
    return fy_load_kernel(m, &images, boot, e);
}

static void pvh_elf64(void **state)
{
    (void)state;
    uint8_t k[ELF_LEN];
    struct fy_boot b;
    struct fy_err e = {0};
    struct fy_gmem *m = memory(64 * MIB);
    make_elf64(k);
    memset(fy_gmem_at(m, CODE, 0x2000), 0xee, 0x2000);
    if (load(m, k, sizeof k, "quiet mem=1", 1000001, &b, &e))
        fail_msg("%s", e.text);
    assert_false(b.long_mode);
    assert_int_equal(b.rip, CODE + 0x40);
    assert_int_equal(read64(m, CODE + 0xff8), 0xc3c3c3c3c3c3c3c3ull);
    assert_int_equal(read64(m, CODE + 0x1000), 0);
    assert_int_equal(read64(m, CODE + 0x1ff8), 0);
    uint64_t si = b.rbx;
    assert_int_equal(read32(m, si), 0x336ec578);
    assert_int_equal(read32(m, si + 4), 1);
    assert_int_equal(read32(m, si + 12), 1);
    assert_int_equal(read64(m, si + 32), 0xe0000);
    char cmdline[12];
    assert_int_equal(fy_gmem_read(m, read64(m, si + 24), cmdline, 12, NULL), 0);
    assert_string_equal(cmdline, "quiet mem=1");
    uint64_t module = read64(m, si + 16);
    uint64_t rd = read64(m, module);
    assert_int_equal(read64(m, module + 8), 1000001);
    assert_int_equal(rd % 4096, 0);
    assert_true(rd >= CODE + 0x2000 && rd + 1000001 <= 64 * MIB);
    assert_int_equal(read64(m, rd + 1000001 - 8), 0x5a5a5a5a5a5a5a5aull);
    /* the map: sorted, without overlap, its RAM is ours */
    uint64_t map = read64(m, si + 40);
    uint32_t n = read32(m, si + 48);
    uint64_t at = 0;
    uint64_t ram = 0;
    for (uint32_t i = 0; i < n; i++) {
        assert_true(read64(m, map + 24 * i) >= at);
        at = read64(m, map + 24 * i) + read64(m, map + 24 * i + 8);
        if (read32(m, map + 24 * i + 16) == 1)
            ram += read64(m, map + 24 * i + 8);
    }
    assert_int_equal(at, 64 * MIB);
    assert_int_equal(ram, 63 * MIB + 0x9f000);
    fy_gmem_free(m);
}

static void pvh_elf32(void **state)
{
    (void)state;
    uint8_t k[ELF_LEN] = {0};
    struct fy_boot b;
    struct fy_err e = {0};
    Elf32_Ehdr h = {.e_type = ET_EXEC,
                    .e_machine = EM_386,
                    .e_phoff = sizeof h,
                    .e_phentsize = sizeof(Elf32_Phdr),
                    .e_phnum = 2};
    memcpy(h.e_ident, ELFMAG, SELFMAG);
    h.e_ident[EI_CLASS] = ELFCLASS32;
    h.e_ident[EI_DATA] = ELFDATA2LSB;
    Elf32_Phdr p[2] = {
        {.p_type = PT_LOAD, .p_offset = CODE_FILE, .p_paddr = CODE, .p_filesz = 0x800, .p_memsz = 0x800},
        {.p_type = PT_NOTE, .p_offset = 0x200, .p_filesz = 20, .p_memsz = 20, .p_align = 4}};
    memcpy(k, &h, sizeof h);
    memcpy(k + sizeof h, p, sizeof p);
    fy_put32(k + 0x200, 4);
    fy_put32(k + 0x204, 4);
    fy_put32(k + 0x208, 18);
    memcpy(k + 0x20c, "Xen", 4);
    fy_put32(k + 0x210, CODE);
    struct fy_gmem *m = memory(8 * MIB);
    if (load(m, k, sizeof k, NULL, 0, &b, &e))
        fail_msg("%s", e.text);
    assert_int_equal(b.rip, CODE);
    assert_int_equal(read32(m, b.rbx + 12), 0);
    fy_gmem_free(m);
}

/* Program header i's 8-byte field at `field`. */
static void poke(uint8_t *k, unsigned i, size_t field, uint64_t v)
{
    fy_put64(k + sizeof(Elf64_Ehdr) + i * sizeof(Elf64_Phdr) + field, v);
}

static void pvh_refusals(void **state)
{
    (void)state;
    struct fy_gmem *m = memory(8 * MIB);
    for (unsigned i = 0; i < 12; i++) {
        uint8_t k[ELF_LEN];
        struct fy_boot b;
        struct fy_err e = {0};
        int code = FY_ECORRUPT;
        size_t len = sizeof k;
        make_elf64(k);
        switch (i) {
        case 0:
            poke(k, 0, offsetof(Elf64_Phdr, p_offset), ELF_LEN - 1);
            break;
        case 1:
            poke(k, 0, offsetof(Elf64_Phdr, p_offset), UINT64_MAX - 5);
            break;
        case 2:
            poke(k, 0, offsetof(Elf64_Phdr, p_filesz), 0x3000);
            break;
        case 3:
            poke(k, 0, offsetof(Elf64_Phdr, p_memsz), UINT64_MAX);
            code = FY_ERESOURCE;
            break;
        case 4:
            poke(k, 0, offsetof(Elf64_Phdr, p_paddr), 8 * MIB - 0x1000);
            code = FY_ERESOURCE;
            break;
        case 5:
            poke(k, 0, offsetof(Elf64_Phdr, p_paddr), 0x8000);
            code = FY_EUNSUPPORTED;
            break;
        case 6:
            fy_put32(k + 0x218 + 4, 0xfffffff0);
            break; /* note description too long */
        case 7:
            fy_put32(k + 0x218, 5);
            code = FY_EUNSUPPORTED;
            break; /* not the Xen note */
        case 8:
            fy_put64(k + 0x218 + 16, CODE + 0x2000);
            break; /* entry behind the segment */
        case 9:
            len = 60;
            break;
        case 10:
            fy_put16(k + offsetof(Elf64_Ehdr, e_phnum), 0xffff);
            break;
        case 11:
            fy_put16(k + offsetof(Elf64_Ehdr, e_machine), EM_AARCH64);
            code = FY_EUNSUPPORTED;
            break;
        }
        assert_int_equal(load(m, k, len, "", 0, &b, &e), -1);
        if (e.code != code)
            fail_msg("case %u: code %d, not %d: %s", i, e.code, code, e.text);
    }
    fy_gmem_free(m);
}

#define BZ_LEN (0x400 + 0x3000)

/* Setup code of two sectors (setup_sects 1), then 12 KiB of code. */
static void make_bzimage(uint8_t *k)
{
    memset(k, 0, BZ_LEN);
    k[0x1f1] = 1;
    fy_put32(k + 0x1f4, 0x300);
    fy_put16(k + 0x1fe, 0xaa55);
    k[0x200] = 0xeb;
    k[0x201] = 0x6a;
    memcpy(k + 0x202, "HdrS", 4);
    fy_put16(k + 0x206, 0x20f);
    k[0x211] = 1;
    fy_put32(k + 0x22c, 0x7fffffff);
    fy_put32(k + 0x230, 0x200000);
    k[0x234] = 1;
    fy_put16(k + 0x236, 1);
    fy_put32(k + 0x238, 2047);
    fy_put64(k + 0x258, 0x1000000);
    fy_put32(k + 0x260, 0x100000);
    memset(k + 0x400, 0x90, 0x3000);
}

static void bzimage_64(void **state)
{
    (void)state;
    uint8_t k[BZ_LEN];
    struct fy_boot b;
    struct fy_err e = {0};
    struct fy_gmem *m = memory(5120 * MIB);
    make_bzimage(k);
    if (load(m, k, sizeof k, "console=ttyS0", 2 * MIB + 5, &b, &e))
        fail_msg("%s", e.text);
    assert_true(b.long_mode);
    assert_int_equal(b.rip, 0x1000200);
    assert_int_equal(read64(m, 0x1000000), 0x9090909090909090ull);
    uint64_t bp = b.rsi;
    assert_int_equal(read64(m, bp + 0x70), 0xe0000);
    assert_int_equal(read32(m, bp + 0x202), 0x53726448);
    assert_int_equal(read32(m, bp + 0x210) & 0xff, 0xff);
    assert_int_equal(read32(m, bp + 0x21c), 2 * MIB + 5);
    uint64_t rd = read32(m, bp + 0x218);
    assert_true(rd + 2 * MIB + 5 <= 0x80000000ull && rd >= 0x1100000);
    assert_int_equal(read64(m, rd), 0x5a5a5a5a5a5a5a5aull);
    char cmdline[14];
    assert_int_equal(fy_gmem_read(m, read32(m, bp + 0x228), cmdline, sizeof cmdline, NULL), 0);
    assert_string_equal(cmdline, "console=ttyS0");
    uint8_t entries;
    assert_int_equal(fy_gmem_read(m, bp + 0x1e8, &entries, 1, NULL), 0);
    assert_int_equal(entries, 5);
    assert_int_equal(read64(m, bp + 0x2d0 + 20 * 4), 0x100000000ull);
    assert_int_equal(read64(m, bp + 0x2d0 + 20 * 4 + 8), 5120 * MIB - 0xc0000000ull);
    /* walk the page tables */
    for (uint64_t va = 0; va < 1ull << 32; va += 0x3fe12345) {
        uint64_t pml4e = read64(m, b.cr3 + 8 * (va >> 39));
        uint64_t pdpte = read64(m, (pml4e & ~0xfffull) + 8 * (va >> 30 & 511));
        uint64_t pde = read64(m, (pdpte & ~0xfffull) + 8 * (va >> 21 & 511));
        assert_int_equal(pml4e & pdpte & pde & 3, 3);
        assert_int_equal(pde & ~0x1fffffull, va & ~0x1fffffull);
        assert_true(pde & 0x80);
    }
    assert_int_equal(read64(m, b.gdt_base + 0x10) >> 53 & 1, 1); /* L */
    assert_int_equal(b.gdt_limit, 31);
    fy_gmem_free(m);
}

/* A kernel without the 64-bit entry gets the 32-bit one. */
static void bzimage_32(void **state)
{
    (void)state;
    uint8_t k[BZ_LEN];
    struct fy_boot b;
    struct fy_err e = {0};
    struct fy_gmem *m = memory(64 * MIB);
    for (unsigned i = 0; i < 2; i++) {
        make_bzimage(k);
        fy_put16(k + (i ? 0x206 : 0x236), i ? 0x20a : 0);
        if (load(m, k, sizeof k, "", 0, &b, &e))
            fail_msg("%s", e.text);
        assert_false(b.long_mode);
        assert_int_equal(b.rip, 0x1000000);
        assert_int_equal(read32(m, b.rsi + 0x202), 0x53726448);
        assert_int_equal(read64(m, b.gdt_base + 0x10), 0x00cf9b000000ffffull); /* 32-bit code */
        assert_int_equal(b.gdt_limit, 31);
    }
    fy_gmem_free(m);
}

static void bzimage_placement_and_refusals(void **state)
{
    (void)state;
    struct fy_boot b;
    struct fy_err e = {0};
    uint8_t k[BZ_LEN];
    struct fy_gmem *m = memory(8 * MIB);
    make_bzimage(k); /* 16 MiB do not exist: the lowest aligned place */
    assert_int_equal(load(m, k, sizeof k, "", 0, &b, &e), 0);
    assert_int_equal(b.rip, 0x200200);
    for (unsigned i = 0; i < 9; i++) {
        int code = FY_EUNSUPPORTED;
        size_t len = sizeof k;
        size_t rd = 0;
        const char *cmdline = "";
        static char longline[3000];
        make_bzimage(k);
        switch (i) {
        case 0:
            fy_put16(k + 0x206, 0x209);
            break;
        case 1:
            k[0x211] = 0; /* loads below 1 MiB */
            break;
        case 2:
            len = 0x500;
            code = FY_ECORRUPT;
            break;
        case 3:
            fy_put32(k + 0x230, 0x300000);
            code = FY_ECORRUPT;
            break;
        case 4:
            fy_put32(k + 0x260, 0x700000);
            code = FY_ERESOURCE;
            break;
        case 5:
            k[0x234] = 0;
            code = FY_ERESOURCE;
            break;
        case 6:
            fy_put32(k + 0x22c, 0x300fff);
            rd = 3 * MIB;
            code = FY_ERESOURCE;
            break;
        case 7:
            memset(longline, 'a', 2048);
            cmdline = longline;
            code = FY_EUSAGE;
            break;
        case 8:
            k[0x1f1] = 255;
            code = FY_ECORRUPT;
            break;
        }
        e.code = 0;
        assert_int_equal(load(m, k, len, cmdline, rd, &b, &e), -1);
        if (e.code != code)
            fail_msg("case %u: code %d, not %d: %s", i, e.code, code, e.text);
    }
    assert_int_equal(load(m, (const uint8_t *)"#!/bin/sh\n", 10, "", 0, &b, &e), -1);
    assert_int_equal(e.code, FY_EUNSUPPORTED);
    fy_gmem_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pvh_elf64),    cmocka_unit_test(pvh_elf32),
        cmocka_unit_test(pvh_refusals), cmocka_unit_test(bzimage_64),
        cmocka_unit_test(bzimage_32),   cmocka_unit_test(bzimage_placement_and_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
