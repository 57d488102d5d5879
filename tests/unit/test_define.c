// SPDX-License-Identifier: Apache-2.0
/* Definitions: what YAML is taken, what is refused and where, and that what is written is read the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "hv/define/define.h"
#include "proto/api.pb-c.h"

static const char full[] = "# a guest\n"
                           "name: web\n"
                           "memory: 2G\n"
                           "cpus: 2\n"
                           "kernel: /boot/vmlinuz\n"
                           "initrd: /boot/initrd.img\n"
                           "append: \"console=ttyS0 a: b # c\"\n"
                           "prealloc: true\n"
                           "disks: [ \"/v/root.img,cache=none\", nbd://h/x ]\n"
                           "nets:\n"
                           "  - user,forward=tcp:2222:22\n"
                           "  - \"tap=t0\"\n"
                           "autostart: yes\n"
                           "restart: on-crash\n";

static void read_ok(const char *text, struct fy_def *def)
{
    struct fy_err e = {0};
    *def = (struct fy_def){0};
    if (fy_def_parse(text, strlen(text), def, &e) < 0)
        fail_msg("%s", e.text);
}

static void test_read(void **state)
{
    (void)state;
    struct fy_def def;
    struct fy_err e;
    read_ok(full, &def);
    assert_int_equal(fy_def_check(&def, &e), 0);
    assert_string_equal(def.name, "web");
    assert_int_equal(fy_def_number(&def, "memory", 0), 2ull << 30);
    assert_int_equal(fy_def_number(&def, "cpus", 0), 2);
    assert_string_equal(fy_def_text(&def, "append"), "console=ttyS0 a: b # c");
    assert_int_equal(fy_def_number(&def, "prealloc", 0), 1);
    assert_int_equal(fy_def_number(&def, "hugepages", 7), 7);
    const struct fy_def_value *disks = &def.values[fy_def_find("disks")];
    assert_int_equal(disks->count, 2);
    assert_string_equal(disks->items[0], "/v/root.img,cache=none");
    assert_string_equal(disks->items[1], "nbd://h/x");
    assert_string_equal(def.values[fy_def_find("nets")].items[0], "user,forward=tcp:2222:22");
    assert_string_equal(fy_def_text(&def, "restart"), "on-crash");
    fy_def_free(&def);
}

static void test_round_trip(void **state)
{
    (void)state;
    struct fy_def def, again;
    struct fy_err e;
    static char text[] = "append=\"q\" \\ ' : # {x} \xc3\xa4 \xe2\x80\xa8 \xe2\x80\xa9 end";
    char *const set[] = {text};
    read_ok(full, &def);
    assert_int_equal(fy_def_assign(&def, set, 1, &e), 0);
    char *one = fy_def_write(&def);
    read_ok(one, &again);
    char *two = fy_def_write(&again);
    assert_string_equal(one, two);
    assert_string_equal(fy_def_text(&again, "append"), text + 7);
    free(one);
    free(two);
    fy_def_free(&def);
    fy_def_free(&again);
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text, *why;
    } bad[] = {
        {"name: a\nmemry: 2G\n", "line 2, column 1: there is no setting memry (there are name, memory, cpus"},
        {"name: a\nmemory: 3M\n", "line 2, column 9: memory: 3M is no size"},
        {"memory: 99999999999999999999G\n", "line 1, column 9: memory:"},
        {"memory: 2T\n", "line 1, column 9: memory:"},
        {"cpus: 65\n", "line 1, column 7: cpus: 65 is no whole number from 1 to 64"},
        {"cpus: 1.5\n", "line 1, column 7"},
        {"cpus: -1\n", "line 1, column 7"},
        {"cpus: \"2\"\n", "line 1, column 7: cpus wants a number, not a quoted text"},
        {"cpus: [2]\n", "line 1, column 7: a single value belongs here, not a list"},
        {"cpus: {a: b}\n", "line 1, column 7: a single value belongs here, not a mapping"},
        {"cpus:\n", "cpus has no value"},
        {"prealloc: maybe\n", "line 1, column 11: prealloc: maybe is neither yes nor no"},
        {"restart: always\n", "line 1, column 10: restart: always is none of no|on-crash"},
        {"disks: root.img\n", "line 1, column 8: disks wants a list"},
        {"disks: [ [a] ]\n", "line 1, column 10: a single value belongs here, not a list"},
        {"disks: [ a: b ]\n", "a single value belongs here, not a mapping"},
        {"disks: [ ~ ]\n", "line 1, column 10: disks has no value"},
        {"disks: [ \"\" ]\n", "line 1, column 10: disks: the text is empty"},
        {"cpus: 1\ncpus: 2\n", "line 2, column 1: cpus is there twice"},
        {"name: a\nname: b\n", "line 2, column 7: name is there twice"},
        {"append: &x a\n", "anchors and tags"},
        {"append: !!str a\n", "anchors and tags"},
        {"append: &x a\ninitrd: *x\n", "anchors"},
        {"append: *x\n", "line 1, column 9: aliases"},
        {"append: \"a\\x01b\"\n", "line 1, column 9: append: a text has"},
        {"append: \"a\\0b\"\n", "line 1, column 9: a NUL"},
        {"append: \"a\n", "line "},
        {"append: a: b\n", "line 1, column "},
        {"name: a\n---\nname: b\n", "line 2, column 1: one definition a file"},
        {"- a\n", "line 1, column 1: a definition is lines"},
        {"just text\n", "line 1, column 1: a definition is lines"},
        {"", "a definition is lines"},
        {"append: \xff\n", "byte 9"},
        {"? [a]\n: b\n", "line 1, column 3"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct fy_def def = {0};
        struct fy_err e = {0};
        assert_int_equal(fy_def_parse(bad[i].text, strlen(bad[i].text), &def, &e), -1);
        if (!strstr(e.text, bad[i].why) || e.code != FY_EUSAGE)
            fail_msg("%s: %d %s", bad[i].text, e.code, e.text);
        for (size_t k = 0; k < FY_DEF_KEYS_MAX; k++)
            assert_false(def.values[k].set || def.values[k].text || def.values[k].items);
    }
}

static void test_limits(void **state)
{
    (void)state;
    struct fy_def def = {0};
    struct fy_err e;
    char *big = malloc(FY_DEF_TEXT_MAX + 2);
    memset(big, ' ', FY_DEF_TEXT_MAX + 1);
    assert_int_equal(fy_def_parse(big, FY_DEF_TEXT_MAX + 1, &def, &e), -1);
    size_t n = (size_t)sprintf(big, "disks: [");
    for (int i = 0; i < 33; i++)
        n += (size_t)sprintf(big + n, "/%d,", i);
    strcpy(big + n, "]\n");
    assert_int_equal(fy_def_parse(big, strlen(big), &def, &e), -1);
    assert_non_null(strstr(e.text, "disks has more than 32 items"));
    n = (size_t)sprintf(big, "append: ");
    memset(big + n, 'x', 4097);
    strcpy(big + n + 4097, "\n");
    assert_int_equal(fy_def_parse(big, strlen(big), &def, &e), -1);
    strcpy(big + n + 4096, "\n");
    assert_int_equal(fy_def_parse(big, strlen(big), &def, &e), 0);
    fy_def_free(&def);
    free(big);
}

static void test_assign(void **state)
{
    (void)state;
    struct fy_def def;
    struct fy_err e;
    char *const good[] = {(char[]){"memory=512M"}, (char[]){"disks=/a"}, (char[]){"disks=/b,ro"},
                          (char[]){"append="}, (char[]){"restart=no"}};
    char *const bad[] = {(char[]){"memory=1G"}, (char[]){"cpus=many"}};
    char *const unknown[] = {(char[]){"colour=red"}}, *const none[] = {(char[]){"memory"}},
                *const empty[] = {(char[]){"=2"}};
    read_ok(full, &def);
    assert_int_equal(fy_def_assign(&def, good, 5, &e), 0);
    assert_int_equal(fy_def_number(&def, "memory", 0), 512ull << 20);
    assert_null(fy_def_text(&def, "append"));
    const struct fy_def_value *disks = &def.values[fy_def_find("disks")];
    assert_int_equal(disks->count, 2);
    assert_string_equal(disks->items[1], "/b,ro");
    /* All or nothing. */
    assert_int_equal(fy_def_assign(&def, bad, 2, &e), -1);
    assert_int_equal(fy_def_number(&def, "memory", 0), 512ull << 20);
    assert_int_equal(fy_def_assign(&def, unknown, 1, &e), -1);
    assert_non_null(strstr(e.text, "there is no setting colour"));
    assert_int_equal(fy_def_assign(&def, none, 1, &e), -1);
    assert_int_equal(fy_def_assign(&def, empty, 1, &e), -1);
    fy_def_free(&def);
}

