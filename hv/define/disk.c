// SPDX-License-Identifier: Apache-2.0
#include "hv/define/disk.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "hv/define/nbd_uri.h"

#define KNOWN "ro, cache=none|writeback, name=NAME, queues=N, format=raw|qcow2, hold=SECONDS"
#define HOLD_MAX_S 86400u

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

/* 1 to HOLD_MAX_S, or 0. */
static uint32_t parse_seconds(const char *text)
{
    size_t n = strspn(text, "0123456789");
    unsigned long v = n && n < 7 && !text[n] ? strtoul(text, NULL, 10) : 0;
    return v <= HOLD_MAX_S ? (uint32_t)v : 0;
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
    } else if (!strncmp(word, "hold=", 5)) {
        d->hold_s = parse_seconds(word + 5);
        if (!d->hold_s)
            return fy_fail(e, FY_EUSAGE, "disk %s: hold= takes 1 to %u seconds", arg, HOLD_MAX_S);
    } else if (!strcmp(word, "format=raw") || !strcmp(word, "format=qcow2")) {
        d->format = word + 7;
    } else if (!strncmp(word, "format=", 7)) {
        return fy_fail(e, FY_EUSAGE, "disk %s: format %s is not known (raw and qcow2 are)", arg, word + 7);
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
    if (ends(file, ".qcow2")) {
        d->format = constant("qcow2");
        return 0;
    }
    return fy_fail(e, FY_EUSAGE,
                   "disk %s: the name does not say what format it has (.img, .raw and .iso are raw, "
                   ".qcow2 is qcow2): say format=raw or format=qcow2",
                   arg);
}

static int by_nbd(Ferry__Disk *d, char *uri, const char *arg, struct fy_err *e)
{
    struct fy_nbd_uri *u = malloc(sizeof *u);
    if (!u)
        return fy_fail(e, FY_ERESOURCE, "no memory");
    int r = fy_nbd_uri_parse(uri, u, e);
    free(u);
    if (r < 0)
        return fy_fail_prefix(e, "disk %s", arg);
    if (*d->format && strcmp(d->format, "raw") != 0)
        return fy_fail(e, FY_EUSAGE, "disk %s: what an NBD server exports is raw", arg);
    d->format = constant("raw");
    d->source = uri;
    return 0;
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
    while ((word = strsep(&at, ",")))
        if (option(d, word, arg, e) < 0)
            return -1;
    if (fy_nbd_uri_is(file))
        return by_nbd(d, file, arg, e);
    if (strstr(file, "://"))
        return fy_fail(e, FY_EUNSUPPORTED, "disk %s: of networks only NBD is spoken here (nbd://HOST/EXPORT)",
                       arg);
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
