// SPDX-License-Identifier: Apache-2.0
/* Ferry's LZ4 block encoder; the library's decoder, behind fy_lz4_unpack, is the judge. Source and
 * destination end at a page that may not be touched. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "migrate/codec.h"
#include "migrate/wordpack.h"

#define LONGEST (512u << 10)
#define GUARD 4096u

static struct fy_wordpack scratch;
static uint64_t seed = 88172645463325252ull;

static uint64_t next(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

/* `len` bytes that end where memory ends. */
static uint8_t *guarded(size_t len)
{
    static uint8_t *areas[2];
    static unsigned turn;
    uint8_t **a = &areas[turn++ % 2];
    if (!*a) {
        *a = mmap(NULL, LONGEST + GUARD, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        assert_true(*a != MAP_FAILED);
        assert_int_equal(mprotect(*a + LONGEST, GUARD, PROT_NONE), 0);
    }
    return *a + LONGEST - len;
}

/* Pack; where that gives a block, it must unpack to the same. Returns the block's length. */
static size_t judge(const uint8_t *data, size_t len, size_t room)
{
    static uint8_t back[LONGEST];
    uint8_t *src = guarded(len);
    memcpy(src, data, len);
    uint8_t *dst = guarded(room);
    size_t n = fy_wordpack(&scratch, src, len, dst, room);
    assert_true(n <= room);
    if (n) {
        memset(back, 0xa5, len);
        assert_int_equal(fy_lz4_unpack(dst, n, back, len), 0);
        assert_memory_equal(back, data, len);
    }
    return n;
}

/* Slots of `slot` bytes, each one of `kinds` contents, now and then with a damaged byte. */
static void fill_slots(uint8_t *p, size_t len, size_t slot, unsigned kinds, unsigned damage)
{
    for (size_t at = 0; at < len; at += slot) {
        uint64_t kind = next() % kinds * 0x9e3779b97f4a7c15ull;
        for (size_t i = 0; i < slot && at + i < len; i++)
            p[at + i] = (uint8_t)((kind >> i % 7 * 8) + i * (kind >> 56));
        if (damage && next() % damage == 0 && at + slot <= len)
            p[at + next() % slot] ^= (uint8_t)(1 + next() % 255);
    }
}

static void words_pack_closely(void **state)
{
    (void)state;
    uint8_t *data = malloc(LONGEST);
    fill_slots(data, LONGEST, 64, 70, 0);
    assert_in_range(judge(data, FY_BATCH_BYTES, FY_BATCH_BYTES), 1, FY_BATCH_BYTES / 8);
    /* Pages of one content: matches far longer than what is compared at once. */
    memset(data, 0x5a, FY_BATCH_BYTES);
    assert_in_range(judge(data, FY_BATCH_BYTES, FY_BATCH_BYTES), 1, FY_BATCH_BYTES / 200);
    for (size_t i = 0; i < FY_BATCH_BYTES; i++)
        data[i] = (uint8_t)(i % 4096 * 2654435761u >> 11);
    assert_in_range(judge(data, FY_BATCH_BYTES, FY_BATCH_BYTES), 1, FY_BATCH_BYTES / 20);
    free(data);
}

static void every_edge_length(void **state)
{
    (void)state;
    uint8_t *data = malloc(LONGEST);
    for (unsigned kinds = 1; kinds <= 16; kinds *= 4) {
        fill_slots(data, LONGEST, 24, kinds, 9);
        for (size_t len = 0; len <= 600; len++) {
            assert_true(judge(data, len, len + len / 255 + 64) || len == 0);
            for (size_t room = 0; room <= 48; room += 3)
                judge(data, len, room);
        }
        for (size_t len = LONGEST - 20; len <= LONGEST; len++)
            judge(data, len, LONGEST);
        for (size_t len = (32u << 10) - 40; len <= (32u << 10) + 40; len++)
            judge(data, len, LONGEST);
    }
    free(data);
}

/* Room is counted down from what was needed: never a byte beyond it. */
static void any_room(void **state)
{
    (void)state;
    uint8_t *data = malloc(LONGEST);
    fill_slots(data, 8192, 64, 20, 4);
    size_t need = judge(data, 8192, 8192);
    assert_true(need);
    for (size_t room = 0; room <= need + 64; room++)
        judge(data, 8192, room);
    free(data);
}

static void many_shapes(void **state)
{
    (void)state;
    uint8_t *data = malloc(LONGEST);
    for (unsigned round = 0; round < 400; round++) {
        size_t len = next() % (round % 8 ? 20000 : LONGEST);
        fill_slots(data, len, 1 + next() % 200, 1 + (unsigned)(next() % 90), (unsigned)(next() % 20));
        /* a stretch of noise, and one that was seen about as far back as an offset reaches */
        size_t from = len ? next() % len : 0;
        for (size_t i = from; i < len && i < from + next() % 3000; i++)
            data[i] = (uint8_t)next();
        size_t distance = 65520 + next() % 32;
        if (len > distance + 1000)
            memcpy(data + len - 1000, data + len - 1000 - distance, 900);
        judge(data, len, len - len / 16);
    }
    free(data);
}

/* Nothing that repeats by words: left to the general encoder, and early. */
static void noise_is_refused(void **state)
{
    (void)state;
    uint8_t *data = malloc(LONGEST);
    for (size_t i = 0; i < LONGEST; i++)
        data[i] = (uint8_t)next();
    assert_int_equal(judge(data, FY_BATCH_BYTES, LONGEST), 0);
    assert_int_equal(fy_wordpack(&scratch, data, FY_WORDPACK_MAX + 1, data, LONGEST), 0);
    free(data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_pack_closely), cmocka_unit_test(every_edge_length), cmocka_unit_test(any_room),
        cmocka_unit_test(many_shapes),        cmocka_unit_test(noise_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
