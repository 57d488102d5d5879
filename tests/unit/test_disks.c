// SPDX-License-Identifier: Apache-2.0
/* Disks as people write them, and which files a peer may name. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "hv/base/io.h"
#include "hv/define/disk.h"
#include "hv/host/disks.h"

static char folder[] = "/tmp/ferry-disks-XXXXXX";

static void make(const char *name, off_t bytes)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, bytes), 0);
    close(fd);
}

static int set_up(void **state)
{
    char path[PATH_MAX], to[PATH_MAX];
    (void)state;
    assert_non_null(mkdtemp(folder));
    const char *const folders[] = {"allowed", "allowed/sub", "other"};
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, folders[i]);
        assert_int_equal(mkdir(path, 0700), 0);
    }
    make("allowed/a.img", 4096);
    make("allowed/sub/b.img", 4096);
    make("other/secret", 4096);
    make("secret", 4096);
    snprintf(to, sizeof to, "%s/other", folder);
    snprintf(path, sizeof path, "%s/allowed/way", folder);
    assert_int_equal(symlink(to, path), 0);
    snprintf(to, sizeof to, "%s/other/secret", folder);
    snprintf(path, sizeof path, "%s/allowed/link.img", folder);
    assert_int_equal(symlink(to, path), 0);
    return 0;
}

static int clear_up(void **state)
{
    char command[PATH_MAX];
    (void)state;
    snprintf(command, sizeof command, "rm -rf %s", folder);
    return system(command);
}

static void words(void **state)
{
    (void)state;
    static const struct {
        const char *arg;
        bool ok;
        bool read_only;
        const char *name, *cache, *format;
        unsigned queues;
    } all[] = {
        {"%s/allowed/a.img", true, false, "", "", "raw", 0},
        {"%s/allowed/a.img,ro", true, true, "", "", "raw", 0},
        {"%s/other/../allowed/a.img,cache=none,name=x,queues=3,format=raw", true, false, "x", "none", "raw",
         3},
        {"%s/secret,format=raw,cache=writeback", true, false, "", "writeback", "raw", 0},
        {"%s/secret", false, false, "", "", "", 0},
        {"%s/none.img", false, false, "", "", "", 0},
        {"%s/allowed/a.img,queues=0", false, false, "", "", "", 0},
        {"%s/allowed/a.img,queues=17", false, false, "", "", "", 0},
        {"%s/allowed/a.img,name=", false, false, "", "", "", 0},
        {"%s/allowed/a.img,name=123456789012345678901", false, false, "", "", "", 0},
        {"%s/allowed/a.img,format=qcow2", true, false, "", "", "qcow2", 0},
        {"%s/allowed/a.img,format=vmdk", false, false, "", "", "", 0},
        {"%s/allowed/a.img,hold=5", true, false, "", "", "raw", 0},
        {"%s/allowed/a.img,hold=0", false, false, "", "", "", 0},
        {"%s/allowed/a.img,hold=86401", false, false, "", "", "", 0},
        {"%s/allowed/a.img,", false, false, "", "", "", 0},
        {"%s/allowed/a.img,rw", false, false, "", "", "", 0},
        {"nbd://host%s/x,ro,name=n", true, true, "n", "", "raw", 0},
        {"nbd://host%s/x,format=qcow2", false, false, "", "", "", 0},
        {"nbd:///%s.img", false, false, "", "", "", 0},
        {"http://host/%s.img", false, false, "", "", "", 0},
        {"%s/none.qcow2", false, false, "", "", "", 0},
        {",ro%.0s", false, false, "", "", "", 0},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        char arg[PATH_MAX], *text;
        struct fy_err e = {0};
        Ferry__Disk d;
        snprintf(arg, sizeof arg, all[i].arg, folder);
        int r = fy_parse_disk(arg, &d, &text, &e);
        if ((r == 0) != all[i].ok)
            fail_msg("%s: %d %s", arg, r, e.text);
        if (r == 0) {
            assert_int_equal(d.read_only, all[i].read_only);
            assert_string_equal(d.name, all[i].name);
            assert_string_equal(d.cache, all[i].cache);
            assert_string_equal(d.format, all[i].format);
            assert_int_equal(d.queues, all[i].queues);
            assert_true((d.source[0] == '/' || !strncmp(d.source, "nbd://host", 10)) &&
                        !strstr(d.source, ".."));
        } else {
            assert_true(e.text[0]);
        }
        free(text);
    }
}

static int look(const char *source, uint64_t bytes, struct fy_err *e)
{
    static char allowed[PATH_MAX];
    struct fyd *d = calloc(1, sizeof *d);
    Ferry__Disk k = FERRY__DISK__INIT;
    char path[PATH_MAX];
    int fds[FYD_DISKS_MAX];
    snprintf(allowed, sizeof allowed, "%s/allowed", folder);
    snprintf(path, sizeof path, source[0] == '/' ? "%s" : "%2$s/%1$s", source, folder);
    d->disk_folders[0] = allowed;
    d->disk_folder_count = 1;
    k.name = (char *)(uintptr_t) "d";
    k.source = path;
    k.bytes = bytes;
    int r = fyd_disk_look(d, &k, e);
    /* What may be looked at may be opened, and nothing else, but for its size. */
    Ferry__Machine m = FERRY__MACHINE__INIT;
    Ferry__Disk *list[] = {&k};
    m.n_disks = 1;
    m.disks = list;
    struct fy_err why;
    int opened = fyd_disks_open(d, &m, true, fds, &why);
    assert_true(opened == r || bytes != 4096);
    if (opened == 0)
        fyd_disks_close(fds);
    free(d);
    return r;
}

/* Only what lies below the folder, by no link and no "..". */
static void paths_of_peers(void **state)
{
    (void)state;
    struct fy_err e = {0};
    assert_int_equal(look("allowed/a.img", 4096, &e), 0);
    assert_int_equal(look("allowed/sub/b.img", 4096, &e), 0);
    assert_int_equal(look("allowed/a.img", 8192, &e), -1);
    assert_int_equal(e.code, FY_EREFUSED);
    static const char *const no[] = {"other/secret",
                                     "secret",
                                     "allowed/../other/secret",
                                     "allowed/sub/../../secret",
                                     "allowed/way/secret",
                                     "allowed/link.img",
                                     "allowed/none.img",
                                     "allowed/sub",
                                     "allowed/",
                                     "allowed",
                                     "allowedx/a.img",
                                     "/etc/passwd",
                                     "/dev/null",
                                     "/"};
    for (size_t i = 0; i < sizeof no / sizeof *no; i++)
        if (look(no[i], 4096, &e) == 0)
            fail_msg("%s is allowed", no[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(words), cmocka_unit_test(paths_of_peers)};
    return cmocka_run_group_tests(tests, set_up, clear_up);
}
