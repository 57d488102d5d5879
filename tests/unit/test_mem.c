// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "hv/mem/bus.h"
#include "hv/mem/digest.h"
#include "hv/mem/guest.h"

static int sealed(uint64_t bytes)
{
    int fd = memfd_create("ram", MFD_ALLOW_SEALING);
    assert_true(fd >= 0 && ftruncate(fd, (off_t)bytes) == 0);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
    return fd;
}

static void test_layout(void **state)
{
    (void)state;
    struct fy_slot s[FY_SLOTS_MAX];
    assert_int_equal(fy_gmem_layout(2u << 20, s), 1);
    assert_int_equal(s[0].bytes, 2u << 20);
    assert_int_equal(fy_gmem_layout(FY_HOLE_START, s), 1);
    assert_int_equal(fy_gmem_layout(1ull << 40, s), 2);
    assert_int_equal(s[0].bytes, FY_HOLE_START);
    assert_int_equal(s[1].gpa, FY_HOLE_END);
    assert_int_equal(s[1].offset, FY_HOLE_START);
    assert_int_equal(s[0].bytes + s[1].bytes, 1ull << 40);
}

/* Another slot behind RAM, which is neither RAM nor firmware. */
static void test_images_area(void **state)
{
    (void)state;
    struct fy_err e;
    assert_null(fy_gmem_open_area(sealed(3u << 20), -1, 2u << 20, 0, 1u << 20, false, &e));
    struct fy_gmem *m = fy_gmem_open_area(sealed(8u << 20), -1, 2u << 20, 4u << 20, 2u << 20, false, &e);
    assert_non_null(m);
    assert_int_equal(m->slot_count, 3);
    assert_int_equal(m->ram_slots, 1);
    assert_ptr_equal(m->images, &m->slots[2]);
    assert_true(m->images->gpa == FY_IMAGES_GPA && m->images->offset == 6u << 20);
    assert_ptr_equal(fy_gmem_images(m, 1, 2), m->host + (6u << 20) + 1);
    assert_null(fy_gmem_images(m, 2u << 20, 1));
    assert_null(fy_gmem_at(m, FY_IMAGES_GPA, 1));
    fy_gmem_free(m);
    m = fy_gmem_open_area(sealed(4u << 20), -1, 2u << 20, 0, 2u << 20, false, &e);
    assert_non_null(m);
    assert_null(fy_gmem_area(m, 0, 1)); /* not the firmware's */
    assert_int_equal(fy_gmem_add_rom(m, 0, 4096, &e), -1);
    assert_ptr_equal(fy_gmem_images(m, 0, 2u << 20), m->host + (2u << 20));
    fy_gmem_free(m);
}

/* RAM is where it was; the area is a slot for log-dirty, and no place for a device's DMA. */
static void test_firmware_area(void **state)
{
    (void)state;
    struct fy_err e;
    assert_null(fy_gmem_open_area(sealed(3u << 20), -1, 2u << 20, 1u << 20, 0, false, &e));
    assert_null(fy_gmem_open_area(sealed(12u << 20), -1, 2u << 20, 10u << 20, 0, false, &e));
    struct fy_gmem *m = fy_gmem_open_area(sealed(6u << 20), -1, 2u << 20, 4u << 20, 0, false, &e);
    assert_non_null(m);
    assert_int_equal(m->ram_slots, 1);
    assert_int_equal(m->slot_count, 2);
    assert_int_equal(m->slots[1].offset, 2u << 20);
    assert_int_equal(m->slots[1].gpa, 0xffc00000u);
    assert_null(fy_gmem_at(m, 0xffc00000u, 1));
    assert_null(fy_gmem_area(m, (4u << 20) - 1, 2));
    assert_ptr_equal(fy_gmem_area(m, 0, 4u << 20), m->host + (2u << 20));
    assert_int_equal(fy_gmem_add_rom(m, 0x1000, 4u << 20, &e), -1);
    assert_int_equal(fy_gmem_add_rom(m, 0x1800, 0x1000, &e), -1);
    assert_int_equal(fy_gmem_add_rom(m, (4u << 20) - 0x40000, 0x40000, &e), 0);
    assert_int_equal(m->roms[0].gpa, 0xfffc0000u);
    assert_int_equal(m->roms[0].offset, (6u << 20) - 0x40000);
    fy_gmem_free(m);
    m = fy_gmem_open(sealed(2u << 20), -1, 2u << 20, false, &e);
    assert_null(fy_gmem_area(m, 0, 1));
    assert_int_equal(fy_gmem_add_rom(m, 0, 0x1000, &e), -1);
    fy_gmem_free(m);
}

