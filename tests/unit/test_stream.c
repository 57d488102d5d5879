// SPDX-License-Identifier: Apache-2.0
/* Records: golden bytes, every truncation, every bit flip. The golden files are also read by
 * tests/golden/parse_stream.py, which shares no code with this. FERRY_GOLDEN_WRITE=1 in the environment
 * writes them anew. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "hv/base/io.h"
#include "migrate/pages.h"
#include "migrate/stream.h"
#include "proto/stream.pb-c.h"

#define ROOM (256 * 1024)

struct bytes {
    uint8_t *p;
    size_t len;
};

static void add(struct bytes *b, struct fy_flow *flow, uint16_t type, uint16_t flags, const void *body,
                uint32_t len)
{
    uint8_t *at = b->p + b->len + FY_RECORD_HEADER;
    assert_true(b->len + FY_RECORD_HEADER + len <= ROOM);
    if (len)
        memcpy(at, body, len);
    fy_record_seal(flow, type, flags, at, len);
    b->len += FY_RECORD_HEADER + len;
}

static void add_proto(struct bytes *b, struct fy_flow *flow, uint16_t type, const ProtobufCMessage *m)
{
    uint8_t body[1024];
    size_t len = protobuf_c_message_pack(m, body);
    add(b, flow, type, 0, body, (uint32_t)len);
}

/* A data channel: a raw batch of two runs, zero runs, a barrier, an optional record from the future, a
 * barrier. */
static struct bytes data_stream(void)
{
    struct bytes b = {.p = calloc(1, ROOM)};
    struct fy_flow flow = {0};
    struct fy_run runs[2] = {{.first = 5, .count = 2}, {.first = 100, .count = 1}};
    size_t prefix = fy_pages_prefix(2);
    uint8_t *body = calloc(1, prefix + 3 * 4096);
    fy_pages_write(body, FY_CODEC_NONE, runs, 2);
    for (size_t i = 0; i < (size_t)3 * 4096; i++)
        body[prefix + i] = (uint8_t)(i * 7 + i / 4096);
    add(&b, &flow, FY_REC_PAGES, 0, body, (uint32_t)(prefix + 3 * 4096));
    fy_zero_write(body, 0, 0, 5);
    fy_zero_write(body, 1, 7, 93);
    add(&b, &flow, FY_REC_ZERO, 0, body, 2 * FY_PAGES_RUN);
    fy_put64(body, 1);
    add(&b, &flow, FY_REC_BARRIER, 0, body, 8);
    add(&b, &flow, 0x7fff, FY_RECORD_OPTIONAL, "future", 6);
    fy_put64(body, 2);
    add(&b, &flow, FY_REC_BARRIER, 0, body, 8);
    free(body);
    return b;
}

/* A data channel over TLS: a raw batch whose pages are not in the checksum, a barrier. */
static struct bytes sealed_stream(void)
{
    struct bytes b = {.p = calloc(1, ROOM)};
    struct fy_flow flow = {0};
    struct fy_run run = {.first = 3, .count = 1};
    uint32_t prefix = (uint32_t)fy_pages_prefix(1);
    uint8_t *body = b.p + FY_RECORD_HEADER;
    fy_pages_write(body, FY_CODEC_NONE, &run, 1);
    memset(body + prefix, 0x5a, 4096);
    fy_record_seal_fixed(&flow, FY_REC_PAGES, body, prefix, prefix + 4096);
    b.len = FY_RECORD_HEADER + prefix + 4096;
    uint8_t round[8];
    fy_put64(round, 1);
    add(&b, &flow, FY_REC_BARRIER, 0, round, 8);
    return b;
}

/* The source's side of a control channel. */
static struct bytes control_stream(void)
{
    struct bytes b = {.p = calloc(1, ROOM)};
    struct fy_flow flow = {0};
    uint8_t id[16];
    for (int i = 0; i < 16; i++)
        id[i] = (uint8_t)(i * 17);
    Ferry__StreamHello hello = FERRY__STREAM_HELLO__INIT;
    hello.version_min = hello.version_max = 1;
    hello.codecs = 7;
    hello.channels = 2;
    hello.host = (char *)(uintptr_t) "alpha";
    add_proto(&b, &flow, FY_REC_HELLO, &hello.base);
    add(&b, &flow, FY_REC_STATE, 0, "state bytes", 11);
    Ferry__ChannelSummary sum = FERRY__CHANNEL_SUMMARY__INIT;
    Ferry__ChannelSummary *sums[1] = {&sum};
    sum.channel = 1;
    sum.records = 5;
    sum.digest = 0x1122334455667788;
    Ferry__StreamStateEnd end = FERRY__STREAM_STATE_END__INIT;
    end.n_channels = 1;
    end.channels = sums;
    end.rounds = 2;
    add_proto(&b, &flow, FY_REC_STATE_END, &end.base);
    Ferry__StreamCommit commit = FERRY__STREAM_COMMIT__INIT;
    commit.handover_id = (ProtobufCBinaryData){.data = id, .len = 16};
    add_proto(&b, &flow, FY_REC_COMMIT, &commit.base);
    return b;
}

