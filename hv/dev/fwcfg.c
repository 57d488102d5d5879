// SPDX-License-Identifier: Apache-2.0
#include "hv/dev/fwcfg.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "hv/base/checked.h"
#include "hv/dev/platform.h"
#include "hv/dev/state.h"
#include "proto/state.pb-c.h"

#define KEY_SIGNATURE 0x00
#define KEY_FEATURES 0x01
#define KEY_DIRECTORY 0x19
#define KEY_FIRST_FILE 0x20

#define FEATURE_PORTS 1u
#define FEATURE_DMA 2u

#define ITEMS_MAX 64
#define FILES_MAX 32
#define NAME_BYTES 56
#define ENTRY_BYTES (8 + NAME_BYTES)
#define OFFSET_MAX 0xffffffffu

/* The access structure of DMA: control, length (32 bits each), address (64); big endian. */
#define DMA_BYTES 16
#define DMA_ERROR 0x01u
#define DMA_READ 0x02u
#define DMA_SKIP 0x04u
#define DMA_SELECT 0x08u
#define DMA_WRITE 0x10u
#define DMA_SIGNATURE 0x51454d5520434647ull
#define DMA_LENGTH_MAX (256u << 20) /* no item is as long; bounds what one access does */

struct item {
    uint16_t key;
    bool borrowed;
    const uint8_t *bytes;
    size_t len;
};

struct fwcfg {
    pthread_mutex_t lock;
    struct fy_gmem *gmem;
    struct item items[ITEMS_MAX];
    unsigned item_count;
    uint8_t directory[4 + FILES_MAX * ENTRY_BYTES];
    unsigned file_count;
    uint16_t selector;
    uint32_t offset;
    uint32_t dma_high;
};

static void put_be16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static void put_be32(uint8_t *p, uint32_t v)
{
    put_be16(p, (uint16_t)(v >> 16));
    put_be16(p + 2, (uint16_t)v);
}

static uint32_t get_be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static struct item *find(struct fwcfg *f, uint16_t key)
{
    for (unsigned i = 0; i < f->item_count; i++)
        if (f->items[i].key == key)
            return &f->items[i];
    return NULL;
}

static int put(struct fwcfg *f, uint16_t key, const uint8_t *bytes, size_t len, bool borrowed,
               struct fy_err *e)
{
    struct item *it = find(f, key);
    if (!it && f->item_count == ITEMS_MAX)
        return fy_fail(e, FY_ERESOURCE, "fwcfg: no room for item %#x", key);
    if (!it)
        it = &f->items[f->item_count++];
    else if (!it->borrowed)
        free((void *)(uintptr_t)it->bytes);
    *it = (struct item){.key = key, .borrowed = borrowed, .bytes = bytes, .len = len};
    return 0;
}

int fy_fwcfg_borrow(struct fy_device *fwcfg, uint16_t key, const void *bytes, size_t len, struct fy_err *e)
{
    if (len > OFFSET_MAX)
        return fy_fail(e, FY_ERESOURCE, "fwcfg: item %#x of %zu bytes", key, len);
    return put(fwcfg->dev, key, bytes, len, true, e);
}

int fy_fwcfg_set(struct fy_device *fwcfg, uint16_t key, const void *bytes, size_t len, struct fy_err *e)
{
    uint8_t *copy = len <= OFFSET_MAX ? malloc(len ? len : 1) : NULL;
    if (!copy)
        return fy_fail(e, FY_ERESOURCE, "fwcfg: no memory for item %#x of %zu bytes", key, len);
    if (len)
        memcpy(copy, bytes, len);
    if (put(fwcfg->dev, key, copy, len, false, e) == 0)
        return 0;
    free(copy);
    return -1;
}

