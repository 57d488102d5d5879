// SPDX-License-Identifier: Apache-2.0
/* Page records, codecs and the switch policy. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "migrate/codec.h"
#include "migrate/identity.h"
#include "migrate/pages.h"
#include "migrate/policy.h"
#include "migrate/receiver.h"

static void fill_text(uint8_t *p, size_t len)
{
    static const char words[] =
        "the ferry crosses the river at noon and nobody on board notices the far shore ";
    for (size_t i = 0; i < len; i++)
        p[i] = (uint8_t)words[(i + i / 97) % (sizeof words - 1)];
}

static void fill_random(uint8_t *p, size_t len)
{
    uint64_t x = 88172645463325252ull;
    for (size_t i = 0; i < len; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        p[i] = (uint8_t)x;
    }
}

static void codecs_round_trip(void **state)
{
    (void)state;
    struct fy_err e;
    uint8_t *raw = malloc(FY_BATCH_BYTES);
    uint8_t *packed = malloc(FY_BATCH_BYTES);
    uint8_t *back = malloc(FY_BATCH_BYTES);
    struct fy_packer *p = fy_packer_new(&e);
    fill_text(raw, FY_BATCH_BYTES);
    size_t n = fy_lz4_pack(p, raw, FY_BATCH_BYTES, packed, FY_BATCH_BYTES);
    assert_in_range(n, 1, FY_BATCH_BYTES / 3);
    assert_int_equal(fy_lz4_unpack(packed, n, back, FY_BATCH_BYTES), 0);
    assert_memory_equal(raw, back, FY_BATCH_BYTES);
    assert_int_equal(fy_lz4_unpack(packed, n - 1, back, FY_BATCH_BYTES), -1);
    assert_int_equal(fy_lz4_unpack(packed, n, back, FY_BATCH_BYTES - 1), -1);
    for (int level = -7; level <= 3; level += 2) {
        n = fy_zstd_pack(p, level, raw, FY_BATCH_BYTES, packed, FY_BATCH_BYTES);
        assert_in_range(n, 1, FY_BATCH_BYTES / 3);
        assert_int_equal(fy_zstd_unpack(p, packed, n, back, FY_BATCH_BYTES), 0);
        assert_memory_equal(raw, back, FY_BATCH_BYTES);
        assert_int_equal(fy_zstd_unpack(p, packed, n, back, FY_BATCH_BYTES - 4096), -1);
    }
    fill_random(raw, FY_BATCH_BYTES);
    assert_int_equal(fy_lz4_pack(p, raw, FY_BATCH_BYTES, packed, FY_BATCH_BYTES - 4096), 0);
    assert_int_equal(fy_zstd_pack(p, 1, raw, FY_BATCH_BYTES, packed, FY_BATCH_BYTES - 4096), 0);
    fy_packer_free(p);
    free(raw);
    free(packed);
    free(back);
}

static void auto_goes_raw_on_random_and_comes_back(void **state)
{
    (void)state;
    struct fy_codec_choice c;
    struct fy_codec_stats s;
    struct fy_err e;
    assert_int_equal(fy_codec_parse("auto", false, 0, &c, &e), 0);
    fy_codec_stats_init(&s);
    assert_int_equal(fy_codec_choose(&c, FY_CODECS_ALL, &s), FY_CODEC_LZ4);
    unsigned tried = 0;
    for (int i = 0; i < 200; i++) {
        enum fy_codec k = fy_codec_choose(&c, FY_CODECS_ALL, &s);
        tried += k != FY_CODEC_NONE;
        fy_codec_account(&s, k, FY_BATCH_BYTES, 0, 40000);
    }
    assert_in_range(tried, 5, 30); /* hopeless, but still looked at now and then */
    int until = 0;
    for (; until < 200; until++) {
        enum fy_codec k = fy_codec_choose(&c, FY_CODECS_ALL, &s);
        fy_codec_account(&s, k, FY_BATCH_BYTES, k ? FY_BATCH_BYTES / 6 : 0, 150000);
        if (k != FY_CODEC_NONE)
            break;
    }
    assert_in_range(until, 0, 20);
    assert_int_not_equal(fy_codec_choose(&c, FY_CODECS_ALL, &s), FY_CODEC_NONE);
}

