// SPDX-License-Identifier: Apache-2.0
#include "hv/dev/flash.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "hv/base/bitmap.h"
#include "hv/base/io.h"
#include "hv/base/log.h"
#include "hv/dev/state.h"
#include "proto/state.pb-c.h"

#define CMD_PROGRAM 0x10
#define CMD_PROGRAM_ALT 0x40
#define CMD_ERASE 0x20
#define CMD_CONFIRM 0xd0
#define CMD_CLEAR_STATUS 0x50
#define CMD_READ_STATUS 0x70
#define CMD_READ_ID 0x90
#define CMD_QUERY 0x98
#define CMD_READ_ARRAY 0xff

/* Ready is set when an operation ends, and cleared with the error bits: OVMF tells flash from ROM by a status
 * of 0 after "clear status". Nothing here takes time, so a driver that polls for it waits for nothing. */
#define ST_READY 0x80
#define ST_ERASE_ERROR 0x20
#define ST_PROGRAM_ERROR 0x10
#define ST_MASK (ST_READY | ST_ERASE_ERROR | ST_PROGRAM_ERROR)

#define BLOCKS_MAX (FY_FIRMWARE_MAX / FY_FLASH_BLOCK)

enum mode { ARRAY, STATUS, ID, QUERY, PROGRAM, ERASE, MODES };

struct flash {
    pthread_mutex_t lock;
    struct fy_gmem *gmem;
    struct fy_loop *loop; /* whose thread writes the file; NULL: it is written at a pause only */
    bool posted;          /* write_back is on its way to that thread */
    bool dead;            /* freed by its owner meanwhile; the callback frees it */
    uint64_t at, bytes;
    uint8_t *host;
    int file;
    bool warned;
    enum mode mode;
    uint8_t status;
    uint64_t unsaved[FY_BITMAP_WORDS(BLOCKS_MAX)]; /* blocks that the file has not got */
    bool any_unsaved;
};

/* Not on a vCPU's thread, which may not write files. The lock is held. */
static void write_back(struct flash *f)
{
    if (!f->any_unsaved || f->file < 0)
        return;
    f->any_unsaved = false;
    for (uint64_t b = 0; b < f->bytes / FY_FLASH_BLOCK; b++) {
        if (!fy_bit_test(f->unsaved, b))
            continue;
        uint64_t at = b * FY_FLASH_BLOCK;
        if (fy_pwrite_all(f->file, f->host + at, FY_FLASH_BLOCK, (off_t)at) == 0) {
            fy_bit_clear(f->unsaved, b);
            continue;
        }
        f->any_unsaved = true;
        if (!f->warned)
            fy_warn("nvram: the firmware's variables cannot be written to their file: %s", strerror(errno));
        f->warned = true;
    }
}

static void destroy(struct flash *f)
{
    pthread_mutex_destroy(&f->lock);
    free(f);
}

static void on_posted(void *arg)
{
    struct flash *f = arg;
    pthread_mutex_lock(&f->lock);
    f->posted = false;
    bool dead = f->dead;
    if (!dead)
        write_back(f);
    pthread_mutex_unlock(&f->lock);
    if (dead)
        destroy(f);
}

/* Have the file written soon. The lock is held. */
static void write_back_soon(struct flash *f)
{
    if (f->any_unsaved && f->file >= 0 && f->loop && !f->posted)
        f->posted = fy_loop_post(f->loop, on_posted, f, NULL) == 0;
}

static void changed(struct flash *f, uint64_t offset, uint64_t len)
{
    fy_gmem_area_mark(f->gmem, f->at + offset, len);
    for (uint64_t b = offset / FY_FLASH_BLOCK; b <= (offset + len - 1) / FY_FLASH_BLOCK; b++)
        fy_bit_set(f->unsaved, b);
    f->any_unsaved = true;
}

