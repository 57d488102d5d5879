// SPDX-License-Identifier: Apache-2.0
/* The host bridge and its bus. The identities of 00:00.0, 00:01.0 and 00:01.3 are those of a 440FX with a
 * PIIX, which is what PC firmware knows (docs/adr/0007-pci-identity.md). */
#include "hv/dev/pci.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "hv/base/checked.h"
#include "hv/dev/pci_internal.h"
#include "hv/dev/platform.h"
#include "hv/dev/state.h"
#include "proto/wire.h"

#define FUNCTIONS 8
#define ECAM_BYTES ((uint64_t)FY_ECAM_BUSES << 20)
/* By these SeaBIOS knows that it is not on a real board, and looks for fw_cfg. */
#define PARAVIRTUAL_VENDOR 0x1af4
#define PARAVIRTUAL_BOARD 0x1100
#define ADDRESS_ENABLE 0x80000000u

struct fy_pci {
    const struct fy_dev_host *host;
    pthread_mutex_t lock;     /* configuration space of all functions, and `address` */
    pthread_mutex_t irq_lock; /* INTx levels */
    uint32_t address;         /* port 0xcf8 */
    struct fy_pci_function *functions[FY_PCI_SLOTS][FUNCTIONS];
    struct fy_pci_function *bridge, *isa, *power;
    /* Mapped BARs; gpa is written under the lock and read by vCPUs without it: either place is right while a
     * BAR moves. */
    struct mapped {
        uint64_t gpa; /* atomic; FY_PCI_UNMAPPED */
        uint64_t bytes;
        struct fy_pci_function *f;
        unsigned bar;
    } mapped[FY_PCI_SLOTS * 2];
    unsigned mapped_count;
    uint32_t asserted[4]; /* by INTx line: slots that assert it */
};

static struct fy_pci_function *at(struct fy_pci *pci, unsigned bus, unsigned slot, unsigned function)
{
    return bus || slot >= FY_PCI_SLOTS || function >= FUNCTIONS ? NULL : pci->functions[slot][function];
}

static bool in_window(uint64_t base, uint64_t bytes)
{
    return (base >= FY_PCI_WINDOW && base + bytes <= FY_ECAM_ADDRESS) ||
           (base >= FY_PCI_WINDOW2 && base + bytes <= FY_PCI_WINDOW2_END);
}

/* Tell where each BAR is now; the lock is held (or the machine is paused). */
static void map_bars(struct fy_pci_function *f)
{
    bool on = fy_get16(f->config + PCI_COMMAND) & PCI_COMMAND_MEMORY;
    for (unsigned i = 0; i < FY_PCI_BARS; i++) {
        struct fy_pci_bar *b = &f->bars[i];
        if (!b->bytes)
            continue;
        uint32_t base = fy_get32(f->config + PCI_BAR0 + 4 * i) & ~15u;
        uint64_t gpa = on && in_window(base, b->bytes) ? base : FY_PCI_UNMAPPED;
        if (gpa == f->pci->mapped[b->index].gpa)
            continue;
        __atomic_store_n(&f->pci->mapped[b->index].gpa, gpa, __ATOMIC_RELEASE);
        if (f->ops && f->ops->bar_moved)
            f->ops->bar_moved(f->dev, i, gpa);
    }
}

static uint32_t config_read(struct fy_pci *pci, struct fy_pci_function *f, unsigned offset, unsigned size)
{
    uint32_t v = 0;
    if (!f)
        return ~0u;
    if (!fy_range_ok(offset, size, FY_PCI_CONFIG_BYTES))
        return 0; /* a conventional function has no extended capabilities */
    pthread_mutex_lock(&pci->lock);
    if (f->ops && f->ops->config_read)
        f->ops->config_read(f->dev, offset, size);
    memcpy(&v, f->config + offset, size);
    pthread_mutex_unlock(&pci->lock);
    return v;
}

