// SPDX-License-Identifier: Apache-2.0
/* What vmctl image does without tools: boot sectors, apt's sources, hashes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cli/image.h"

static void test_boot_sector(void **state)
{
    (void)state;
    uint8_t boot[512], mbr[512];
    struct fy_err e;
    memset(boot, 0x11, sizeof boot);
    memset(mbr, 0x77, sizeof mbr);
    boot[0] = 0xeb;
    boot[510] = 0x55;
    boot[511] = 0xaa;
    assert_int_equal(image_grub_boot(mbr, boot, 512, 0x1122334455667788, &e), 0);
    static const uint8_t sector[] = {0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11};
    assert_memory_equal(mbr + 0x5c, sector, 8);
    assert_int_equal(mbr[0x66], 0x90);
    assert_int_equal(mbr[0x67], 0x90);
    assert_int_equal(mbr[0x1b7], 0x11);
    /* Disk signature and partitions are the partition program's. */
    for (size_t i = 0x1b8; i < 510; i++)
        assert_int_equal(mbr[i], 0x77);
    assert_int_equal(image_grub_boot(mbr, boot, 511, 1, &e), -1);
    boot[511] = 0;
    assert_int_equal(image_grub_boot(mbr, boot, 512, 1, &e), -1);
    assert_int_equal(e.code, FY_ECORRUPT);
}

static void test_core(void **state)
{
    (void)state;
    static uint8_t core[512 * 4];
    struct fy_err e;
    assert_int_equal(image_grub_core(core, 512 * 3 + 1, 2048, &e), 0);
    static const uint8_t list[] = {1, 8, 0, 0, 0, 0, 0, 0, 3, 0};
    assert_memory_equal(core + 0x1f4, list, sizeof list);
    assert_int_equal(image_grub_core(core, 512, 2048, &e), -1);
    assert_int_equal(image_grub_core(core, 512ul * 0x8001, 2048, &e), -1);
}

#define KEY "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] "

static void test_sources(void **state)
{
    (void)state;
    static const char host[] = "http://a/debian/|bookworm|contrib\n"
                               "http://tools/|bookworm|stable\n"
                               "http://a/debian/|bookworm|main\n"
                               "http://b/debian/|bookworm|main\n"
                               "http://a/debian/|bookworm-updates|main\n"
                               "http://s/debian-security/|bookworm-security|main\n"
                               "http://c/|sdk-bookworm|main\n";
    char out[2048];
    struct fy_err e;
    assert_int_equal(image_sources(host, "bookworm", out, sizeof out, &e), 0);
    assert_string_equal(out, KEY "http://a/debian/ bookworm main\n" KEY
                                 "http://a/debian/ bookworm-updates main\n" KEY
                                 "http://s/debian-security/ bookworm-security main\n");
    /* A suite that apt has not got comes from the address of the one it has. */
    assert_int_equal(image_sources(host, "trixie", out, sizeof out, &e), 0);
    assert_string_equal(out,
                        KEY "http://a/debian/ trixie main\n" KEY "http://a/debian/ trixie-updates main\n" KEY
                            "http://s/debian-security/ trixie-security main\n");
    /* Its own entry goes before. */
    assert_int_equal(
        image_sources("http://a/|bookworm|main\nhttp://t/|trixie|main\n", "trixie", out, sizeof out, &e), 0);
    assert_string_equal(out, KEY "http://t/ trixie main\n");
}

static void test_sources_none(void **state)
{
    (void)state;
    char out[64];
    struct fy_err e;
    static const char *const none[] = {"",
                                       "\n\n",
                                       "||\n",
                                       "|bookworm|main\n",
                                       "http://a/|bookworm",
                                       "http://a/|jammy|main",
                                       "cdrom:[Debian]/|bookworm|main\n",
                                       "http://a b/|bookworm|main\n",
                                       "http://a/|bookworm|mainly\n"};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
        assert_int_equal(image_sources(none[i], "bookworm", out, sizeof out, &e), -1);
        assert_int_equal(e.code, FY_ENOTFOUND);
    }
    assert_int_equal(image_sources("http://a/|bookworm|main\n", "bookworm", out, sizeof out, &e), -1);
    assert_int_equal(e.code, FY_ECORRUPT);
}

static void test_hash(void **state)
{
    (void)state;
    char a[256], b[256];
    struct fy_err e;
    assert_int_equal(image_hash("secret", a, sizeof a, &e), 0);
    assert_int_equal(image_hash("secret", b, sizeof b, &e), 0);
    assert_string_not_equal(a, b);
    assert_int_equal(strncmp(a, "$y$", 3), 0);
    assert_null(strpbrk(a, ":\n"));
    assert_int_equal(image_hash("secret", a, 8, &e), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_boot_sector),  cmocka_unit_test(test_core), cmocka_unit_test(test_sources),
        cmocka_unit_test(test_sources_none), cmocka_unit_test(test_hash),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