/* Feed bytes to a reader through a socket and count the records that it accepts before it fails or ends. */
static int read_back(const uint8_t *p, size_t len, struct fy_err *e)
{
    int sv[2];
    int room = 1 << 20;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
    setsockopt(sv[0], SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
    assert_int_equal(fy_write_all(sv[0], p, len), 0);
    close(sv[0]);
    struct fy_chan *c = fy_chan_new(sv[1], NULL, e);
    assert_non_null(c);
    static uint8_t buf[FY_RECORD_BODY_MAX];
    struct fy_flow flow = {0};
    struct fy_record_header h;
    int records = 0;
    while (fy_record_read(c, &flow, buf, &h, e) == 0)
        records++;
    fy_chan_free(c);
    return records;
}

static void golden(const char *name, struct bytes b)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", FERRY_GOLDEN, name);
    if (getenv("FERRY_GOLDEN_WRITE")) {
        FILE *f = fopen(path, "wb");
        assert_non_null(f);
        assert_int_equal(fwrite(b.p, 1, b.len, f), b.len);
        fclose(f);
    }
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    uint8_t *want = malloc(ROOM);
    size_t n = fread(want, 1, ROOM, f);
    fclose(f);
    assert_int_equal(n, b.len);
    assert_memory_equal(want, b.p, n);
    free(want);
    free(b.p);
}

static void bytes_are_golden(void **state)
{
    (void)state;
    golden("data.ferry", data_stream());
    golden("sealed.ferry", sealed_stream());
    golden("control.ferry", control_stream());
}

static void whole_streams_read(void **state)
{
    (void)state;
    struct fy_err e;
    struct bytes d = data_stream();
    struct bytes c = control_stream();
    assert_int_equal(read_back(d.p, d.len, &e), 4); /* the optional one is skipped */
    assert_int_equal(e.code, FY_EUNREACHABLE);
    assert_int_equal(read_back(c.p, c.len, &e), 4);
    free(d.p);
    free(c.p);
}

static void every_truncation_is_noticed(void **state)
{
    (void)state;
    struct bytes c = control_stream();
    for (size_t n = 0; n < c.len; n++) {
        struct fy_err e = {0};
        assert_true(read_back(c.p, n, &e) < 4);
        assert_int_equal(e.code, FY_EUNREACHABLE);
    }
    free(c.p);
}

static void every_bit_flip_is_noticed(void **state)
{
    (void)state;
    struct bytes c = control_stream();
    for (size_t bit = 0; bit < c.len * 8; bit++) {
        struct fy_err e = {0};
        c.p[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_true(read_back(c.p, c.len, &e) < 4);
        c.p[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    free(c.p);
}

static void unknown_mandatory_is_refused(void **state)
{
    (void)state;
    struct bytes b = {.p = calloc(1, ROOM)};
    struct fy_flow flow = {0};
    struct fy_err e = {0};
    add(&b, &flow, 0x7fff, 0, "x", 1);
    assert_int_equal(read_back(b.p, b.len, &e), 0);
    assert_int_equal(e.code, FY_ECORRUPT);
    free(b.p);
}

/* Whoever wants whole records gets no sealed ones, and none but PAGES may be sealed. */
static void sealed_is_for_pages(void **state)
{
    (void)state;
    struct bytes b = sealed_stream();
    struct fy_flow flow = {0};
    struct fy_record_header h;
    struct fy_err e = {0};
    assert_int_equal(read_back(b.p, b.len, &e), 0);
    assert_int_equal(e.code, FY_ECORRUPT);
    assert_int_equal(fy_record_parse(&flow, b.p, &h, &e), 0);
    fy_put16(b.p, FY_REC_ZERO);
    assert_int_equal(fy_record_parse(&flow, b.p, &h, &e), -1);
    assert_int_equal(e.code, FY_ECORRUPT);
    free(b.p);
}

static void length_is_checked_before_reading(void **state)
{
    (void)state;
    uint8_t raw[FY_RECORD_HEADER] = {0};
    struct fy_flow flow = {0};
    struct fy_record_header h;
    struct fy_err e = {0};
    fy_put16(raw, FY_REC_PAGES);
    fy_put32(raw + 4, FY_RECORD_BODY_MAX + 1);
    assert_int_equal(fy_record_parse(&flow, raw, &h, &e), -1);
    assert_int_equal(e.code, FY_ECORRUPT);
}

static void sequence_must_follow(void **state)
{
    (void)state;
    struct bytes d = control_stream();
    struct fy_err e = {0};
    /* The second record first: its checksum is right, its number is not. */
    uint32_t first = FY_RECORD_HEADER + fy_get32(d.p + 4);
    assert_int_equal(read_back(d.p + first, d.len - first, &e), 0);
    assert_int_equal(e.code, FY_ECORRUPT);
    free(d.p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_are_golden),
        cmocka_unit_test(whole_streams_read),
        cmocka_unit_test(every_truncation_is_noticed),
        cmocka_unit_test(every_bit_flip_is_noticed),
        cmocka_unit_test(unknown_mandatory_is_refused),
        cmocka_unit_test(sealed_is_for_pages),
        cmocka_unit_test(length_is_checked_before_reading),
        cmocka_unit_test(sequence_must_follow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