static void config_write(struct fy_pci *pci, struct fy_pci_function *f, unsigned offset, unsigned size,
                         uint32_t value)
{
    if (!f || !fy_range_ok(offset, size, FY_PCI_CONFIG_BYTES))
        return;
    pthread_mutex_lock(&pci->lock);
    for (unsigned i = 0; i < size; i++) {
        uint8_t mask = f->writable[offset + i], v = (uint8_t)(value >> 8 * i);
        /* atomic: fy_pci_bus_master and fy_pci_intx look without the lock */
        __atomic_store_n(&f->config[offset + i], (uint8_t)((f->config[offset + i] & ~mask) | (v & mask)),
                         __ATOMIC_RELAXED);
    }
    if (offset < PCI_BAR_END && offset + size > PCI_COMMAND)
        map_bars(f);
    if (f->ops && f->ops->config_written)
        f->ops->config_written(f->dev, offset, size);
    pthread_mutex_unlock(&pci->lock);
}

static uint64_t address_read(void *dev, uint64_t offset, unsigned size)
{
    struct fy_pci *pci = dev;
    (void)offset;
    (void)size;
    pthread_mutex_lock(&pci->lock);
    uint32_t v = pci->address;
    pthread_mutex_unlock(&pci->lock);
    return v;
}

static void address_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct fy_pci *pci = dev;
    (void)offset;
    (void)size;
    pthread_mutex_lock(&pci->lock);
    pci->address = (uint32_t)value & PCI_ADDRESS_MASK;
    pthread_mutex_unlock(&pci->lock);
}

/* The function and offset that the address register names. */
static struct fy_pci_function *selected(struct fy_pci *pci, uint64_t offset, unsigned *reg)
{
    uint32_t a = (uint32_t)address_read(pci, 0, 4);
    *reg = (a & 0xfc) + (unsigned)offset;
    return a & ADDRESS_ENABLE ? at(pci, a >> 16 & 0xff, a >> 11 & 31, a >> 8 & 7) : NULL;
}

static uint64_t data_read(void *dev, uint64_t offset, unsigned size)
{
    unsigned reg;
    struct fy_pci_function *f = selected(dev, offset, &reg);
    return size > 4 ? ~0ull : config_read(dev, f, reg, size);
}

static void data_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    unsigned reg;
    struct fy_pci_function *f = selected(dev, offset, &reg);
    if (size <= 4)
        config_write(dev, f, reg, size, (uint32_t)value);
}

static struct fy_pci_function *ecam_at(struct fy_pci *pci, uint64_t offset)
{
    return at(pci, (unsigned)(offset >> 20), offset >> 15 & 31, offset >> 12 & 7);
}

static uint64_t ecam_read(void *dev, uint64_t offset, unsigned size)
{
    return size > 4 ? ~0ull : config_read(dev, ecam_at(dev, offset), offset & 4095, size);
}

static void ecam_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    if (size <= 4)
        config_write(dev, ecam_at(dev, offset), offset & 4095, size, (uint32_t)value);
}

static const struct mapped *find_bar(struct fy_pci *pci, uint64_t gpa, unsigned size, uint64_t *offset)
{
    for (unsigned i = 0; i < pci->mapped_count; i++) {
        *offset = gpa - __atomic_load_n(&pci->mapped[i].gpa, __ATOMIC_ACQUIRE);
        if (fy_range_ok(*offset, size, pci->mapped[i].bytes))
            return &pci->mapped[i];
    }
    return NULL;
}

static uint64_t window_read(void *dev, uint64_t offset, unsigned size)
{
    const struct mapped *m = find_bar(dev, FY_PCI_WINDOW + offset, size, &offset);
    if (!m)
        return ~0ull;
    const struct fy_pci_bar *b = &m->f->bars[m->bar];
    return b->io->read(b->dev, offset, size);
}

static void window_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    const struct mapped *m = find_bar(dev, FY_PCI_WINDOW + offset, size, &offset);
    if (!m)
        return;
    const struct fy_pci_bar *b = &m->f->bars[m->bar];
    b->io->write(b->dev, offset, size, value);
}

static uint64_t window2_read(void *dev, uint64_t offset, unsigned size)
{
    return window_read(dev, FY_PCI_WINDOW2 - FY_PCI_WINDOW + offset, size);
}