int fy_fwcfg_set_file(struct fy_device *fwcfg, const char *name, const void *bytes, size_t len,
                      struct fy_err *e)
{
    struct fwcfg *f = fwcfg->dev;
    unsigned i = 0;
    while (i < f->file_count && strcmp((char *)f->directory + 4 + i * ENTRY_BYTES + 8, name) != 0)
        i++;
    if (strlen(name) >= NAME_BYTES || i == FILES_MAX)
        return fy_fail(e, FY_ERESOURCE, "fwcfg: no room for file %s", name);
    uint16_t key = (uint16_t)(KEY_FIRST_FILE + i);
    if (fy_fwcfg_set(fwcfg, key, bytes, len, e) < 0)
        return -1;
    uint8_t *entry = f->directory + 4 + i * ENTRY_BYTES;
    put_be32(entry, (uint32_t)len);
    put_be16(entry + 4, key);
    memcpy(entry + 8, name, strlen(name) + 1);
    f->file_count = FY_MAX(f->file_count, i + 1);
    put_be32(f->directory, f->file_count);
    return put(f, KEY_DIRECTORY, f->directory, 4 + f->file_count * ENTRY_BYTES, true, e);
}

/* Bytes of the selected item from the offset on; zeros behind its end. Moves the offset. */
static void take(struct fwcfg *f, uint8_t *to, uint32_t len)
{
    const struct item *it = find(f, f->selector);
    size_t have = it && f->offset < it->len ? FY_MIN(it->len - f->offset, (size_t)len) : 0;
    if (have)
        memcpy(to, it->bytes + f->offset, have);
    memset(to + have, 0, len - have);
    f->offset += FY_MIN(len, OFFSET_MAX - f->offset);
}

static void select_item(struct fwcfg *f, uint16_t key)
{
    f->selector = key;
    f->offset = 0;
}

static uint64_t port_read(void *dev, uint64_t offset, unsigned size)
{
    struct fwcfg *f = dev;
    uint8_t v = 0;
    if (offset != 1 || size != 1)
        return 0;
    pthread_mutex_lock(&f->lock);
    take(f, &v, 1);
    pthread_mutex_unlock(&f->lock);
    return v;
}

static void port_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct fwcfg *f = dev;
    if (offset != 0 || size != 2)
        return;
    pthread_mutex_lock(&f->lock);
    select_item(f, (uint16_t)value);
    pthread_mutex_unlock(&f->lock);
}

/* Carry out the access; returns the control word that says how it went. */
static uint32_t transfer(struct fwcfg *f, uint32_t control, uint32_t len, uint64_t gpa)
{
    if (control & DMA_SELECT)
        select_item(f, (uint16_t)(control >> 16));
    if (control & DMA_READ) {
        uint8_t *p = len && len <= DMA_LENGTH_MAX ? fy_gmem_at(f->gmem, gpa, len) : NULL;
        if (len && !p)
            return DMA_ERROR;
        if (len) {
            take(f, p, len);
            fy_gmem_mark(f->gmem, gpa, len);
        }
    } else if (control & DMA_WRITE) {
        return DMA_ERROR; /* no item can be written */
    } else if (control & DMA_SKIP) {
        f->offset += FY_MIN(len, OFFSET_MAX - f->offset);
    }
    return 0;
}

static void run_dma(struct fwcfg *f, uint64_t at)
{
    uint8_t access[DMA_BYTES], result[4];
    if (fy_gmem_read(f->gmem, at, access, sizeof access, NULL) < 0)
        return; /* there is no place to say so */
    uint64_t gpa = (uint64_t)get_be32(access + 8) << 32 | get_be32(access + 12);
    put_be32(result, transfer(f, get_be32(access), get_be32(access + 4), gpa));
    fy_gmem_write(f->gmem, at, result, sizeof result, NULL);
}

static uint64_t dma_read(void *dev, uint64_t offset, unsigned size)
{
    (void)dev;
    uint64_t v = 0;
    for (unsigned i = 0; i < size; i++)
        v |= (DMA_SIGNATURE >> (8 * (7 - (offset + i))) & 0xff) << (8 * i);
    return v;
}