static void auto_prefers_zstd_on_a_slow_link(void **state)
{
    (void)state;
    struct fy_codec_choice c;
    struct fy_codec_stats s;
    struct fy_err e;
    fy_codec_parse("auto", false, 0, &c, &e);
    fy_codec_stats_init(&s);
    for (int i = 0; i < 200; i++)
        fy_codec_account_wire(&s, 1000, 500, 20000); /* 50 MB/s */
    assert_int_equal(fy_codec_choose(&c, FY_CODECS_ALL, &s), FY_CODEC_ZSTD);
    assert_int_equal(fy_codec_choose(&c, FY_CODEC_BIT(FY_CODEC_NONE), &s), FY_CODEC_NONE);
}

static void auto_goes_raw_on_a_link_cheaper_than_packing(void **state)
{
    (void)state;
    struct fy_codec_choice c;
    struct fy_codec_stats s;
    struct fy_err e;
    fy_codec_parse("auto", false, 0, &c, &e);
    fy_codec_stats_init(&s);
    for (int i = 0; i < 200; i++)
        fy_codec_account_wire(&s, 100000, 25000, 60000); /* memory speed, in clear */
    assert_int_equal(fy_codec_choose(&c, FY_CODECS_ALL, &s), FY_CODEC_NONE);
}

static void codec_names(void **state)
{
    (void)state;
    struct fy_codec_choice c;
    struct fy_err e;
    assert_int_equal(fy_codec_parse("zstd", true, 3, &c, &e), 0);
    assert_int_equal(c.zstd_level, 3);
    assert_int_equal(fy_codec_parse("zstd", true, 99, &c, &e), -1);
    assert_int_equal(fy_codec_parse("gzip", false, 0, &c, &e), -1);
    assert_int_equal(fy_codec_parse("lz4", true, 1, &c, &e), -1);
}

static void pages_are_checked(void **state)
{
    (void)state;
    struct fy_pages p;
    struct fy_err e;
    struct fy_run run = {.first = 10, .count = 1};
    uint8_t body[FY_PAGES_HEADER + FY_PAGES_RUN + 4096] = {0};
    fy_pages_write(body, FY_CODEC_NONE, &run, 1);
    assert_int_equal(fy_pages_parse(body, sizeof body, 11, &p, &e), 0);
    assert_int_equal(fy_pages_parse(body, sizeof body, 10, &p, &e), -1); /* out of memory */
    assert_int_equal(fy_pages_parse(body, sizeof body - 1, 11, &p, &e), -1);
    fy_put64(body + FY_PAGES_HEADER, UINT64_MAX);
    assert_int_equal(fy_pages_parse(body, sizeof body, 11, &p, &e), -1);
    fy_put64(body + FY_PAGES_HEADER, 10);
    fy_put32(body + FY_PAGES_HEADER + 8, 2); /* count and length disagree */
    assert_int_equal(fy_pages_parse(body, sizeof body, 100, &p, &e), -1);
    fy_put32(body + FY_PAGES_HEADER + 8, 1);
    fy_put16(body, 3); /* no such codec */
    assert_int_equal(fy_pages_parse(body, sizeof body, 11, &p, &e), -1);
    fy_put16(body, 0);
    fy_put16(body + 2, 0); /* no runs */
    assert_int_equal(fy_pages_parse(body, sizeof body, 11, &p, &e), -1);
    for (size_t n = 0; n < sizeof body; n++)
        assert_int_equal(fy_pages_parse(body, n, 11, &p, &e), -1);
    unsigned count;
    uint64_t first;
    uint64_t pages;
    assert_int_equal(fy_zero_count(15, &count, &e), -1);
    fy_zero_write(body, 0, 5, UINT64_MAX);
    assert_int_equal(fy_zero_parse(body, 0, 100, &first, &pages, &e), -1);
}