static void window2_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    window_write(dev, FY_PCI_WINDOW2 - FY_PCI_WINDOW + offset, size, value);
}

/* The header's part that follows from the identity. */
static void power_on(struct fy_pci_function *f)
{
    memcpy(f->config, f->initial, sizeof f->config);
    map_bars(f);
}

int fy_pci_add(struct fy_pci *pci, unsigned slot, unsigned function, const struct fy_pci_id *id,
               const struct fy_pci_ops *ops, void *dev, struct fy_pci_function **out, struct fy_err *e)
{
    if (slot >= FY_PCI_SLOTS || function >= FUNCTIONS)
        return fy_fail(e, FY_EUSAGE, "PCI has no place %u.%u", slot, function);
    if (pci->functions[slot][function])
        return fy_fail(e, FY_EEXISTS, "PCI slot %u.%u is taken", slot, function);
    struct fy_pci_function *f = calloc(1, sizeof *f);
    if (!f)
        return fy_fail(e, FY_ERESOURCE, "no memory for a PCI function");
    f->pci = pci;
    f->slot = slot;
    f->ops = ops;
    f->dev = dev;
    f->capability_end = PCI_FIRST_CAPABILITY;
    uint8_t *c = f->initial;
    fy_put16(c + PCI_VENDOR, id->vendor);
    fy_put16(c + PCI_DEVICE, id->device);
    c[PCI_REVISION] = id->revision;
    c[PCI_REVISION + 1] = (uint8_t)id->class_code;
    fy_put16(c + PCI_REVISION + 2, (uint16_t)(id->class_code >> 8));
    c[PCI_HEADER_TYPE] = id->multifunction ? 0x80 : 0;
    fy_put16(c + PCI_SUBSYSTEM_VENDOR, id->subsystem_vendor);
    fy_put16(c + PCI_SUBSYSTEM, id->subsystem);
    c[PCI_INTERRUPT_PIN] = id->intx;
    fy_put16(f->writable + PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_NO_INTX | 1);
    f->writable[PCI_CACHE_LINE] = f->writable[PCI_INTERRUPT_LINE] = 0xff;
    power_on(f);
    pci->functions[slot][function] = *out = f;
    return 0;
}

int fy_pci_add_bar(struct fy_pci_function *f, unsigned bar, uint32_t bytes, const struct fy_io_ops *io,
                   void *io_dev, struct fy_err *e)
{
    struct fy_pci *pci = f->pci;
    if (bar >= FY_PCI_BARS || bytes < 16 || bytes & (bytes - 1) || f->bars[bar].bytes)
        return fy_fail(e, FY_EUSAGE, "BAR %u of %u bytes cannot be", bar, bytes);
    if (pci->mapped_count == FY_ARRAY_LEN(pci->mapped))
        return fy_fail(e, FY_ERESOURCE, "too many PCI BARs");
    f->bars[bar] = (struct fy_pci_bar){.bytes = bytes, .io = io, .dev = io_dev, .index = pci->mapped_count};
    pci->mapped[pci->mapped_count++] =
        (struct mapped){.gpa = FY_PCI_UNMAPPED, .bytes = bytes, .f = f, .bar = bar};
    fy_put32(f->writable + PCI_BAR0 + 4 * bar, ~(bytes - 1));
    return 0;
}

int fy_pci_add_capability(struct fy_pci_function *f, uint8_t id, const uint8_t *body, const uint8_t *writable,
                          unsigned len, struct fy_err *e)
{
    unsigned where = (unsigned)FY_ALIGN_UP(f->capability_end, 4u);
    if (len < 2 || !fy_range_ok(where, len, FY_PCI_CONFIG_BYTES))
        return fy_fail(e, FY_ERESOURCE, "no room for a PCI capability of %u bytes", len);
    memcpy(f->initial + where, body, len);
    f->initial[where] = id;
    f->initial[where + 1] = 0;
    if (writable)
        memcpy(f->writable + where + 2, writable + 2, len - 2);
    if (f->last_capability)
        f->initial[f->last_capability + 1] = (uint8_t)where;
    else
        f->initial[PCI_CAPABILITIES] = (uint8_t)where;
    f->initial[PCI_STATUS] |= PCI_STATUS_CAPABILITIES;
    f->last_capability = where;
    f->capability_end = where + len;
    power_on(f);
    return (int)where;
}

