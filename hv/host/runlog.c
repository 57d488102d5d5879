// SPDX-License-Identifier: Apache-2.0
/* The run log: which hypervisor let its guest run, and when. Lines of
 *   RUNIDHEX enter|leave MONOTONIC_NS UUIDHEX HANDOVERIDHEX-or-dash
 * appended by every ferry-hv with one write each. Not synced: it is evidence within one boot only. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hv/base/hex.h"
#include "hv/base/log.h"
#include "hv/host/daemon.h"
#include "hv/host/runlog.h"

static bool line_entered(const char *line, size_t len, const char *id)
{
    /* run id, a space, the word */
    static const char word[] = " enter ";
    size_t n = strlen(id);
    return len > 32 + sizeof word - 1 + n && !memcmp(line + 32, word, sizeof word - 1) &&
           line[len - n - 1] == ' ' && !memcmp(line + len - n, id, n);
}

bool fyd_runlog_has_enter(const char *text, size_t len, const char *id)
{
    const char *end = text + len;
    while (text < end) {
        const char *nl = memchr(text, '\n', (size_t)(end - text));
        size_t n = (size_t)((nl ? nl : end) - text);
        if (line_entered(text, n, id))
            return true;
        text += n + 1;
    }
    return false;
}

void fyd_runlog_trim(struct fyd *d)
{
    struct stat st;
    if (fstat(d->runlog, &st) < 0 || st.st_size <= FYD_RUNLOG_MAX)
        return;
    /* What it proves is asked for only while a hand-over is not settled. */
    for (const struct fyd_job *j = d->jobs; j; j = j->next)
        if (!j->finished)
            return;
    for (const struct fyd_ho *h = d->handovers; h; h = h->next)
        if (h->m.journal == FY_HO_NONE || h->m.journal == FY_HO_HANDING || h->m.journal == FY_HO_INCOMING)
            return;
    /* Hypervisors append with O_APPEND: they go on at the new end. */
    if (ftruncate(d->runlog, 0) < 0)
        fy_warn("cannot trim %s/run.log: %s", d->root, strerror(errno));
}

bool fyd_runlog_entered(struct fyd *d, const uint8_t id[FYD_ID_LEN])
{
    char hex[2 * FYD_ID_LEN + 1];
    struct stat st;
    fy_hex(id, FYD_ID_LEN, hex);
    int fd = openat(d->rootfd, "run.log", O_RDONLY | O_CLOEXEC);
    bool found = false;
    bool read_ok = fd >= 0 && fstat(fd, &st) == 0;
    if (read_ok && st.st_size > 0) {
        char *map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        read_ok = map != MAP_FAILED;
        if (read_ok) {
            found = fyd_runlog_has_enter(map, (size_t)st.st_size, hex);
            munmap(map, (size_t)st.st_size);
        }
    }
    if (fd >= 0)
        close(fd);
    /* Without the log nothing disproves a run, and a guest that may have run must not run elsewhere. */
    if (!read_ok)
        fy_error("cannot read %s/run.log: the guest counts as run", d->root);
    return found || !read_ok;
}