static void zero_pages_are_told(void **state)
{
    (void)state;
    uint8_t *page = aligned_alloc(4096, 4096);
    memset(page, 0, 4096);
    assert_true(fy_page_is_zero(page));
    for (size_t i = 0; i < 4096; i++) {
        page[i] = 1;
        assert_false(fy_page_is_zero(page));
        page[i] = 0;
    }
    free(page);
}

#define MIB (1ull << 20)
#define MS 1000000ull

/* Rounds against a guest that dirties `rate` bytes a ns, with `tput` bytes a ns; returns the rest at the
 * switch, or 0 when the deadline came first. */
static uint64_t simulate(struct fy_policy *p, double rate, double tput, uint64_t ram, uint64_t overhead_ns)
{
    uint64_t left = ram;
    uint64_t now = 0;
    for (int i = 0; i < 10000; i++) {
        uint64_t ns = (uint64_t)((double)left / tput) + overhead_ns;
        now += ns;
        uint64_t dirty = (uint64_t)((double)ns * rate);
        struct fy_round r = {.bytes = left, .ns = ns, .left_bytes = dirty < ram ? dirty : ram, .now_ns = now};
        left = r.left_bytes;
        enum fy_decision d = fy_policy_round(p, &r);
        if (d == FY_DECIDE_SWITCH)
            return left ? left : 1;
        if (d == FY_DECIDE_MISSED)
            return 0;
    }
    return UINT64_MAX;
}

static void idle_guest_switches_at_once(void **state)
{
    (void)state;
    struct fy_policy p;
    fy_policy_init(&p, 50 * MS, 0, 1, 200000, 0);
    assert_in_range(simulate(&p, 0.0, 1.0, 2048 * MIB, 1 * MS), 1, 1);
    assert_int_equal(p.rounds, 1);
}

static void busy_guest_switches_near_its_floor(void **state)
{
    (void)state;
    struct fy_policy p;
    fy_policy_init(&p, 50 * MS, 0, 1, 200000, 0);
    /* 400 MiB/s against 1 GB/s with 3 ms a round: the floor is about 2.2 MiB, 40 MiB would fit the budget. */
    uint64_t left = simulate(&p, 0.42, 1.0, 1024 * MIB, 3 * MS);
    assert_in_range(left, 1, 4 * MIB);
}

static void hopeless_guest_misses_its_deadline(void **state)
{
    (void)state;
    struct fy_policy p;
    fy_policy_init(&p, 50 * MS, 20000 * MS, 1, 200000, 0);
    assert_int_equal(simulate(&p, 2.0, 1.0, 1024 * MIB, 3 * MS), 0);
    assert_int_equal(fy_policy_remaining_ns(&p, 1024 * MIB), 0);
    fy_policy_init(&p, 50 * MS, 0, 1, 200000, 0);
    assert_int_equal(simulate(&p, 2.0, 1.0, 1024 * MIB, 3 * MS), UINT64_MAX); /* without one it goes on */
}

static void slow_greeting_is_forgotten(void **state)
{
    (void)state;
    struct fy_policy p;
    fy_policy_init(&p, 50 * MS, 0, 1, 40 * MS, 0); /* one and a half of these alone are over the budget */
    assert_in_range(simulate(&p, 0.01, 1.0, 2048 * MIB, 1 * MS), 1, MIB);
    assert_in_range(p.rounds, 2, 8);
}