void fy_pci_set_register(struct fy_pci_function *f, unsigned offset, unsigned len, uint32_t value,
                         uint32_t writable)
{
    for (unsigned i = 0; i < len && offset + i < FY_PCI_CONFIG_BYTES; i++) {
        f->initial[offset + i] = f->config[offset + i] = (uint8_t)(value >> 8 * i);
        f->writable[offset + i] = (uint8_t)(writable >> 8 * i);
    }
}

void fy_pci_assign(struct fy_pci *pci)
{
    uint64_t next = FY_PCI_ASSIGN;
    for (unsigned i = 0; i < pci->mapped_count; i++) {
        struct mapped *m = &pci->mapped[i];
        uint64_t place = FY_ALIGN_UP(next, m->bytes);
        if (place + m->bytes > FY_ECAM_ADDRESS)
            continue; /* left unmapped: the guest's kernel places it */
        fy_put32(m->f->config + PCI_BAR0 + 4 * m->bar, (uint32_t)place);
        next = place + m->bytes;
    }
    for (unsigned s = 0; s < FY_PCI_SLOTS; s++) {
        struct fy_pci_function *f = pci->functions[s][0];
        if (!f)
            continue;
        if (f->config[PCI_INTERRUPT_PIN])
            f->config[PCI_INTERRUPT_LINE] = (uint8_t)(FY_GSI_INTX + s % 4);
        f->config[PCI_COMMAND] |= PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
        map_bars(f);
    }
}

uint8_t *fy_pci_config(struct fy_pci_function *f)
{
    return f->config;
}

bool fy_pci_bus_master(const struct fy_pci_function *f)
{
    return __atomic_load_n(&f->config[PCI_COMMAND], __ATOMIC_RELAXED) & PCI_COMMAND_MASTER;
}

void fy_pci_intx(struct fy_pci_function *f, bool level)
{
    struct fy_pci *pci = f->pci;
    unsigned line = f->slot % 4;
    if (__atomic_load_n(&f->config[PCI_COMMAND + 1], __ATOMIC_RELAXED) & PCI_COMMAND_NO_INTX >> 8)
        level = false;
    pthread_mutex_lock(&pci->irq_lock);
    uint32_t was = pci->asserted[line];
    uint32_t now = level ? was | 1u << f->slot : was & ~(1u << f->slot);
    pci->asserted[line] = now;
    if (!was != !now)
        pci->host->irq(pci->host->arg, FY_GSI_INTX + line, now != 0);
    pthread_mutex_unlock(&pci->irq_lock);
}

void fy_pci_msi(struct fy_pci_function *f, uint64_t address, uint32_t data)
{
    const struct fy_dev_host *host = f->pci->host;
    if (fy_pci_bus_master(f) && host->msi)
        host->msi(host->arg, address, data);
}

const struct fy_dev_host *fy_pci_host(const struct fy_pci_function *f)
{
    return f->pci->host;
}

Ferry__PciFunction *fy_pci_save(struct fy_pci_function *f, struct fy_err *e)
{
    Ferry__PciFunction *s = malloc(sizeof *s);
    uint8_t *bytes = malloc(FY_PCI_CONFIG_BYTES);
    if (!s || !bytes) {
        free(s);
        free(bytes);
        fy_fail(e, FY_ERESOURCE, "no memory for a PCI function's state");
        return NULL;
    }
    ferry__pci_function__init(s);
    memcpy(bytes, f->config, FY_PCI_CONFIG_BYTES);
    s->config.data = bytes;
    s->config.len = FY_PCI_CONFIG_BYTES;
    return s;
}