/* What the query mode shows (JESD68.01, tables 1 to 5): Intel command set, one region of 4 KiB blocks. */
static uint8_t query(const struct flash *f, uint64_t offset)
{
    static const uint8_t head[] = {'Q', 'R', 'Y', 1, 0, 0, 0, 0, 0, 0, 0};
    unsigned at = offset & 0xff, log2 = 0;
    uint64_t last = f->bytes / FY_FLASH_BLOCK - 1;
    while (1ull << log2 < f->bytes)
        log2++;
    if (at >= 0x10 && at < 0x10 + sizeof head)
        return head[at - 0x10];
    switch (at) {
    case 0x27:
        return (uint8_t)log2;
    case 0x2c:
        return 1; /* regions */
    case 0x2d:
        return (uint8_t)last;
    case 0x2e:
        return (uint8_t)(last >> 8);
    case 0x2f:
        return FY_FLASH_BLOCK / 256;
    default:
        return 0;
    }
}

static uint8_t read_byte(const struct flash *f, uint64_t offset)
{
    switch (f->mode) {
    case ARRAY:
        return f->host[offset];
    case ID:
        return offset & 0xff ? 0x18 : 0x89; /* Intel */
    case QUERY:
        return query(f, offset);
    default:
        return f->status;
    }
}

static uint64_t flash_read(void *dev, uint64_t offset, unsigned size)
{
    struct flash *f = dev;
    uint64_t v = 0;
    pthread_mutex_lock(&f->lock);
    for (unsigned i = 0; i < size; i++)
        v |= (uint64_t)read_byte(f, offset + i) << (8 * i);
    pthread_mutex_unlock(&f->lock);
    return v;
}

/* Programming clears bits; only an erasure sets them. */
static void program(struct flash *f, uint64_t offset, unsigned size, uint64_t value)
{
    for (unsigned i = 0; i < size; i++)
        f->host[offset + i] &= (uint8_t)(value >> (8 * i));
    changed(f, offset, size);
    f->status |= ST_READY;
    f->mode = STATUS;
}

static void erase(struct flash *f, uint64_t offset, uint8_t confirm)
{
    f->mode = STATUS;
    f->status |= ST_READY;
    if (confirm != CMD_CONFIRM) {
        f->status |= ST_ERASE_ERROR | ST_PROGRAM_ERROR; /* command sequence error */
        return;
    }
    offset -= offset % FY_FLASH_BLOCK;
    memset(f->host + offset, 0xff, FY_FLASH_BLOCK);
    changed(f, offset, FY_FLASH_BLOCK);
}

static void command(struct flash *f, uint8_t cmd)
{
    switch (cmd) {
    case CMD_PROGRAM:
    case CMD_PROGRAM_ALT:
        f->mode = PROGRAM;
        break;
    case CMD_ERASE:
        f->mode = ERASE;
        break;
    case CMD_CLEAR_STATUS:
        f->status = 0;
        break;
    case CMD_READ_STATUS:
        f->mode = STATUS;
        break;
    case CMD_READ_ID:
        f->mode = ID;
        break;
    case CMD_QUERY:
        f->mode = QUERY;
        break;
    default: /* also CMD_READ_ARRAY, with which a driver ends what it does */
        f->mode = ARRAY;
        write_back_soon(f);
    }
}

static void flash_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct flash *f = dev;
    pthread_mutex_lock(&f->lock);
    if (f->mode == PROGRAM)
        program(f, offset, size, value);
    else if (f->mode == ERASE)
        erase(f, offset, (uint8_t)value);
    else
        command(f, (uint8_t)value);
    pthread_mutex_unlock(&f->lock);
}

int fy_flash_read_file(struct fy_device *flash, struct fy_err *e)
{
    struct flash *f = flash->dev;
    struct stat st;
    if (f->file < 0)
        return fy_fail(e, FY_EUSAGE, "nvram: no file of variables was given");
    if (fstat(f->file, &st) < 0 || (uint64_t)st.st_size != f->bytes)
        return fy_fail(e, FY_ECORRUPT, "nvram: the file of variables has %lld bytes, the flash %llu",
                       (long long)st.st_size, (unsigned long long)f->bytes);
    if (fy_pread_all(f->file, f->host, f->bytes, 0) < 0)
        return fy_fail_errno(e, FY_EFAIL, errno, "nvram: the file of variables cannot be read");
    fy_gmem_area_mark(f->gmem, f->at, f->bytes);
    return 0;
}

