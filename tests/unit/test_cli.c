// SPDX-License-Identifier: Apache-2.0
/* vmctl's pure parts: numbers with units, prefixes, JSON, tables, the progress line. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cli/args.h"
#include "cli/out.h"
#include "cli/progress.h"

static void test_sizes(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t bytes;
    } good[] = {{"0", 0},           {"4096", 4096},     {"1K", 1024},         {"512M", 512ull << 20},
                {"2g", 2ull << 30}, {"1T", 1ull << 40}, {"1.5G", 3ull << 29}, {"2GiB", 2ull << 30},
                {"1MB", 1ull << 20}};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        uint64_t v = 1;
        assert_int_equal(cli_parse_size(good[i].text, &v), 0);
        assert_int_equal(v, good[i].bytes);
    }
    static const char *const bad[] = {
        "",    "M", "-1", "1X", "1.5", "1.M", ".5M", "1 M", "1Mx", "99999999999T", "18446744073709551616",
        "0x10"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        uint64_t v;
        assert_int_equal(cli_parse_size(bad[i], &v), -1);
    }
}

static void test_times(void **state)
{
    (void)state;
    uint64_t v;
    assert_int_equal(cli_parse_time("50ms", &v), 0);
    assert_int_equal(v, 50000000);
    assert_int_equal(cli_parse_time("1.5s", &v), 0);
    assert_int_equal(v, 1500000000);
    assert_int_equal(cli_parse_time("2m", &v), 0);
    assert_int_equal(v, 120000000000ull);
    static const char *const bad[] = {"", "5", "s", "-1s", "1h", "1 s", "1sec", "999999999999m"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(cli_parse_time(bad[i], &v), -1);
    assert_int_equal(cli_parse_number("16", 1, 16, &v), 0);
    assert_int_equal(cli_parse_number("17", 1, 16, &v), -1);
    assert_int_equal(cli_parse_number("0", 1, 16, &v), -1);
    assert_int_equal(cli_parse_number("3x", 1, 16, &v), -1);
}

static void test_codecs(void **state)
{
    (void)state;
    char name[8];
    int level = 0, has = 0;
    assert_int_equal(cli_parse_codec("auto", name, &level, &has), 0);
    assert_int_equal(cli_parse_codec("zstd:-1", name, &level, &has), 0);
    assert_string_equal(name, "zstd");
    assert_int_equal(level, -1);
    assert_true(has);
    assert_int_equal(cli_parse_codec("lz4", name, &level, &has), 0);
    assert_false(has);
    static const char *const bad[] = {"", "gzip", "none:1", "zstd:", "zstd:x", "zstd:99", "zst", ":1"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(cli_parse_codec(bad[i], name, &level, &has), -1);
}

static void test_prefixes(void **state)
{
    (void)state;
    static const char *const words[] = {"start", "status", "stop",       "show",
                                        "set",   "setup",  "__complete", NULL};
    assert_int_equal(cli_prefix("start", words, sizeof *words), 0);
    assert_int_equal(cli_prefix("stat", words, sizeof *words), 1);
    assert_int_equal(cli_prefix("sta", words, sizeof *words), -2);
    assert_int_equal(cli_prefix("sh", words, sizeof *words), 3);
    assert_int_equal(cli_prefix("set", words, sizeof *words), 4); /* exact wins over longer ones */
    assert_int_equal(cli_prefix("setu", words, sizeof *words), 5);
    assert_int_equal(cli_prefix("x", words, sizeof *words), -1);
    assert_int_equal(cli_prefix("", words, sizeof *words), -1);
    assert_int_equal(cli_prefix("__", words, sizeof *words), -1);
}

static void quoted(const char *text, const char *want)
{
    char *buf = NULL;
    size_t len = 0;
    FILE *f = open_memstream(&buf, &len);
    assert_non_null(f);
    cli_json_quote(f, text);
    fclose(f);
    assert_string_equal(buf, want);
    free(buf);
}