int fy_pci_check(struct fy_pci_function *f, const Ferry__PciFunction *s, const char *id, struct fy_err *e)
{
    if (!s || s->config.len != FY_PCI_CONFIG_BYTES)
        return fy_fail(e, FY_ECORRUPT, "%s: its PCI configuration must have %u bytes", id,
                       FY_PCI_CONFIG_BYTES);
    for (unsigned i = 0; i < FY_PCI_CONFIG_BYTES; i++)
        if ((s->config.data[i] ^ f->initial[i]) & ~f->writable[i])
            return fy_fail(e, FY_ECORRUPT, "%s: PCI configuration byte %#x is %#x, which it cannot be", id, i,
                           s->config.data[i]);
    return 0;
}

void fy_pci_load(struct fy_pci_function *f, const Ferry__PciFunction *s)
{
    pthread_mutex_lock(&f->pci->lock);
    memcpy(f->config, s->config.data, FY_PCI_CONFIG_BYTES);
    map_bars(f);
    pthread_mutex_unlock(&f->pci->lock);
}

void fy_pci_reset(struct fy_pci_function *f)
{
    pthread_mutex_lock(&f->pci->lock);
    power_on(f);
    pthread_mutex_unlock(&f->pci->lock);
    fy_pci_intx(f, false);
}

static int pci_save(void *dev, uint8_t **buf, size_t *len, struct fy_err *e)
{
    struct fy_pci *pci = dev;
    Ferry__PciHost m = FERRY__PCI_HOST__INIT;
    m.config_address = pci->address;
    m.bridge = fy_pci_save(pci->bridge, e);
    m.isa = fy_pci_save(pci->isa, e);
    m.power = fy_pci_save(pci->power, e);
    int r = m.bridge && m.isa && m.power ? fy_state_pack(&m.base, buf, len, e) : -1;
    Ferry__PciFunction *parts[] = {m.bridge, m.isa, m.power};
    for (unsigned i = 0; i < FY_ARRAY_LEN(parts); i++)
        if (parts[i])
            ferry__pci_function__free_unpacked(parts[i], NULL);
    return r;
}

static int pci_load(void *dev, const uint8_t *buf, size_t len, struct fy_err *e)
{
    struct fy_pci *pci = dev;
    ProtobufCMessage *msg = fy_state_unpack(&ferry__pci_host__descriptor, "pci", buf, len, e);
    if (!msg)
        return -1;
    const Ferry__PciHost *m = (const Ferry__PciHost *)msg;
    int r = 0;
    if (m->config_address & ~PCI_ADDRESS_MASK)
        r = fy_fail(e, FY_ECORRUPT, "pci: the address register is %#x", m->config_address);
    if (r == 0)
        r = fy_pci_check(pci->bridge, m->bridge, "pci bridge", e);
    if (r == 0)
        r = fy_pci_check(pci->isa, m->isa, "pci isa bridge", e);
    if (r == 0)
        r = fy_pci_check(pci->power, m->power, "pci power management", e);
    if (r == 0) {
        pci->address = m->config_address;
        fy_pci_load(pci->bridge, m->bridge);
        fy_pci_load(pci->isa, m->isa);
        fy_pci_load(pci->power, m->power);
    }
    protobuf_c_message_free_unpacked(msg, NULL);
    return r;
}

static void pci_reset(void *dev)
{
    struct fy_pci *pci = dev;
    pci->address = 0;
    fy_pci_reset(pci->bridge);
    fy_pci_reset(pci->isa);
    fy_pci_reset(pci->power);
}

static void pci_free(void *dev)
{
    struct fy_pci *pci = dev;
    for (unsigned s = 0; s < FY_PCI_SLOTS; s++)
        for (unsigned n = 0; n < FUNCTIONS; n++)
            free(pci->functions[s][n]);
    pthread_mutex_destroy(&pci->lock);
    pthread_mutex_destroy(&pci->irq_lock);
    free(pci);
}

static const struct fy_dev_ops pci_ops = {
    .type = "pci",
    .version = 1,
    .save = pci_save,
    .load = pci_load,
    .reset = pci_reset,
    .free = pci_free,
};

/* Registers that PC firmware writes and reads back: PAM and SMRAM of the bridge (they change nothing: there
 * is RAM, and SeaBIOS, which finds it switched off, copies itself there), interrupt routing of the ISA
 * bridge, and of the power management function its I/O base, its enable bits, and that SMM is not to be set
 * up. */
