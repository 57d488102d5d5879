// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/dev_fixture.h"

#include <stdio.h>

#include "hv/dev/fwcfg.h"
#include "tests/unit/memory_fixture.h"

#define MEMORY (2u << 20)

struct rig {
    struct fixture f;
    struct fy_gmem *mem;
};

static int setup(void **state)
{
    struct rig *r = malloc(sizeof *r);
    fx_init(&r->f);
    r->mem = fx_memory(MEMORY, NULL);
    assert_non_null(r->mem);
    assert_int_equal(fy_fwcfg_new(r->f.bus, &r->f.host, r->mem, &r->f.dev, NULL), 0);
    assert_int_equal(fy_fwcfg_set_file(&r->f.dev, "etc/one", "first", 5, NULL), 0);
    assert_int_equal(fy_fwcfg_set_file(&r->f.dev, "etc/two", "second!", 7, NULL), 0);
    assert_int_equal(fy_fwcfg_set_file(&r->f.dev, "etc/one", "again", 5, NULL), 0);
    *state = r;
    return 0;
}

static int teardown(void **state)
{
    struct rig *r = *state;
    fx_done(&r->f);
    fy_gmem_free(r->mem);
    free(r);
    return 0;
}

static void select_item(struct rig *r, uint16_t key)
{
    fx_outp(&r->f, FY_PORT_FWCFG, 2, key);
}

static void read_port(struct rig *r, uint8_t *to, size_t len)
{
    for (size_t i = 0; i < len; i++)
        to[i] = (uint8_t)fx_in(&r->f, FY_PORT_FWCFG + 1, 1);
}

static void by_port(void **state)
{
    struct rig *r = *state;
    uint8_t b[140];
    read_port(r, b, 6);
    assert_memory_equal(b, "QEMU\0\0", 6); /* zeros behind the end */
    select_item(r, 1);
    read_port(r, b, 4);
    assert_memory_equal(b, "\3\0\0\0", 4);
    select_item(r, 0x19);
    read_port(r, b, 4 + 2 * 64 + 1);
    assert_memory_equal(b, "\0\0\0\2\0\0\0\5\0\x20\0\0etc/one\0", 20);
    assert_memory_equal(b + 68, "\0\0\0\7\0\x21\0\0etc/two\0", 16);
    assert_int_equal(b[132], 0);
    select_item(r, 0x20);
    read_port(r, b, 5);
    assert_memory_equal(b, "again", 5);
    select_item(r, 0x4321);
    read_port(r, b, 1);
    assert_int_equal(b[0], 0);
    fx_outp(&r->f, FY_PORT_FWCFG, 1, 0x19); /* a selector has 16 bits */
    read_port(r, b, 4);
    assert_memory_equal(b, "\0\0\0\0", 4);
}

/* control, length and address of an access structure at gpa 0x1000; then the doorbell. */
static uint32_t dma(struct rig *r, uint32_t control, uint32_t len, uint64_t to)
{
    uint32_t w[4] = {__builtin_bswap32(control), __builtin_bswap32(len),
                     __builtin_bswap32((uint32_t)(to >> 32)), __builtin_bswap32((uint32_t)to)};
    assert_int_equal(fy_gmem_write(r->mem, 0x1000, w, sizeof w, NULL), 0);
    fx_outp(&r->f, FY_PORT_FWCFG_DMA, 4, 0);
    fx_outp(&r->f, FY_PORT_FWCFG_DMA + 4, 4, __builtin_bswap32(0x1000));
    assert_int_equal(fy_gmem_read(r->mem, 0x1000, w, 4, NULL), 0);
    return __builtin_bswap32(w[0]);
}

static void by_dma(void **state)
{
    struct rig *r = *state;
    uint8_t *p = fy_gmem_at(r->mem, 0x2000, 16);
    assert_int_equal(fx_in(&r->f, FY_PORT_FWCFG_DMA, 4), 0x554d4551); /* "QEMU", then " CFG" */
    assert_int_equal(fx_in(&r->f, FY_PORT_FWCFG_DMA + 4, 4), 0x47464320);
    memset(p, 0xee, 16);
    assert_int_equal(dma(r, 0x21 << 16 | 8 | 2, 9, 0x2000), 0);
    assert_memory_equal(p, "second!\0\0\xee", 10);
    assert_int_equal(dma(r, 0x21 << 16 | 8 | 4, 3, 0), 0); /* select and skip */
    assert_int_equal(dma(r, 2, 4, 0x2000), 0);
    assert_memory_equal(p, "ond!", 4);
    assert_int_equal(dma(r, 0x21 << 16 | 8 | 0x10, 4, 0x2000), 1); /* nothing is writable */
    assert_int_equal(dma(r, 2, 4, MEMORY - 3), 1);
    assert_int_equal(dma(r, 2, 4, UINT64_MAX), 1);
    assert_int_equal(dma(r, 2, 0xffffffff, 0), 1);
    assert_int_equal(dma(r, 2, 0, UINT64_MAX), 0); /* nothing to read is no error */
    /* an access structure that lies nowhere: nothing happens */
    fx_outp(&r->f, FY_PORT_FWCFG_DMA, 4, 0xffffffff);
    fx_outp(&r->f, FY_PORT_FWCFG_DMA + 4, 4, 0xffffffff);
    fx_outp(&r->f, FY_PORT_FWCFG_DMA, 8, __builtin_bswap64(MEMORY - 8));
}

static void full(void **state)
{
    struct rig *r = *state;
    struct fy_err e;
    char name[80];
    int made = 2;
    for (int i = 0; i < 100; i++) {
        snprintf(name, sizeof name, "etc/%d", i);
        made += fy_fwcfg_set_file(&r->f.dev, name, "x", 1, &e) == 0;
    }
    assert_int_equal(made, 32);
    memset(name, 'a', 56);
    name[56] = 0;
    assert_int_equal(fy_fwcfg_set_file(&r->f.dev, name, "x", 1, &e), -1);
}

static void state_travels(void **state)
{
    struct rig *r = *state;
    uint8_t b[3];
    select_item(r, 0x21);
    read_port(r, b, 3);
    fx_outp(&r->f, FY_PORT_FWCFG_DMA, 4, 0x12345678);
    fx_same_after_load(&r->f);
    fx_mutate(&r->f);
    read_port(r, b, 1);
    assert_int_equal(b[0], 'o');
    r->f.dev.ops->reset(r->f.dev.dev);
    read_port(r, b, 1);
    assert_int_equal(b[0], 'Q');
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(by_port, setup, teardown),
        cmocka_unit_test_setup_teardown(by_dma, setup, teardown),
        cmocka_unit_test_setup_teardown(full, setup, teardown),
        cmocka_unit_test_setup_teardown(state_travels, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