static void test_json(void **state)
{
    (void)state;
    quoted("", "\"\"");
    quoted("a\"b\\c\n\t\r", "\"a\\\"b\\\\c\\n\\t\\r\"");
    quoted("\x01\x1b[0m\x7f", "\"\\u0001\\u001b[0m\\u007f\"");
    quoted("\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80", "\"\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\"");
    quoted("\xff\xc0\x80\xed\xa0\x80x", "\"\\ufffd\\ufffd\\ufffd\\ufffd\\ufffd\\ufffdx\"");
    quoted("\xe2\x82", "\"\\ufffd\\ufffd\""); /* cut short */
    char *buf = NULL;
    size_t len = 0;
    FILE *f = open_memstream(&buf, &len);
    assert_non_null(f);
    struct cli_json j = cli_json_begin(f);
    cli_json_string(&j, "s", "x");
    cli_json_ms(&j, "ms", 1234567);
    cli_json_ms(&j, "zero", 0);
    cli_json_array(&j, "a");
    cli_json_u64(&j, NULL, UINT64_MAX);
    cli_json_object(&j, NULL);
    cli_json_bool(&j, "b", true);
    cli_json_close(&j, '}');
    cli_json_close(&j, ']');
    cli_json_i64(&j, "i", -5);
    cli_json_null(&j, "n");
    cli_json_double(&j, "d", 0.0 / 0.0, 3);
    cli_json_end(&j);
    fclose(f);
    assert_string_equal(buf,
                        "{\"schema\":1,\"s\":\"x\",\"ms\":1.235,\"zero\":0.000,\"a\":[18446744073709551615,"
                        "{\"b\":true}],\"i\":-5,\"n\":null,\"d\":null}\n");
    free(buf);
}

static void test_table(void **state)
{
    (void)state;
    char *buf = NULL;
    size_t len = 0;
    FILE *f = open_memstream(&buf, &len);
    assert_non_null(f);
    struct cli_table t = {.columns = 3, .numeric = 2};
    cli_table_cell(&t, "NAME");
    cli_table_cell(&t, "N");
    cli_table_cell(&t, "NOTE");
    cli_table_cell(&t, "a");
    cli_table_cell(&t, "%d", 12345);
    cli_table_cell(&t, "\x1b[31mred\n");
    cli_table_print(&t, f);
    cli_table_free(&t);
    fclose(f);
    assert_string_equal(buf, "NAME      N  NOTE\na     12345  ?[31mred \n");
    free(buf);
}

static void test_units(void **state)
{
    (void)state;
    char out[24];
    assert_string_equal(cli_size(0, out), "0");
    assert_string_equal(cli_size(512ull << 20, out), "512M");
    assert_string_equal(cli_size(3ull << 29, out), "1.5G");
    assert_string_equal(cli_size(1ull << 40, out), "1T");
    assert_string_equal(cli_time(1500, out), "2 us");
    assert_string_equal(cli_time(12300000, out), "12.3 ms");
    assert_string_equal(cli_time(1234000000, out), "1.23 s");
}

/* What is shown as done never falls, whatever arrives. */
static void test_progress(void **state)
{
    (void)state;
    struct cli_progress p = {0};
    Ferry__JobProgress j = FERRY__JOB_PROGRESS__INIT;
    char text[256];
    static const double given[] = {0.1, 0.5, 0.3, 0.0 / 0.0, 7.0, 0.2};
    static const int want[] = {10, 50, 50, 50, 100, 100};
    j.phase = (char *)(uintptr_t) "memory";
    j.round = 2;
    for (size_t i = 0; i < sizeof given / sizeof *given; i++) {
        j.fraction = given[i];
        cli_progress_text(&p, &j, text, sizeof text);
        assert_int_equal(atoi(text), want[i]);
    }
    j.expected_end_ns = 1000000000;
    j.expected_downtime_ns = 1000000;
    for (size_t room = 1; room < sizeof text; room++)
        cli_progress_text(&p, &j, text, room);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),    cmocka_unit_test(test_times),    cmocka_unit_test(test_codecs),
        cmocka_unit_test(test_prefixes), cmocka_unit_test(test_json),     cmocka_unit_test(test_table),
        cmocka_unit_test(test_units),    cmocka_unit_test(test_progress),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
