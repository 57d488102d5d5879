// SPDX-License-Identifier: Apache-2.0
/* The kernel that firmware gets: the option ROM, and what is refused of a kernel's header. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "hv/dev/fwcfg.h"
#include "hv/vm/fwkernel.h"
#include "proto/wire.h"
#include "tests/unit/memory_fixture.h"

#define RAM (64ull << 20)
#define KERNEL_BYTES 0x9000u
#define SETUP_BYTES (5u * 512)

static uint8_t sum(const uint8_t *p, size_t n)
{
    uint8_t s = 0;
    for (size_t i = 0; i < n; i++)
        s = (uint8_t)(s + p[i]);
    return s;
}

static void test_rom(void **state)
{
    (void)state;
    uint8_t rom[FY_FWKERNEL_ROM_BYTES];
    fy_fwkernel_rom(rom);
    assert_int_equal(fy_get16(rom), 0xaa55);
    assert_int_equal(rom[2] * 512, sizeof rom);
    assert_int_equal(sum(rom, sizeof rom), 0);
    const uint8_t *pnp = rom + fy_get16(rom + 0x1a);
    assert_memory_equal(pnp, "$PnP", 4);
    assert_int_equal(sum(pnp, pnp[5] * 16u), 0);
    unsigned entry = fy_get16(pnp + 0x1a);
    assert_true(entry > 0x40 && entry < sizeof rom && rom[entry] == 0xfc); /* cld */
    assert_string_equal((char *)rom + fy_get16(pnp + 0x10), "Ferry kernel");
}

struct fixture {
    struct fy_machine m;
    Ferry__Machine desc;
    Ferry__BootImages images;
    struct fy_bus *bus;
    uint8_t *kernel;
};

static void make(struct fixture *f)
{
    struct fy_err e;
    memset(f, 0, sizeof *f);
    int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_int_equal(ftruncate(fd, (off_t)(RAM + (2u << 20))), 0);
    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW);
    f->m.gmem = fy_gmem_open_area(fd, fy_dup(fd), RAM, 0, 2u << 20, false, &e);
    assert_non_null(f->m.gmem);
    f->bus = fy_bus_new(&e);
    assert_int_equal(fy_fwcfg_new(f->bus, &f->m.host, f->m.gmem, &f->m.devices[0], &e), 0);
    f->m.device_count = 1;
    ferry__machine__init(&f->desc);
    ferry__boot_images__init(&f->images);
    f->images.area_bytes = 2u << 20;
    f->images.kernel_bytes = KERNEL_BYTES;
    f->images.initrd_bytes = 5000;
    f->desc.images = &f->images;
    f->desc.cmdline = (char *)(uintptr_t) "a=b";
    f->m.desc = &f->desc;
    f->kernel = fy_gmem_images(f->m.gmem, 0, KERNEL_BYTES);
    f->kernel[0x1f1] = 4;
    fy_put16(f->kernel + 0x1fe, 0xaa55);
    memcpy(f->kernel + 0x202, "HdrS", 4);
    fy_put16(f->kernel + 0x206, 0x20f);
    f->kernel[0x211] = 1;
    fy_put32(f->kernel + 0x22c, 0x7fffffff);
    fy_put32(f->kernel + 0x238, 2047);
    fy_put64(f->kernel + 0x258, 16u << 20);
    fy_put32(f->kernel + 0x260, 8u << 20);
    f->kernel[SETUP_BYTES] = 0x5a;
}

static void drop(struct fixture *f)
{
    f->m.devices[0].ops->free(f->m.devices[0].dev);
    fy_bus_free(f->bus);
    fy_gmem_free(f->m.gmem);
}

static uint32_t item(struct fixture *f, uint16_t key)
{
    uint32_t all = 0;
    fy_bus_write(f->bus, FY_SPACE_PORT, FY_PORT_FWCFG, 2, key);
    for (unsigned i = 0; i < 4; i++)
        all |= (uint32_t)(fy_bus_read(f->bus, FY_SPACE_PORT, FY_PORT_FWCFG + 1, 1) & 0xff) << (8 * i);
    return all;
}

static void test_items(void **state)
{
    (void)state;
    struct fixture f;
    struct fy_err e;
    make(&f);
    assert_int_equal(fy_fwkernel_set(&f.m, &e), 0);
    assert_int_equal(fy_fwkernel_set(&f.m, &e), 0); /* at each reset */
    assert_int_equal(item(&f, FY_FWCFG_SETUP_SIZE), SETUP_BYTES);
    assert_int_equal(item(&f, FY_FWCFG_KERNEL_SIZE), KERNEL_BYTES - SETUP_BYTES);
    assert_int_equal(item(&f, FY_FWCFG_KERNEL_DATA), 0x5a);
    assert_int_equal(item(&f, FY_FWCFG_CMDLINE_SIZE), 4);
    assert_int_equal(item(&f, FY_FWCFG_CMDLINE_DATA), 0x00623d61);
    assert_int_equal(item(&f, FY_FWCFG_INITRD_SIZE), 5000);
    uint32_t at = item(&f, FY_FWCFG_INITRD_ADDR);
    assert_true(at >= 24u << 20 && at + 5000 <= RAM - (2u << 20) && at % 4096 == 0);
    assert_int_equal(f.kernel[0x210], 0); /* the kept image is as it was */
    drop(&f);
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        unsigned at, bytes;
        uint64_t value;
    } bad[] = {
        {0x1fe, 2, 0},          {0x202, 4, 0},   {0x206, 2, 0x209},      {0x211, 1, 0},
        {0x1f1, 1, 255},        {0x1f1, 1, 71},  {0x22c, 4, 0x100},      {0x22c, 4, 0xffffffff - (40u << 20)},
        {0x258, 8, UINT64_MAX}, {0x258, 8, RAM}, {0x260, 4, 0xffffffff}, {0x260, 4, 46u << 20},
        {0x238, 4, 2},
    };
    struct fy_err e;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct fixture f;
        make(&f);
        uint8_t *p = f.kernel + bad[i].at;
        for (unsigned k = 0; k < bad[i].bytes; k++)
            p[k] = (uint8_t)(bad[i].value >> (8 * k));
        int r = fy_fwkernel_set(&f.m, &e);
        if (i == 7) /* the kernel takes an initrd anywhere: RAM's end counts */
            assert_int_equal(r, 0);
        else
            assert_int_equal(r, -1);
        drop(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rom),
        cmocka_unit_test(test_items),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
