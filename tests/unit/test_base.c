// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "hv/base/bitmap.h"
#include "hv/base/checked.h"
#include "hv/base/crc32c.h"
#include "hv/base/hex.h"
#include "hv/base/log.h"
#include "hv/base/msg.h"

static void crc32c_known_answers(void **state)
{
    (void)state;
    unsigned char buf[32];
    memset(buf, 0, sizeof buf);
    assert_int_equal(fy_crc32c(0, buf, 32), 0x8a9136aa); /* RFC 3720 B.4 */
    memset(buf, 0xff, sizeof buf);
    assert_int_equal(fy_crc32c(0, buf, 32), 0x62a8ab43);
    assert_int_equal(fy_crc32c(0, "123456789", 9), 0xe3069283);
}

/* The long way: bit by bit. */
static uint32_t crc32c_slow(uint32_t crc, const uint8_t *p, size_t len)
{
    crc = ~crc;
    for (size_t i = 0; i < len; i++) {
        crc ^= p[i];
        for (int k = 0; k < 8; k++)
            crc = crc & 1 ? crc >> 1 ^ 0x82f63b78u : crc >> 1;
    }
    return ~crc;
}

static void crc32c_is_right_at_every_length(void **state)
{
    (void)state;
    uint8_t buf[4200];
    uint64_t x = 1;
    for (size_t i = 0; i < sizeof buf; i++)
        buf[i] = (uint8_t)((x = x * 6364136223846793005ull + 1) >> 56);
    for (size_t len = 0; len + 3 < sizeof buf; len += len < 64 || (len > 990 && len < 1300) ? 1 : 61)
        assert_int_equal(fy_crc32c((uint32_t)len, buf + 3, len), crc32c_slow((uint32_t)len, buf + 3, len));
}

static void crc32c_is_the_same_in_pieces(void **state)
{
    (void)state;
    size_t len = 64 * 1024 + 13;
    unsigned char *buf = malloc(len);
    for (size_t i = 0; i < len; i++)
        buf[i] = (unsigned char)(i * 131 + i / 251);
    uint32_t whole = fy_crc32c(0, buf, len);
    uint32_t pieces = 0;
    for (size_t at = 0, step = 1; at < len; at += step, step = step * 3 % 1001 + 1)
        pieces = fy_crc32c(pieces, buf + at, FY_MIN(step, len - at));
    assert_int_equal(whole, pieces);
    free(buf);
}

static void bitmap_ranges(void **state)
{
    (void)state;
    for (uint64_t first = 0; first < 130; first += 7)
        for (uint64_t count = 0; first + count <= 192; count++) {
            uint64_t map[3] = {0};
            fy_bits_set(map, first, count);
            assert_int_equal(fy_bits_count(map, 0, 192), count);
            assert_int_equal(fy_bits_next_set(map, 0, 192), count ? first : 192);
            assert_int_equal(fy_bits_next_clear(map, first, 192), first + count);
            fy_bits_clear(map, first, count);
            assert_int_equal(map[0] | map[1] | map[2], 0);
        }
}

static void uuid_text(void **state)
{
    (void)state;
    uint8_t a[16];
    uint8_t b[16];
    char text[FY_UUID_TEXT];
    fy_uuid_new(a);
    fy_uuid_format(a, text);
    assert_int_equal(fy_uuid_parse(text, b), 0);
    assert_memory_equal(a, b, 16);
    text[8] = 'x';
    assert_int_equal(fy_uuid_parse(text, b), -1);
}

static void messages_carry_descriptors(void **state)
{
    (void)state;
    int sv[2];
    int p[2];
    struct fy_err e;
    static char buf[FY_MSG_MAX];
    assert_int_equal(fy_msg_pair(sv, &e), 0);
    assert_int_equal(pipe(p), 0);
    assert_int_equal(fy_msg_send(sv[0], "hello", 5, &p[1], 1, &e), 0);
    int fds[FY_MSG_FDS];
    int n = FY_MSG_FDS;
    assert_int_equal(fy_msg_recv(sv[1], buf, fds, &n, &e), 5);
    assert_int_equal(n, 1);
    assert_int_equal(write(fds[0], "x", 1), 1);
    assert_int_equal(read(p[0], buf, 1), 1);
    close(sv[0]);
    assert_int_equal(fy_msg_recv(sv[1], buf, fds, &n, &e), 0);
    assert_int_equal(fy_msg_send(sv[1], "x", 1, NULL, 0, &e), -1);
    assert_int_equal(e.code, FY_EUNREACHABLE);
    close(sv[1]);
    close(fds[0]);
    close(p[0]);
    close(p[1]);
}

/* What `limit` lets through of `count` lines, as text. */
static void limited_lines(struct fy_log_limit *limit, unsigned count, char *text, size_t room)
{
    int p[2], err = dup(STDERR_FILENO);
    assert_true(err >= 0);
    assert_int_equal(pipe(p), 0);
    assert_int_equal(dup2(p[1], STDERR_FILENO), STDERR_FILENO);
    for (unsigned i = 0; i < count; i++)
        fy_log_limited(limit, FY_LOG_WARN, "line %u.", i);
    assert_int_equal(dup2(err, STDERR_FILENO), STDERR_FILENO);
    close(err);
    close(p[1]);
    ssize_t n = read(p[0], text, room - 1);
    text[n > 0 ? n : 0] = 0;
    close(p[0]);
}

static unsigned line_count(const char *text)
{
    unsigned n = 0;
    for (; *text; text++)
        n += *text == '\n';
    return n;
}

static void a_guest_cannot_fill_the_log(void **state)
{
    (void)state;
    struct fy_log_limit limit = {0};
    char text[8192];
    limited_lines(&limit, 1000, text, sizeof text);
    assert_int_equal(line_count(text), FY_LOG_LIMIT);
    assert_non_null(strstr(text, "line 9."));
    limited_lines(&limit, 3, text, sizeof text);
    assert_string_equal(text, "");
    limit.since -= FY_LOG_LIMIT_S * 1000000000ull;
    limited_lines(&limit, 1, text, sizeof text);
    assert_int_equal(line_count(text), 2);
    assert_non_null(strstr(text, "993 lines like the next one were left out"));
    assert_non_null(strstr(text, "line 0."));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(crc32c_known_answers),
        cmocka_unit_test(crc32c_is_right_at_every_length),
        cmocka_unit_test(crc32c_is_the_same_in_pieces),
        cmocka_unit_test(bitmap_ranges),
        cmocka_unit_test(uuid_text),
        cmocka_unit_test(messages_carry_descriptors),
        cmocka_unit_test(a_guest_cannot_fill_the_log),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