static int flash_save(void *dev, uint8_t **buf, size_t *len, struct fy_err *e)
{
    struct flash *f = dev;
    Ferry__Flash m = FERRY__FLASH__INIT;
    pthread_mutex_lock(&f->lock);
    m.mode = f->mode;
    m.status = f->status;
    pthread_mutex_unlock(&f->lock);
    return fy_state_pack(&m.base, buf, len, e);
}

static int flash_load(void *dev, const uint8_t *buf, size_t len, struct fy_err *e)
{
    struct flash *f = dev;
    ProtobufCMessage *msg = fy_state_unpack(&ferry__flash__descriptor, "nvram", buf, len, e);
    if (!msg)
        return -1;
    Ferry__Flash m = *(const Ferry__Flash *)msg; /* plain numbers, no pointers into msg */
    protobuf_c_message_free_unpacked(msg, NULL);
    if (m.mode >= MODES || m.status & ~(uint32_t)ST_MASK)
        return fy_fail(e, FY_ECORRUPT, "nvram: mode %u, status %#x: there is no such state", m.mode,
                       m.status);
    pthread_mutex_lock(&f->lock);
    f->mode = (enum mode)m.mode;
    f->status = (uint8_t)m.status;
    /* The contents came with memory: this host's file has none of them. */
    memset(f->unsaved, 0xff, sizeof f->unsaved);
    f->any_unsaved = true;
    write_back_soon(f);
    pthread_mutex_unlock(&f->lock);
    return 0;
}

static void flash_reset(void *dev)
{
    struct flash *f = dev;
    pthread_mutex_lock(&f->lock);
    f->mode = ARRAY;
    f->status = 0;
    write_back(f);
    pthread_mutex_unlock(&f->lock);
}

static void flash_pause(void *dev)
{
    struct flash *f = dev;
    pthread_mutex_lock(&f->lock);
    write_back(f);
    pthread_mutex_unlock(&f->lock);
}

static void flash_free(void *dev)
{
    struct flash *f = dev;
    pthread_mutex_lock(&f->lock);
    write_back(f);
    bool posted = f->posted;
    f->dead = true;
    pthread_mutex_unlock(&f->lock);
    if (!posted)
        destroy(f);
}

static const struct fy_dev_ops flash_ops = {
    .type = "cfi-flash",
    .version = 1,
    .save = flash_save,
    .load = flash_load,
    .reset = flash_reset,
    .pause = flash_pause,
    .free = flash_free,
};

int fy_flash_new(struct fy_bus *bus, const struct fy_dev_host *host, struct fy_gmem *gmem, uint64_t at,
                 uint64_t bytes, int file, struct fy_device *out, struct fy_err *e)
{
    static const struct fy_io_ops io = {.read = flash_read, .write = flash_write};
    uint8_t *p = fy_gmem_area(gmem, at, bytes);
    if (!p || !bytes || bytes > FY_FIRMWARE_MAX || (at | bytes) % FY_FLASH_BLOCK)
        return fy_fail(e, FY_EUSAGE, "nvram: no flash of %llu bytes at %#llx of the firmware area",
                       (unsigned long long)bytes, (unsigned long long)at);
    struct flash *f = calloc(1, sizeof *f);
    if (!f)
        return fy_fail(e, FY_ERESOURCE, "no memory for the flash");
    pthread_mutex_init(&f->lock, NULL);
    f->gmem = gmem;
    f->at = at;
    f->bytes = bytes;
    f->host = p;
    f->file = file;
    f->loop = host->loop;
    uint64_t gpa = gmem->area->gpa + at;
    if (fy_bus_add(bus, FY_SPACE_MMIO, gpa, bytes, &io, f, e) < 0) {
        flash_free(f);
        return -1;
    }
    *out = (struct fy_device){.id = "nvram", .ops = &flash_ops, .dev = f};
    return 0;
}
