// SPDX-License-Identifier: Apache-2.0
/* The self-checking guest's memory seen from outside, while it is paused: check_memory FILE, where FILE is
 * its memfd
 * (/proc/PID/fd/N) or a copy of it. Every page of the working area must be at pass + 1 where the vCPU that
 * owns it has been in this pass and at pass where it has not; the page it stands on may be either or half
 * way. One JSON line on stdout; exit 0 intact, 1 corrupt, 2 not checkable. */
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/guests/selfcheck/body.h"

#define HOLE_START 0xc0000000ull
#define HOLE_END 0x100000000ull
#define NAMED 10

uint64_t sc_phrases[SC_PHRASES][SC_SLOT_WORDS];

struct image {
    int fd;
    uint64_t bytes;
    struct sc_status status;
    uint64_t bad;
};

static bool read_at(const struct image *im, uint64_t gpa, void *buf, size_t len)
{
    uint64_t low = im->bytes < HOLE_START ? im->bytes : HOLE_START;
    uint64_t offset = gpa;
    if (gpa >= HOLE_END)
        offset = gpa - HOLE_END + low;
    else if (gpa >= low)
        return false;
    return pread(im->fd, buf, len, (off_t)offset) == (ssize_t)len;
}

static uint64_t gpa_of(const struct sc_status *s, uint64_t page)
{
    for (unsigned i = 0; i < s->segments; i++) {
        if (page < s->segment[i].pages)
            return s->segment[i].gpa + page * SC_PAGE;
        page -= s->segment[i].pages;
    }
    return UINT64_MAX;
}

static bool page_is(const struct sc_status *s, const uint64_t *p, uint64_t page, uint64_t counter)
{
    uint64_t want[SC_SLOT_WORDS];
    for (unsigned slot = 0; slot < SC_SLOTS; slot++) {
        sc_expect(s->mode, sc_kind(s->fill, page), page, slot, counter, want);
        if (memcmp(p + slot * SC_SLOT_WORDS, want, sizeof want) != 0)
            return false;
    }
    return true;
}

static void check_page(struct image *im, uint64_t page, uint64_t counter, bool standing)
{
    uint64_t buf[SC_WORDS];
    uint64_t gpa = gpa_of(&im->status, page);
    if (!read_at(im, gpa, buf, sizeof buf)) {
        fprintf(stderr, "page %llu: %#llx lies outside the file\n", (unsigned long long)page,
                (unsigned long long)gpa);
        im->bad++;
        return;
    }
    if (standing || page_is(&im->status, buf, page, counter))
        return;
    if (im->bad++ < NAMED)
        fprintf(stderr, "page %llu at %#llx: expected counter %llu, it says %llu\n", (unsigned long long)page,
                (unsigned long long)gpa, (unsigned long long)counter, (unsigned long long)buf[0]);
}

static void check_cpu(struct image *im, const struct sc_cpu *c)
{
    uint64_t pass = c->position >> 32;
    uint64_t at = c->position & 0xffffffff;
    uint64_t step = sc_step(im->status.mode, pass, c->dirty);
    for (uint64_t i = 0; i < c->dirty; i++)
        check_page(im, c->first + sc_visit(step, pass, i, c->dirty), pass + (i < at), i == at);
    for (uint64_t i = c->dirty; i < c->pages; i++)
        check_page(im, c->first + i, 0, false);
}

/* The status page comes from a guest's memory: nothing in it is believed. */
static const char *unusable(const struct image *im)
{
    const struct sc_status *s = &im->status;
    if (s->magic != SC_MAGIC)
        return "no self-checking guest has laid out its memory here";
    if (!s->cpus || s->cpus > SC_CPUS || s->segments > SC_SEGMENTS || s->mode > SC_FLIP ||
        s->fill > SC_MIXED || s->pages > im->bytes / SC_PAGE)
        return "the status page is damaged";
    for (unsigned i = 0; i < s->cpus; i++) {
        const struct sc_cpu *c = &s->cpu[i];
        if (c->state != 3)
            return "the guest has not filled its memory yet";
        if (c->pages > s->pages || c->first > s->pages - c->pages || c->dirty > c->pages)
            return "a vCPU's range is damaged";
    }
    return NULL;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: check_memory FILE\n");
        return 2;
    }
    static struct image im;
    struct stat st;
    im.fd = open(argv[1], O_RDONLY | O_CLOEXEC);
    if (im.fd < 0 || fstat(im.fd, &st)) {
        perror(argv[1]);
        return 2;
    }
    im.bytes = (uint64_t)st.st_size;
    if (!read_at(&im, SC_STATUS, &im.status, sizeof im.status)) {
        fprintf(stderr, "%s: too short\n", argv[1]);
        return 2;
    }
    const char *why = unusable(&im);
    if (why) {
        fprintf(stderr, "%s: %s\n", argv[1], why);
        return 2;
    }
    sc_body_init();
    uint64_t reported = 0;
    for (unsigned i = 0; i < im.status.cpus; i++) {
        check_cpu(&im, &im.status.cpu[i]);
        reported += im.status.cpu[i].bad;
    }
    printf(
        "{\"state\":\"%s\",\"pages\":%llu,\"bad\":%llu,\"guest_reported\":%llu,\"vcpus\":%u,\"pass\":%llu}\n",
        im.bad ? "corrupt" : "intact", (unsigned long long)im.status.pages, (unsigned long long)im.bad,
        (unsigned long long)reported, im.status.cpus, (unsigned long long)(im.status.cpu[0].position >> 32));
    return im.bad ? 1 : 0;
}