static void test_open_refuses(void **state)
{
    (void)state;
    struct fy_err e;
    assert_null(fy_gmem_open(sealed(4u << 20), -1, 2u << 20, false, &e));
    assert_null(fy_gmem_open(sealed(3u << 20), -1, 3u << 20, false, &e));
    int fd = memfd_create("ram", MFD_ALLOW_SEALING);
    assert_int_equal(ftruncate(fd, 2u << 20), 0);
    assert_null(fy_gmem_open(fd, -1, 2u << 20, false, &e));
    assert_non_null(strstr(e.text, "sealed"));
}

static uint64_t marked_at, marked_len;

static void on_written(void *arg, uint64_t offset, uint64_t len)
{
    (void)arg;
    marked_at = offset;
    marked_len = len;
}

/* 4 GiB of RAM over the hole, as a sparse file. */
static void test_access(void **state)
{
    (void)state;
    struct fy_err e;
    uint64_t v = 0x1122334455667788ull, back = 0;
    struct fy_gmem *m = fy_gmem_open(sealed(1ull << 32), -1, 1ull << 32, false, &e);
    assert_non_null(m);
    m->written = on_written;
    assert_non_null(fy_gmem_at(m, FY_HOLE_START - 8, 8));
    assert_null(fy_gmem_at(m, FY_HOLE_START - 8, 9));
    assert_null(fy_gmem_at(m, FY_HOLE_START, 1));
    assert_null(fy_gmem_at(m, FY_HOLE_END - 1, 1));
    assert_null(fy_gmem_at(m, UINT64_MAX, 2));
    assert_int_equal(fy_gmem_write(m, FY_HOLE_END + 4096, &v, 8, &e), 0);
    assert_int_equal(marked_at, FY_HOLE_START + 4096);
    assert_int_equal(marked_len, 8);
    assert_int_equal(fy_gmem_read(m, FY_HOLE_END + 4096, &back, 8, &e), 0);
    assert_int_equal(back, v);
    assert_int_equal(fy_gmem_write(m, FY_HOLE_END + (1ull << 30) - 4, &v, 8, &e), -1);
    assert_int_equal(e.code, FY_ECORRUPT);
    struct stat st;
    assert_int_equal(fstat(m->fd, &st), 0);
    assert_true(st.st_blocks * 512 <= 65536); /* nothing else was touched */
    fy_gmem_free(m);
}

static void test_prealloc_keeps(void **state)
{
    (void)state;
    struct fy_err e;
    uint64_t ns;
    struct stat st;
    struct fy_gmem *m = fy_gmem_open(sealed(8u << 20), -1, 8u << 20, false, &e);
    memcpy(m->host + 12345, "kept", 4);
    assert_int_equal(fy_gmem_prealloc(m, 3, &ns, &e), 0);
    assert_memory_equal(m->host + 12345, "kept", 4);
    assert_int_equal(fstat(m->fd, &st), 0);
    assert_int_equal(st.st_blocks * 512, 8u << 20);
    fy_gmem_free(m);
}

static uint64_t last_offset, last_value;

static uint64_t dev_read(void *dev, uint64_t offset, unsigned size)
{
    (void)size;
    last_offset = offset;
    return *(uint64_t *)dev;
}

static void dev_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    (void)dev;
    (void)size;
    last_offset = offset;
    last_value = value;
}

