// SPDX-License-Identifier: Apache-2.0
/* Which archive Debian's packages come from: the one that this host's apt uses. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/image.h"
#include "hv/base/io.h"

#define TARGETS_LIMIT (1u << 20)
#define KEYRING "/usr/share/keyrings/debian-archive-keyring.gpg"

/* Suites that are a whole Debian: another one is at the same address. */
static const char *const bases[] = {"bullseye", "bookworm", "trixie", "forky",   "oldstable",
                                    "stable",   "testing",  "sid",    "unstable"};

/* Whether `release` is one of them with `suffix` ("-updates") behind. */
static bool is_base(const char *release, size_t len, const char *suffix)
{
    size_t s = strlen(suffix);
    if (len < s || memcmp(release + len - s, suffix, s) != 0)
        return false;
    for (size_t i = 0; i < sizeof bases / sizeof *bases; i++)
        if (strlen(bases[i]) == len - s && !strncmp(release, bases[i], len - s))
            return true;
    return false;
}

struct source {
    const char *uri; /* in the targets' text */
    size_t len;
    bool exact; /* for the very suite */
};

/* One line "URI|RELEASE|COMPONENT" of the targets; a better one than *s replaces it. */
static void consider(struct source *s, const char *line, size_t len, const char *suite, const char *suffix)
{
    const char *release = memchr(line, '|', len);
    const char *component = release ? memchr(release + 1, '|', len - (size_t)(release + 1 - line)) : NULL;
    if (!component)
        return;
    size_t uri_len = (size_t)(release - line);
    release++;
    size_t release_len = (size_t)(component - release);
    component++;
    if ((size_t)(line + len - component) != 4 || memcmp(component, "main", 4) != 0 || uri_len == 0)
        return;
    if (memchr(line, ' ', uri_len) || !memcmp(line, "cdrom", uri_len < 5 ? uri_len : 5))
        return;
    bool exact = release_len == strlen(suite) + strlen(suffix) && !strncmp(release, suite, strlen(suite)) &&
                 !memcmp(release + strlen(suite), suffix, strlen(suffix));
    if (s->exact || (!exact && (s->uri || !is_base(release, release_len, suffix))))
        return;
    *s = (struct source){.uri = line, .len = uri_len, .exact = exact};
}

int image_sources(const char *targets, const char *suite, char *out, size_t size, struct fy_err *e)
{
    static const char *const suffixes[] = {"", "-updates", "-security"};
    size_t n = 0;
    for (size_t i = 0; i < 3; i++) {
        struct source s = {0};
        for (const char *line = targets; *line;) {
            size_t len = strcspn(line, "\n");
            consider(&s, line, len, suite, suffixes[i]);
            line += len + (line[len] == '\n');
        }
        if (!s.uri && i == 0)
            return fy_fail(
                e, FY_ENOTFOUND,
                "apt of this host knows no Debian archive (see sources.list(5); then apt-get update)");
        if (!s.uri)
            continue;
        n += (size_t)snprintf(out + n, size - n, "deb [signed-by=" KEYRING "] %.*s %s%s main\n", (int)s.len,
                              s.uri, suite, suffixes[i]);
        if (n >= size)
            return fy_fail(e, FY_ECORRUPT, "an address in apt's sources is too long");
    }
    return 0;
}

int image_apt_sources(struct image_work *w, const char *suite, char *out, size_t size, struct fy_err *e)
{
    static const char *const argv[] = {
        "sh", "-c", "apt-get indextargets --format '" IMAGE_TARGETS "' 'Created-By: Packages' >targets",
        NULL};
    char *targets = NULL;
    size_t len = 0;
    if (image_run(w, &(struct image_run){.argv = argv}, e) < 0 ||
        fy_read_file(w->fd, "targets", TARGETS_LIMIT, &targets, &len, e) < 0)
        return -1;
    int rc = image_sources(targets, suite, out, size, e);
    free(targets);
    return rc;
}
