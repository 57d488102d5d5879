// SPDX-License-Identifier: Apache-2.0
#include "hv/dev/pci_msix.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "hv/base/checked.h"
#include "hv/dev/pci_internal.h"
#include "proto/wire.h"

#define BAR_BYTES 4096
#define PBA_OFFSET 0x800
#define ENTRY_BYTES 16
#define CONTROL 2 /* in the capability */
#define CONTROL_ENABLE 0x8000u
#define CONTROL_MASK_ALL 0x4000u
#define VECTOR_MASKED 1u

struct fy_msix {
    struct fy_pci_function *f;
    unsigned capability; /* its place in configuration space */
    unsigned vectors;
    pthread_mutex_t lock;
    uint16_t control; /* as last seen in configuration space */
    struct vector {
        uint32_t address, address_high, data, control;
        bool pending;
    } v[FY_MSIX_VECTORS_MAX];
};

static bool open_to(const struct fy_msix *m, const struct vector *v)
{
    return m->control & CONTROL_ENABLE && !(m->control & CONTROL_MASK_ALL) && !(v->control & VECTOR_MASKED);
}

/* The lock is held. */
static void send(struct fy_msix *m, struct vector *v)
{
    v->pending = false;
    fy_pci_msi(m->f, v->address | (uint64_t)v->address_high << 32, v->data);
}

static void send_pending(struct fy_msix *m)
{
    for (unsigned i = 0; i < m->vectors; i++)
        if (m->v[i].pending && open_to(m, &m->v[i]))
            send(m, &m->v[i]);
}

static uint32_t *word(struct fy_msix *m, uint64_t offset)
{
    uint64_t i = offset / ENTRY_BYTES;
    if (i >= m->vectors)
        return NULL;
    struct vector *v = &m->v[i];
    uint32_t *const words[] = {&v->address, &v->address_high, &v->data, &v->control};
    return words[offset / 4 % 4];
}

static uint32_t read_dword(struct fy_msix *m, uint64_t offset)
{
    if (offset < PBA_OFFSET) {
        const uint32_t *w = word(m, offset);
        return w ? *w : 0;
    }
    uint32_t bits = 0;
    uint64_t first = (offset - PBA_OFFSET) * 8;
    for (unsigned i = 0; i < 32; i++)
        if (first + i < m->vectors && m->v[first + i].pending)
            bits |= 1u << i;
    return bits;
}

static void write_dword(struct fy_msix *m, uint64_t offset, uint32_t value)
{
    uint32_t *w = offset < PBA_OFFSET ? word(m, offset) : NULL;
    if (!w)
        return;
    struct vector *v = &m->v[offset / ENTRY_BYTES];
    *w = w == &v->control ? value & VECTOR_MASKED : w == &v->address ? value & ~3u : value;
    if (v->pending && open_to(m, v))
        send(m, v);
}

/* Accesses of 4 and 8 bytes, aligned; the specification leaves others undefined: they read as 0. */
static uint64_t msix_read(void *dev, uint64_t offset, unsigned size)
{
    struct fy_msix *m = dev;
    if (size < 4 || offset % size)
        return 0;
    pthread_mutex_lock(&m->lock);
    uint64_t v = read_dword(m, offset);
    if (size == 8)
        v |= (uint64_t)read_dword(m, offset + 4) << 32;
    pthread_mutex_unlock(&m->lock);
    return v;
}

static void msix_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct fy_msix *m = dev;
    if (size < 4 || offset % size)
        return;
    pthread_mutex_lock(&m->lock);
    write_dword(m, offset, (uint32_t)value);
    if (size == 8)
        write_dword(m, offset + 4, (uint32_t)(value >> 32));
    pthread_mutex_unlock(&m->lock);
}

struct fy_msix *fy_msix_new(struct fy_pci_function *f, unsigned bar, unsigned vectors, struct fy_err *e)
{
    static const struct fy_io_ops io = {.read = msix_read, .write = msix_write};
    static const uint8_t writable[12] = {[3] = (CONTROL_ENABLE | CONTROL_MASK_ALL) >> 8};
    uint8_t body[12] = {0};
    if (!vectors || vectors > FY_MSIX_VECTORS_MAX) {
        fy_fail(e, FY_EUSAGE, "MSI-X with %u vectors: 1 to %u", vectors, FY_MSIX_VECTORS_MAX);
        return NULL;
    }
    struct fy_msix *m = calloc(1, sizeof *m);
    if (!m) {
        fy_fail(e, FY_ERESOURCE, "no memory for MSI-X");
        return NULL;
    }
    m->f = f;
    m->vectors = vectors;
    pthread_mutex_init(&m->lock, NULL);
    fy_put16(body + CONTROL, (uint16_t)(vectors - 1));
    fy_put32(body + 4, bar);
    fy_put32(body + 8, PBA_OFFSET | bar);
    int at = fy_pci_add_capability(f, PCI_CAP_MSIX, body, writable, sizeof body, e);
    if (at < 0 || fy_pci_add_bar(f, bar, BAR_BYTES, &io, m, e) < 0) {
        fy_msix_free(m);
        return NULL;
    }
    m->capability = (unsigned)at;
    fy_msix_reset(m);
    return m;
}

