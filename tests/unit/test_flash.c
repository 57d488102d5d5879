// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/dev_fixture.h"

#include "hv/dev/flash.h"
#include "tests/unit/memory_fixture.h"

#define RAM (2u << 20)
#define AREA (2u << 20)
#define AT 0x4000u
#define BYTES 0x5000u
#define GPA (0x100000000ull - AREA + AT)

struct rig {
    struct fixture f;
    struct fy_gmem *mem;
    int file;
    uint64_t marked;
};

static void on_written(void *arg, uint64_t offset, uint64_t len)
{
    struct rig *r = arg;
    assert_true(offset >= RAM + AT && offset + len <= RAM + AT + BYTES);
    r->marked += len;
}

static int setup(void **state)
{
    struct rig *r = calloc(1, sizeof *r);
    uint8_t content[BYTES];
    fx_init(&r->f);
    r->mem = fx_memory_area(RAM, AREA, NULL);
    assert_non_null(r->mem);
    r->mem->written = on_written;
    r->mem->written_arg = r;
    r->file = memfd_create("vars", MFD_CLOEXEC);
    memset(content, 0x5a, sizeof content);
    assert_int_equal(fy_pwrite_all(r->file, content, sizeof content, 0), 0);
    assert_int_equal(fy_flash_new(r->f.bus, &r->f.host, r->mem, AT, BYTES, r->file, &r->f.dev, NULL), 0);
    assert_int_equal(fy_flash_read_file(&r->f.dev, NULL), 0);
    r->marked = 0;
    *state = r;
    return 0;
}

static int teardown(void **state)
{
    struct rig *r = *state;
    fx_done(&r->f);
    fy_gmem_free(r->mem);
    close(r->file);
    free(r);
    return 0;
}

static uint64_t rd(struct rig *r, uint64_t at, unsigned size)
{
    return fy_bus_read(r->f.bus, FY_SPACE_MMIO, GPA + at, size);
}

static void wr(struct rig *r, uint64_t at, uint8_t v)
{
    fy_bus_write(r->f.bus, FY_SPACE_MMIO, GPA + at, 1, v);
}

/* What the loop's thread does when a driver is done; these tests have no loop. */
static void stand_still(struct rig *r)
{
    r->f.dev.ops->pause(r->f.dev.dev);
}

static uint8_t in_file(struct rig *r, off_t at)
{
    uint8_t v = 0;
    assert_int_equal(pread(r->file, &v, 1, at), 1);
    return v;
}

/* As OVMF tells flash from RAM and ROM. */
static void is_flash(void **state)
{
    struct rig *r = *state;
    wr(r, 8, 0x50);
    assert_int_equal(rd(r, 8, 1), 0x5a);
    wr(r, 8, 0x70);
    assert_int_equal(rd(r, 8, 1), 0);
    wr(r, 8, 0xff);
    assert_int_equal(rd(r, 8, 4), 0x5a5a5a5a);
    wr(r, 0x55, 0x98);
    assert_int_equal(rd(r, 0x10, 1) | rd(r, 0x11, 1) << 8 | rd(r, 0x12, 1) << 16, 'Q' | 'R' << 8 | 'Y' << 16);
    assert_int_equal(rd(r, 0x13, 2), 1);
    assert_int_equal(rd(r, 0x2d, 2), BYTES / 4096 - 1);
    wr(r, 0, 0x90);
    assert_int_equal(rd(r, 0, 1), 0x89);
    assert_int_equal(r->marked, 0);
}

static void programs_and_erases(void **state)
{
    struct rig *r = *state;
    wr(r, 0x1003, 0x10);
    wr(r, 0x1003, 0xf0);
    assert_int_equal(rd(r, 0, 1), 0x80); /* ready */
    assert_int_equal(r->marked, 1);
    wr(r, 0, 0xff);
    assert_int_equal(rd(r, 0x1003, 1), 0x50); /* only clears bits */
    stand_still(r);
    assert_int_equal(in_file(r, 0x1003), 0x50);
    wr(r, 0x1004, 0x20);
    wr(r, 0x1004, 0xd0);
    assert_int_equal(in_file(r, 0x1003), 0x50);
    wr(r, 0, 0xff);
    stand_still(r);
    assert_int_equal(rd(r, 0x1000, 8), ~0ull);
    assert_int_equal(in_file(r, 0x1003), 0xff);
    assert_int_equal(in_file(r, 0xfff), 0x5a);
    assert_int_equal(in_file(r, 0x2000), 0x5a);
    wr(r, 0x1000, 0x20);
    wr(r, 0x1000, 0x12); /* no confirmation */
    assert_int_equal(rd(r, 0, 1) & 0x30, 0x30);
    wr(r, 0, 0x50);
    assert_int_equal(rd(r, 0, 1), 0);
    /* the last bytes, and none behind them */
    wr(r, 0, 0xff);
    wr(r, BYTES - 1, 0x10);
    fy_bus_write(r->f.bus, FY_SPACE_MMIO, GPA + BYTES - 4, 8, 0);
    fy_bus_write(r->f.bus, FY_SPACE_MMIO, GPA + BYTES - 4, 4, 0x11111111);
    wr(r, 0, 0xff);
    assert_int_equal(rd(r, BYTES - 4, 4), 0x10101010);
    assert_int_equal(*fy_gmem_area(r->mem, AT + BYTES, 1), 0);
}

static void state_travels(void **state)
{
    struct rig *r = *state;
    wr(r, 0, 0x20);
    fx_same_after_load(&r->f);
    fx_mutate(&r->f);
    /* What came with memory goes to this host's file. */
    memset(fy_gmem_area(r->mem, AT, BYTES), 0x33, BYTES);
    fx_same_after_load(&r->f);
    r->f.dev.ops->reset(r->f.dev.dev);
    assert_int_equal(in_file(r, 0), 0x33);
    assert_int_equal(in_file(r, BYTES - 1), 0x33);
}

static void refuses(void **state)
{
    struct rig *r = *state;
    struct fy_device d;
    struct fy_err e;
    assert_int_equal(fy_flash_new(r->f.bus, &r->f.host, r->mem, AREA - 0x1000, 0x2000, -1, &d, &e), -1);
    assert_int_equal(fy_flash_new(r->f.bus, &r->f.host, r->mem, 0x10000, 0x800, -1, &d, &e), -1);
    assert_int_equal(fy_flash_new(r->f.bus, &r->f.host, r->mem, AT, BYTES, -1, &d, &e), -1); /* taken */
    assert_int_equal(ftruncate(r->file, BYTES - 1), 0);
    assert_int_equal(fy_flash_read_file(&r->f.dev, &e), -1);
    assert_int_equal(e.code, FY_ECORRUPT);
    assert_int_equal(ftruncate(r->file, BYTES), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(is_flash, setup, teardown),
        cmocka_unit_test_setup_teardown(programs_and_erases, setup, teardown),
        cmocka_unit_test_setup_teardown(state_travels, setup, teardown),
        cmocka_unit_test_setup_teardown(refuses, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