static void test_paths(void **state)
{
    (void)state;
    struct fy_def def;
    struct fy_err e;
    read_ok("name: a\nkernel: k\ninitrd: /i\ndisks: [ \"d,x=y/z\", \"nbd://h/x\", \"d,uri=nbd://h\" ]\n",
            &def);
    assert_int_equal(fy_def_check(&def, &e), -1);
    assert_int_equal(fy_def_absolute(&def, "/f/g", &e), 0);
    assert_string_equal(fy_def_text(&def, "kernel"), "/f/g/k");
    assert_string_equal(fy_def_text(&def, "initrd"), "/i");
    const struct fy_def_value *disks = &def.values[fy_def_find("disks")];
    assert_string_equal(disks->items[0], "/f/g/d,x=y/z");
    assert_string_equal(disks->items[1], "nbd://h/x");
    assert_string_equal(disks->items[2], "/f/g/d,uri=nbd://h");
    assert_int_equal(fy_def_check(&def, &e), 0);
    fy_def_free(&def);
    static const char *const bad[] = {"memory: 2G\n", "name: -a\n", "name: a/b\n", "name: a\ninitrd: /i\n"};
    for (size_t i = 0; i < 4; i++) {
        read_ok(bad[i], &def);
        assert_int_equal(fy_def_check(&def, &e), -1);
        assert_int_equal(e.code, FY_EUSAGE);
        fy_def_free(&def);
    }
}

