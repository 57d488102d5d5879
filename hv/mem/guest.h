// SPDX-License-Identifier: Apache-2.0
/* Guest memory: one memfd, mapped whole, seen by the guest as slots around the hole below 4 GiB. Behind the
 * RAM the memfd may have a firmware area, which mirrors the addresses that end at 4 GiB: parts of it are ROM,
 * which the guest reads and executes and whose writes go to the bus; the rest (flash) it reaches through a
 * device only. At its end it may have an area of boot images, of which the guest sees nothing. The areas are
 * slots of log-dirty, so they travel like RAM; nothing but host code writes them. */
#ifndef FERRY_MEM_GUEST_H
#define FERRY_MEM_GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hv/base/err.h"

#define FY_SLOTS_MAX 4

struct fy_slot {
    uint64_t gpa;    /* first guest-physical byte */
    uint64_t bytes;  /* length */
    uint64_t offset; /* of that byte in the memfd */
    uint8_t *host;   /* its address here */
};

#define FY_ROMS_MAX 2

struct fy_gmem {
    int fd;         /* the memfd, read-write; owned */
    int ro_fd;      /* the same file, read-only; owned */
    uint64_t bytes; /* of the memfd: RAM and areas */
    uint8_t *host;
    struct fy_slot
        slots[FY_SLOTS_MAX]; /* RAM; then the firmware area and that of boot images, where there are */
    unsigned slot_count;
    unsigned ram_slots;
    const struct fy_slot *area, *images; /* of slots; NULL: none */
    struct fy_slot roms[FY_ROMS_MAX];    /* what engines map for reading and executing only */
    unsigned rom_count;
    bool hugepages;
    bool large; /* all of it is there, in 2 MiB pages (after fy_gmem_prealloc) */
    /* Called after host code wrote [offset, offset + len) of the memfd; set by log-dirty. Any thread. */
    void (*written)(void *arg, uint64_t offset, uint64_t len);
    void *written_arg;
    /* Likewise, set by a software engine: it throws away what it has decoded there. */
    void (*code_written)(void *arg, uint64_t offset, uint64_t len);
    void *code_written_arg;
};

/* Fill slots for `bytes` of RAM (a multiple of 2 MiB): RAM below the hole at gpa 0 up to
 * FY_HOLE_START, the rest from 4 GiB. Pure. */
unsigned fy_gmem_layout(uint64_t bytes, struct fy_slot slots[FY_SLOTS_MAX]);
#define FY_HOLE_START 0xc0000000ull
#define FY_HOLE_END 0x100000000ull

/* Map fd (a memfd of exactly `bytes`, sealed against shrinking) and take ownership of both descriptors,
 * also on failure. Touches no page. */
struct fy_gmem *fy_gmem_open(int fd, int ro_fd, uint64_t bytes, bool hugepages, struct fy_err *e);
/* The same with a firmware area of `area` bytes (a multiple of 2 MiB, at most FY_FIRMWARE_MAX) behind `ram`
 * bytes of RAM, and one for boot images of `images` bytes (a multiple of 2 MiB, at most FY_IMAGES_MAX) behind
 * that; the memfd has all. */
struct fy_gmem *fy_gmem_open_area(int fd, int ro_fd, uint64_t ram, uint64_t area, uint64_t images,
                                  bool hugepages, struct fy_err *e);
#define FY_IMAGES_MAX (4ull << 30)
/* The address that a slot of boot images is listed with: behind all that a processor can reach. */
#define FY_IMAGES_GPA (1ull << 52)
#define FY_FIRMWARE_MAX (8ull << 20)
void fy_gmem_free(struct fy_gmem *m);

/* Make [at, at + bytes) of the firmware area (whole pages) ROM, seen by the guest at its place below 4 GiB.
 * Before an engine is made. */
int fy_gmem_add_rom(struct fy_gmem *m, uint64_t at, uint64_t bytes, struct fy_err *e);
/* Host address of [at, at + len) of the firmware area, NULL where it is not inside. The caller who writes
 * through it calls fy_gmem_area_mark afterwards. Any thread. */
uint8_t *fy_gmem_area(const struct fy_gmem *m, uint64_t at, uint64_t len);
void fy_gmem_area_mark(struct fy_gmem *m, uint64_t at, uint64_t len);
/* The same for the area of boot images. */
uint8_t *fy_gmem_images(const struct fy_gmem *m, uint64_t at, uint64_t len);
void fy_gmem_images_mark(struct fy_gmem *m, uint64_t at, uint64_t len);

/* Touch every page with `threads` threads, contents kept. Fills *took_ns. */
int fy_gmem_prealloc(struct fy_gmem *m, unsigned threads, uint64_t *took_ns, struct fy_err *e);

/* Host address of [gpa, gpa + len), or NULL where that is not wholly inside one slot of RAM. The caller who
 * writes through it calls fy_gmem_mark afterwards. Any thread. */
uint8_t *fy_gmem_at(const struct fy_gmem *m, uint64_t gpa, uint64_t len);

/* Tell log-dirty that host code has written [gpa, gpa + len). After the write, before anything that lets
 * the guest know of it. Any thread. */
void fy_gmem_mark(struct fy_gmem *m, uint64_t gpa, uint64_t len);

/* Copy in or out, checked, marked. -1 with FY_ECORRUPT when out of RAM. Any thread. */
int fy_gmem_write(struct fy_gmem *m, uint64_t gpa, const void *buf, uint64_t len, struct fy_err *e);
int fy_gmem_read(const struct fy_gmem *m, uint64_t gpa, void *buf, uint64_t len, struct fy_err *e);

#endif