void fy_msix_free(struct fy_msix *m)
{
    if (!m)
        return;
    pthread_mutex_destroy(&m->lock);
    free(m);
}

void fy_msix_config_written(struct fy_msix *m)
{
    pthread_mutex_lock(&m->lock);
    m->control = fy_get16(m->f->config + m->capability + CONTROL);
    send_pending(m);
    pthread_mutex_unlock(&m->lock);
}

bool fy_msix_enabled(struct fy_msix *m)
{
    pthread_mutex_lock(&m->lock);
    bool on = m->control & CONTROL_ENABLE;
    pthread_mutex_unlock(&m->lock);
    return on;
}

void fy_msix_raise(struct fy_msix *m, unsigned n)
{
    if (n >= m->vectors)
        return;
    pthread_mutex_lock(&m->lock);
    if (open_to(m, &m->v[n]))
        send(m, &m->v[n]);
    else if (m->control & CONTROL_ENABLE)
        m->v[n].pending = true;
    pthread_mutex_unlock(&m->lock);
}

Ferry__Msix *fy_msix_save(struct fy_msix *m, struct fy_err *e)
{
    Ferry__Msix *s = malloc(sizeof *s);
    if (s)
        ferry__msix__init(s);
    if (s)
        s->vectors = calloc(m->vectors, sizeof *s->vectors);
    for (unsigned i = 0; s && s->vectors && i < m->vectors; i++) {
        Ferry__MsixVector *v = malloc(sizeof *v);
        if (!v)
            break;
        ferry__msix_vector__init(v);
        v->address = m->v[i].address | (uint64_t)m->v[i].address_high << 32;
        v->data = m->v[i].data;
        v->masked = m->v[i].control & VECTOR_MASKED;
        v->pending = m->v[i].pending;
        s->vectors[s->n_vectors++] = v;
    }
    if (s && s->n_vectors == m->vectors)
        return s;
    if (s)
        ferry__msix__free_unpacked(s, NULL);
    fy_fail(e, FY_ERESOURCE, "no memory for the state of MSI-X");
    return NULL;
}

int fy_msix_check(const struct fy_msix *m, const Ferry__Msix *s, const char *id, struct fy_err *e)
{
    if (!s || s->n_vectors != m->vectors)
        return fy_fail(e, FY_ECORRUPT, "%s: its state has %zu MSI-X vectors, the device has %u", id,
                       s ? s->n_vectors : 0, m->vectors);
    for (size_t i = 0; i < s->n_vectors; i++)
        if (s->vectors[i]->address & 3)
            return fy_fail(e, FY_ECORRUPT, "%s: MSI-X vector %zu has the address %#llx", id, i,
                           (unsigned long long)s->vectors[i]->address);
    return 0;
}

void fy_msix_load(struct fy_msix *m, const Ferry__Msix *s)
{
    pthread_mutex_lock(&m->lock);
    m->control = fy_get16(m->f->config + m->capability + CONTROL);
    for (unsigned i = 0; i < m->vectors; i++)
        m->v[i] = (struct vector){.address = (uint32_t)s->vectors[i]->address,
                                  .address_high = (uint32_t)(s->vectors[i]->address >> 32),
                                  .data = s->vectors[i]->data,
                                  .control = s->vectors[i]->masked ? VECTOR_MASKED : 0,
                                  .pending = s->vectors[i]->pending};
    pthread_mutex_unlock(&m->lock);
}

void fy_msix_reset(struct fy_msix *m)
{
    pthread_mutex_lock(&m->lock);
    memset(m->v, 0, sizeof m->v);
    for (unsigned i = 0; i < m->vectors; i++)
        m->v[i].control = VECTOR_MASKED;
    m->control = 0;
    pthread_mutex_unlock(&m->lock);
}