static void firmware_registers(struct fy_pci *pci)
{
    for (unsigned i = 0x59; i <= 0x5f; i++)
        fy_pci_set_register(pci->bridge, i, 1, 0, 0xff);
    fy_pci_set_register(pci->bridge, 0x72, 1, 0x02, 0x78);
    fy_pci_set_register(pci->isa, 0x60, 4, 0x80808080u, 0xffffffffu);
    fy_pci_set_register(pci->power, 0x40, 4, FY_PORT_PM1_EVENT | 1, 0);
    fy_pci_set_register(pci->power, 0x58, 4, 1u << 25, 0xffffffffu);
    fy_pci_set_register(pci->power, 0x80, 1, 1, 1);
}

static int add_platform(struct fy_pci *pci, struct fy_err *e)
{
    static const struct fy_pci_id bridge = {.vendor = 0x8086,
                                            .device = 0x1237,
                                            .subsystem_vendor = PARAVIRTUAL_VENDOR,
                                            .subsystem = PARAVIRTUAL_BOARD,
                                            .class_code = 0x060000};
    static const struct fy_pci_id isa = {.vendor = 0x8086,
                                         .device = 0x7000,
                                         .subsystem_vendor = PARAVIRTUAL_VENDOR,
                                         .subsystem = PARAVIRTUAL_BOARD,
                                         .class_code = 0x060100,
                                         .multifunction = true};
    static const struct fy_pci_id power = {.vendor = 0x8086,
                                           .device = 0x7113,
                                           .subsystem_vendor = PARAVIRTUAL_VENDOR,
                                           .subsystem = PARAVIRTUAL_BOARD,
                                           .revision = 3,
                                           .class_code = 0x068000};
    if (fy_pci_add(pci, 0, 0, &bridge, NULL, NULL, &pci->bridge, e) < 0 ||
        fy_pci_add(pci, 1, 0, &isa, NULL, NULL, &pci->isa, e) < 0 ||
        fy_pci_add(pci, 1, 3, &power, NULL, NULL, &pci->power, e) < 0)
        return -1;
    firmware_registers(pci);
    return 0;
}

int fy_pci_new(struct fy_bus *bus, const struct fy_dev_host *host, struct fy_device *out,
               struct fy_pci **made, struct fy_err *e)
{
    static const struct fy_io_ops address = {.read = address_read, .write = address_write};
    static const struct fy_io_ops data = {.read = data_read, .write = data_write};
    static const struct fy_io_ops ecam = {.read = ecam_read, .write = ecam_write};
    static const struct fy_io_ops window = {.read = window_read, .write = window_write};
    static const struct fy_io_ops window2 = {.read = window2_read, .write = window2_write};
    struct fy_pci *pci = calloc(1, sizeof *pci);
    if (!pci)
        return fy_fail(e, FY_ERESOURCE, "no memory for the PCI bus");
    pthread_mutex_init(&pci->lock, NULL);
    pthread_mutex_init(&pci->irq_lock, NULL);
    pci->host = host;
    if (add_platform(pci, e) < 0 ||
        fy_bus_add_exact(bus, FY_SPACE_PORT, FY_PORT_PCI_ADDRESS, 4, &address, pci, e) < 0 ||
        fy_bus_add(bus, FY_SPACE_PORT, FY_PORT_PCI_DATA, 4, &data, pci, e) < 0 ||
        fy_bus_add(bus, FY_SPACE_MMIO, FY_ECAM_ADDRESS, ECAM_BYTES, &ecam, pci, e) < 0 ||
        fy_bus_add(bus, FY_SPACE_MMIO, FY_PCI_WINDOW, FY_ECAM_ADDRESS - FY_PCI_WINDOW, &window, pci, e) < 0 ||
        fy_bus_add(bus, FY_SPACE_MMIO, FY_PCI_WINDOW2, FY_PCI_WINDOW2_END - FY_PCI_WINDOW2, &window2, pci,
                   e) < 0) {
        pci_free(pci);
        return -1;
    }
    *out = (struct fy_device){.id = "pci", .ops = &pci_ops, .dev = pci};
    *made = pci;
    return 0;
}