static void test_bus(void **state)
{
    (void)state;
    static const struct fy_io_ops ops = {dev_read, dev_write};
    struct fy_err e;
    uint64_t a = 0xaabbccdd, b = 0x55;
    struct fy_bus *bus = fy_bus_new(&e);
    assert_int_equal(fy_bus_add(bus, FY_SPACE_PORT, 0x3f8, 8, &ops, &a, &e), 0);
    assert_int_equal(fy_bus_add(bus, FY_SPACE_PORT, 0x70, 2, &ops, &b, &e), 0);
    assert_int_equal(fy_bus_add(bus, FY_SPACE_PORT, 0x3ff, 2, &ops, &b, &e), -1);
    assert_int_equal(e.code, FY_EEXISTS);
    assert_int_equal(fy_bus_add(bus, FY_SPACE_PORT, 0x3f0, 9, &ops, &b, &e), -1);
    assert_int_equal(fy_bus_add(bus, FY_SPACE_PORT, 0xffff, 2, &ops, &b, &e), -1);
    assert_int_equal(fy_bus_add(bus, FY_SPACE_MMIO, UINT64_MAX, 2, &ops, &b, &e), -1);
    assert_int_equal(fy_bus_add(bus, FY_SPACE_PORT, 0x400, 1, &ops, &b, &e), 0);
    assert_int_equal(fy_bus_read(bus, FY_SPACE_PORT, 0x3f9, 2), 0xccdd);
    assert_int_equal(last_offset, 1);
    assert_int_equal(fy_bus_read(bus, FY_SPACE_PORT, 0x71, 1), 0x55);
    assert_int_equal(fy_bus_read(bus, FY_SPACE_PORT, 0x71, 2), 0xffff); /* over the end */
    assert_int_equal(fy_bus_read(bus, FY_SPACE_PORT, 0x80, 4), 0xffffffff);
    assert_int_equal(fy_bus_read(bus, FY_SPACE_MMIO, 0x3f8, 8), UINT64_MAX);
    fy_bus_write(bus, FY_SPACE_PORT, 0x400, 1, 0x1234);
    assert_int_equal(last_value, 0x34);
    fy_bus_free(bus);
}

static uint64_t digest(const struct fy_gmem *m)
{
    uint64_t d;
    assert_int_equal(fy_gmem_digest(m, &d, NULL), 0);
    return d;
}

static void test_digest(void **state)
{
    (void)state;
    struct fy_gmem *m = fy_gmem_open(sealed(2u << 20), sealed(2u << 20), 2u << 20, false, NULL);
    struct stat st;
    uint8_t page[4096];
    assert_non_null(m);
    assert_true(digest(m) == 0);
    assert_int_equal(fstat(m->fd, &st), 0);
    assert_int_equal(st.st_blocks, 0); /* no hole was filled */
    memset(m->host + 7 * 4096, 0, 4096);
    assert_true(digest(m) == 0); /* zeros are like holes */
    for (unsigned i = 0; i < sizeof page; i++)
        page[i] = (uint8_t)(i * 7);
    memcpy(m->host + 3 * 4096, page, 4096);
    uint64_t at3 = digest(m);
    m->host[3 * 4096 + 4095] ^= 1;
    assert_true(digest(m) != at3);
    m->host[3 * 4096 + 4095] ^= 1;
    assert_true(digest(m) == at3);
    memset(m->host + 3 * 4096, 0, 4096);
    memcpy(m->host + 4 * 4096, page, 4096);
    assert_true(digest(m) != at3); /* where a page lies counts */
    memcpy(m->host + 3 * 4096, page, 4096);
    memset(m->host + 4 * 4096, 0, 4096);
    assert_true(digest(m) == at3);
    fy_gmem_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layout),      cmocka_unit_test(test_firmware_area),
        cmocka_unit_test(test_images_area), cmocka_unit_test(test_open_refuses),
        cmocka_unit_test(test_access),      cmocka_unit_test(test_prealloc_keeps),
        cmocka_unit_test(test_bus),         cmocka_unit_test(test_digest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