static void test_text(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool ok;
    } cases[] = {{"", true},
                 {"plain", true},
                 {"\xc3\xa4", true},
                 {"\xf0\x9f\x9a\xa2", true},
                 {"a\nb", false},
                 {"\x7f", false},
                 {"\xc2\x85", false},
                 {"\xc0\x80", false},
                 {"\xe0\x80\x80", false},
                 {"\xed\xa0\x80", false},
                 {"\xc3", false},
                 {"\xf4\x90\x80\x80", false},
                 {"\xef\xbb\xbf", false},
                 {"\xef\xbf\xbf", false},
                 {"\xff", false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(fy_def_text_ok(cases[i].text, strlen(cases[i].text)), cases[i].ok);
}

/* A start from a definition must be able to say all that `vmctl start` can: a new field of ApiStart needs a
 * row in hv/define/keys.c. */
static void test_table_has_all(void **state)
{
    (void)state;
    static const char *const others[] = {"name", "has_initrd", "paused", "from_definition", "here"};
    size_t count;
    const struct fy_def_key *k = fy_def_keys(&count);
    for (unsigned i = 0; i < ferry__api_start__descriptor.n_fields; i++) {
        const char *field = ferry__api_start__descriptor.fields[i].name;
        bool found = false;
        for (size_t j = 0; j < sizeof others / sizeof *others; j++)
            found |= !strcmp(others[j], field);
        for (size_t j = 0; j < count; j++)
            found |= k[j].field && !strcmp(k[j].field, field);
        if (!found)
            fail_msg("the field %s of ApiStart has no row in hv/define/keys.c", field);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_read),   cmocka_unit_test(test_round_trip),    cmocka_unit_test(test_refused),
        cmocka_unit_test(test_limits), cmocka_unit_test(test_assign),        cmocka_unit_test(test_paths),
        cmocka_unit_test(test_text),   cmocka_unit_test(test_table_has_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
