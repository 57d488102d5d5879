// SPDX-License-Identifier: Apache-2.0
/* Debug exit: a 32-bit write of V at port 0xf4 ends the guest with status 2V + 1. It has no state. */
#include <stdlib.h>

#include "hv/dev/chips.h"
#include "hv/dev/platform.h"

static uint64_t exit_read(void *dev, uint64_t offset, unsigned size)
{
    (void)dev;
    (void)offset;
    (void)size;
    return 0;
}

static void exit_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    const struct fy_dev_host *host = dev;
    if (offset == 0 && size == 4)
        host->exit(host->arg, (int)((uint32_t)value << 1 | 1));
}

static int exit_save(void *dev, uint8_t **buf, size_t *len, struct fy_err *e)
{
    (void)dev;
    *buf = malloc(1);
    if (!*buf)
        return fy_fail(e, FY_ERESOURCE, "debug-exit: no memory");
    *len = 0;
    return 0;
}

static int exit_load(void *dev, const uint8_t *buf, size_t len, struct fy_err *e)
{
    (void)dev;
    (void)buf;
    return len ? fy_fail(e, FY_ECORRUPT, "debug-exit: %zu bytes of state where there are none", len) : 0;
}

static void exit_nothing(void *dev)
{
    (void)dev;
}

static const struct fy_dev_ops exit_ops = {
    .type = "debug-exit",
    .version = 1,
    .save = exit_save,
    .load = exit_load,
    .reset = exit_nothing,
    .free = exit_nothing,
};

int fy_debug_exit_new(struct fy_bus *bus, const struct fy_dev_host *host, struct fy_device *out,
                      struct fy_err *e)
{
    static const struct fy_io_ops io = {.read = exit_read, .write = exit_write};
    void *dev = (void *)(uintptr_t)host; /* stateless: the host's table is all it needs */
    if (fy_bus_add(bus, FY_SPACE_PORT, FY_PORT_DEBUG_EXIT, 4, &io, dev, e))
        return -1;
    *out = (struct fy_device){.id = "debug-exit", .ops = &exit_ops, .dev = dev};
    return 0;
}