static void dma_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct fwcfg *f = dev;
    if ((size != 4 && size != 8) || offset % size)
        return;
    pthread_mutex_lock(&f->lock);
    if (size == 8) {
        uint64_t at = __builtin_bswap64(value);
        f->dma_high = 0;
        run_dma(f, at);
    } else if (offset == 0) {
        f->dma_high = __builtin_bswap32((uint32_t)value);
    } else {
        uint64_t at = (uint64_t)f->dma_high << 32 | __builtin_bswap32((uint32_t)value);
        f->dma_high = 0;
        run_dma(f, at);
    }
    pthread_mutex_unlock(&f->lock);
}

static int fwcfg_save(void *dev, uint8_t **buf, size_t *len, struct fy_err *e)
{
    struct fwcfg *f = dev;
    Ferry__FwCfg m = FERRY__FW_CFG__INIT;
    pthread_mutex_lock(&f->lock);
    m.selector = f->selector;
    m.offset = f->offset;
    m.dma_high = f->dma_high;
    pthread_mutex_unlock(&f->lock);
    return fy_state_pack(&m.base, buf, len, e);
}

static int fwcfg_load(void *dev, const uint8_t *buf, size_t len, struct fy_err *e)
{
    struct fwcfg *f = dev;
    ProtobufCMessage *msg = fy_state_unpack(&ferry__fw_cfg__descriptor, "fwcfg", buf, len, e);
    if (!msg)
        return -1;
    Ferry__FwCfg m = *(const Ferry__FwCfg *)msg; /* plain numbers, no pointers into msg */
    protobuf_c_message_free_unpacked(msg, NULL);
    if (m.selector > 0xffff)
        return fy_fail(e, FY_ECORRUPT, "fwcfg: selector is %#x, it has 16 bits", m.selector);
    pthread_mutex_lock(&f->lock);
    f->selector = (uint16_t)m.selector;
    f->offset = m.offset;
    f->dma_high = m.dma_high;
    pthread_mutex_unlock(&f->lock);
    return 0;
}

static void fwcfg_reset(void *dev)
{
    struct fwcfg *f = dev;
    pthread_mutex_lock(&f->lock);
    select_item(f, 0);
    f->dma_high = 0;
    pthread_mutex_unlock(&f->lock);
}

static void fwcfg_free(void *dev)
{
    struct fwcfg *f = dev;
    for (unsigned i = 0; i < f->item_count; i++)
        if (!f->items[i].borrowed)
            free((void *)(uintptr_t)f->items[i].bytes);
    pthread_mutex_destroy(&f->lock);
    free(f);
}

static const struct fy_dev_ops fwcfg_ops = {
    .type = "fw-cfg",
    .version = 1,
    .save = fwcfg_save,
    .load = fwcfg_load,
    .reset = fwcfg_reset,
    .free = fwcfg_free,
};

int fy_fwcfg_new(struct fy_bus *bus, const struct fy_dev_host *host, struct fy_gmem *gmem,
                 struct fy_device *out, struct fy_err *e)
{
    static const struct fy_io_ops ports = {.read = port_read, .write = port_write};
    static const struct fy_io_ops dma = {.read = dma_read, .write = dma_write};
    static const uint8_t features[4] = {FEATURE_PORTS | FEATURE_DMA};
    (void)host;
    struct fwcfg *f = calloc(1, sizeof *f);
    if (!f)
        return fy_fail(e, FY_ERESOURCE, "no memory for fw_cfg");
    pthread_mutex_init(&f->lock, NULL);
    f->gmem = gmem;
    struct fy_device d = {.id = "fwcfg", .ops = &fwcfg_ops, .dev = f};
    if (fy_fwcfg_set(&d, KEY_SIGNATURE, "QEMU", 4, e) < 0 ||
        fy_fwcfg_set(&d, KEY_FEATURES, features, sizeof features, e) < 0 ||
        fy_bus_add(bus, FY_SPACE_PORT, FY_PORT_FWCFG, 2, &ports, f, e) < 0 ||
        fy_bus_add(bus, FY_SPACE_PORT, FY_PORT_FWCFG_DMA, 8, &dma, f, e) < 0) {
        fwcfg_free(f);
        return -1;
    }
    *out = d;
    return 0;
}