/* A round trip that is long for its path may be a busy moment: a few more rounds before the switch. */
static void busy_moment_is_waited_for(void **state)
{
    (void)state;
    struct fy_policy p;
    struct fy_round first = {.bytes = 100 * MIB, .ns = 100 * MS};
    struct fy_round slow = {.bytes = 100, .ns = 4 * MS, .wire_ns = 3 * MS};
    struct fy_round quick = {.bytes = 100, .ns = 1 * MS, .wire_ns = MS / 4};
    fy_policy_init(&p, 50 * MS, 0, 1, 10 * MS, 0);
    p.calm_ns = MS / 2;
    assert_int_equal(fy_policy_round(&p, &first), FY_DECIDE_ROUND);
    assert_int_equal(fy_policy_round(&p, &slow), FY_DECIDE_ROUND);
    assert_int_equal(fy_policy_round(&p, &quick), FY_DECIDE_SWITCH);
    assert_in_range(p.round_trip_ns, 1, MS / 4);
    fy_policy_init(&p, 50 * MS, 0, 1, 10 * MS, 0);
    p.calm_ns = MS / 2;
    enum fy_decision d = FY_DECIDE_ROUND;
    for (int i = 0; i < 10 && d == FY_DECIDE_ROUND; i++)
        d = fy_policy_round(&p, &slow);
    assert_int_equal(d, FY_DECIDE_SWITCH);
    /* A guest whose rounds never get small never tells of the round trip: it is not waited for. */
    fy_policy_init(&p, 2000 * MS, 0, 1, 10 * MS, 0);
    p.calm_ns = MS / 2;
    assert_in_range(simulate(&p, 0.6, 0.6, 32 * MIB, 2 * MS), 1, 32 * MIB);
    assert_in_range(p.rounds, 1, 10);
}

static void impossible_budget_is_told(void **state)
{
    (void)state;
    struct fy_policy p;
    struct fy_round r = {.bytes = 100, .ns = 40 * MS, .left_bytes = 0};
    enum fy_decision d = FY_DECIDE_ROUND;
    fy_policy_init(&p, 50 * MS, 0, 1, 40 * MS, 0);
    for (int i = 0; i < 200 && d == FY_DECIDE_ROUND; i++)
        d = fy_policy_round(&p, &r);
    assert_int_equal(d, FY_DECIDE_NEVER);
}

static void progress_never_falls(void **state)
{
    (void)state;
    struct fy_policy p;
    fy_policy_init(&p, 50 * MS, 0, 1, 0, 0);
    double last = 0;
    for (int round = 0; round < 40; round++) {
        for (uint64_t done = 0; done <= 100; done += 10) {
            double f = fy_policy_fraction(&p, done, 100);
            assert_true(f >= last && f < 1.0);
            last = f;
        }
        struct fy_round r = {.bytes = 100, .ns = 100, .left_bytes = 1000 * MIB, .now_ns = 1};
        fy_policy_round(&p, &r);
    }
}

static void tickets_differ_by_channel(void **state)
{
    (void)state;
    uint8_t ticket[FY_TICKET_LEN] = {1};
    uint8_t a[32];
    uint8_t b[32];
    fy_ticket_proof(ticket, 1, a);
    fy_ticket_proof(ticket, 2, b);
    assert_memory_not_equal(a, b, 32);
    ticket[0] = 2;
    fy_ticket_proof(ticket, 1, b);
    assert_memory_not_equal(a, b, 32);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(codecs_round_trip),
        cmocka_unit_test(auto_goes_raw_on_random_and_comes_back),
        cmocka_unit_test(auto_prefers_zstd_on_a_slow_link),
        cmocka_unit_test(auto_goes_raw_on_a_link_cheaper_than_packing),
        cmocka_unit_test(codec_names),
        cmocka_unit_test(pages_are_checked),
        cmocka_unit_test(zero_pages_are_told),
        cmocka_unit_test(idle_guest_switches_at_once),
        cmocka_unit_test(busy_guest_switches_near_its_floor),
        cmocka_unit_test(hopeless_guest_misses_its_deadline),
        cmocka_unit_test(slow_greeting_is_forgotten),
        cmocka_unit_test(busy_moment_is_waited_for),
        cmocka_unit_test(impossible_budget_is_told),
        cmocka_unit_test(progress_never_falls),
        cmocka_unit_test(tickets_differ_by_channel),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
