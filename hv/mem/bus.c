// SPDX-License-Identifier: Apache-2.0
#include "hv/mem/bus.h"

#include <stdlib.h>
#include <string.h>

#include "hv/base/checked.h"

struct claim {
    uint64_t base, len;
    const struct fy_io_ops *ops;
    void *dev;
};

#define EXACT_MAX 4

/* Claims of one space, sorted by base; and those of single accesses. */
struct space {
    struct claim *claims;
    size_t count, room;
    struct claim exact[EXACT_MAX];
    size_t exact_count;
};

struct fy_bus {
    struct space spaces[2];
};

struct fy_bus *fy_bus_new(struct fy_err *e)
{
    struct fy_bus *bus = calloc(1, sizeof *bus);
    if (!bus)
        fy_fail(e, FY_ERESOURCE, "no memory for a bus");
    return bus;
}

void fy_bus_free(struct fy_bus *bus)
{
    if (!bus)
        return;
    free(bus->spaces[0].claims);
    free(bus->spaces[1].claims);
    free(bus);
}

/* Index of the first claim that ends above addr. */
static size_t find(const struct space *s, uint64_t addr)
{
    size_t lo = 0, hi = s->count;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (s->claims[mid].base + s->claims[mid].len - 1 < addr)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

int fy_bus_add(struct fy_bus *bus, enum fy_space space, uint64_t base, uint64_t len,
               const struct fy_io_ops *ops, void *dev, struct fy_err *e)
{
    struct space *s = &bus->spaces[space];
    uint64_t end;
    if (len == 0 || fy_add_overflow(base, len - 1, &end) || (space == FY_SPACE_PORT && end > 0xffff))
        return fy_fail(e, FY_EUSAGE, "bus claim 0x%llx+0x%llx is no range", (unsigned long long)base,
                       (unsigned long long)len);
    size_t at = find(s, base);
    if (at < s->count && s->claims[at].base <= end)
        return fy_fail(e, FY_EEXISTS, "bus claim 0x%llx+0x%llx overlaps 0x%llx+0x%llx",
                       (unsigned long long)base, (unsigned long long)len,
                       (unsigned long long)s->claims[at].base, (unsigned long long)s->claims[at].len);
    if (s->count == s->room) {
        size_t room = s->room ? s->room * 2 : 16;
        struct claim *grown = realloc(s->claims, room * sizeof *grown);
        if (!grown)
            return fy_fail(e, FY_ERESOURCE, "no memory for a bus claim");
        s->claims = grown;
        s->room = room;
    }
    memmove(&s->claims[at + 1], &s->claims[at], (s->count - at) * sizeof *s->claims);
    s->claims[at] = (struct claim){base, len, ops, dev};
    s->count++;
    return 0;
}

int fy_bus_add_exact(struct fy_bus *bus, enum fy_space space, uint64_t addr, unsigned size,
                     const struct fy_io_ops *ops, void *dev, struct fy_err *e)
{
    struct space *s = &bus->spaces[space];
    for (size_t i = 0; i < s->exact_count; i++)
        if (s->exact[i].base == addr && s->exact[i].len == size)
            return fy_fail(e, FY_EEXISTS, "bus claim of %u bytes at 0x%llx is taken", size,
                           (unsigned long long)addr);
    if (s->exact_count == EXACT_MAX)
        return fy_fail(e, FY_ERESOURCE, "no room for another exact bus claim");
    s->exact[s->exact_count++] = (struct claim){addr, size, ops, dev};
    return 0;
}

static const struct claim *lookup(const struct fy_bus *bus, enum fy_space space, uint64_t addr, unsigned size)
{
    const struct space *s = &bus->spaces[space];
    for (size_t i = 0; i < s->exact_count; i++)
        if (s->exact[i].base == addr && s->exact[i].len == size)
            return &s->exact[i];
    size_t at = find(s, addr);
    if (at == s->count || addr < s->claims[at].base)
        return NULL;
    return fy_range_ok(addr - s->claims[at].base, size, s->claims[at].len) ? &s->claims[at] : NULL;
}

static uint64_t mask_of(unsigned size)
{
    return size >= 8 ? ~0ull : (1ull << (size * 8)) - 1;
}

uint64_t fy_bus_read(const struct fy_bus *bus, enum fy_space space, uint64_t addr, unsigned size)
{
    const struct claim *c = lookup(bus, space, addr, size);
    return (c ? c->ops->read(c->dev, addr - c->base, size) : ~0ull) & mask_of(size);
}

void fy_bus_write(const struct fy_bus *bus, enum fy_space space, uint64_t addr, unsigned size, uint64_t value)
{
    const struct claim *c = lookup(bus, space, addr, size);
    if (c)
        c->ops->write(c->dev, addr - c->base, size, value & mask_of(size));
}
