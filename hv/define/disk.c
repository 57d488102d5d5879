// SPDX-License-Identifier: Apache-2.0
#include "hv/define/disk.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define KNOWN "ro, cache=none|writeback, name=NAME, queues=N, format=raw"

static char *constant(const char *text)
{
    return (char *)(uintptr_t)text;
}

static bool ends(const char *name, const char *end)
{
    size_t n = strlen(name), m = strlen(end);
    return n > m && !strcmp(name + n - m, end);
}

/* 1 to 16, or 0. */
static uint32_t parse_queues(const char *text)
{
    size_t n = strspn(text, "0123456789");
    unsigned long v = n && n < 4 && !text[n] ? strtoul(text, NULL, 10) : 0;
    return v <= 16 ? (uint32_t)v : 0;
}

static int option(Ferry__Disk *d, char *word, const char *arg, struct fy_err *e)
{
    uint32_t queues;
    if (!strcmp(word, "ro")) {
        d->read_only = true;
    } else if (!strcmp(word, "cache=none") || !strcmp(word, "cache=writeback")) {
        d->cache = word + 6;
    } else if (!strncmp(word, "name=", 5) && word[5] && strlen(word + 5) <= 20) {
        d->name = word + 5;
    } else if (!strncmp(word, "queues=", 7) && (queues = parse_queues(word + 7)) != 0) {
        d->queues = queues;
    } else if (!strcmp(word, "format=raw")) {
        d->format = word + 7;
    } else if (!strncmp(word, "format=", 7)) {
        return fy_fail(e, FY_EUSAGE, "disk %s: format %s is not known (raw is)", arg, word + 7);
    } else {
        return fy_fail(e, FY_EUSAGE, "disk %s: no option \"%s\" (" KNOWN ")", arg, word);
    }
    return 0;
}

/* What the name's end says. */
static int format_of(Ferry__Disk *d, const char *file, const char *arg, struct fy_err *e)
{
    if (*d->format)
        return 0;
    if (ends(file, ".iso"))
        d->read_only = true;
    if (ends(file, ".img") || ends(file, ".raw") || ends(file, ".iso") || !strncmp(file, "/dev/", 5)) {
        d->format = constant("raw");
        return 0;
    }
    if (ends(file, ".qcow2"))
        return fy_fail(e, FY_EUNSUPPORTED,
                       "disk %s: qcow2 images are not supported (make a raw one: qemu-img convert -O raw, of "
                       "Debian's qemu-utils)",
                       arg);
    return fy_fail(e, FY_EUSAGE,
                   "disk %s: the name does not say what format it has (.img, .raw and .iso are raw): say "
                   "format=raw",
                   arg);
}

int fy_parse_disk(const char *arg, Ferry__Disk *d, char **text, struct fy_err *e)
{
    char *copy = strdup(arg), *at = copy, *word;
    ferry__disk__init(d);
    *text = copy;
    if (!copy)
        return fy_fail(e, FY_ERESOURCE, "no memory");
    char *file = strsep(&at, ",");
    if (!*file)
        return fy_fail(e, FY_EUSAGE, "disk %s: no file is named", arg);
    if (strstr(file, "://"))
        return fy_fail(e, FY_EUNSUPPORTED,
                       "disk %s: disks over a network are not supported (a file or block device is)", arg);
    while ((word = strsep(&at, ",")))
        if (option(d, word, arg, e) < 0)
            return -1;
    if (format_of(d, file, arg, e) < 0)
        return -1;
    /* Absolute and without links: it is looked up again wherever the guest moves to. */
    char path[PATH_MAX];
    if (!realpath(file, path))
        return fy_fail_errno(e, FY_EUSAGE, errno, "disk %s: %s", arg, file);
    size_t n = strlen(path) + 1;
    size_t used = strlen(arg) + 1;
    char *room = malloc(used + n);
    if (!room)
        return fy_fail(e, FY_ERESOURCE, "no memory");
    /* One buffer holds both: the words that d points to move with it. */
    memcpy(room, copy, used);
    memcpy(room + used, path, n);
    char **fields[] = {&d->name, &d->cache, &d->format};
    for (int i = 0; i < 3; i++)
        if (*fields[i] >= copy && *fields[i] < copy + used)
            *fields[i] = room + (*fields[i] - copy);
    d->source = room + used;
    free(copy);
    *text = room;
    return 0;
}
