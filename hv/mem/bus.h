// SPDX-License-Identifier: Apache-2.0
/* Dispatch of port and MMIO accesses to devices. Filled while the machine is built, then read-only, so
 * that vCPU threads look up without a lock; each device locks itself. */
#ifndef FERRY_MEM_BUS_H
#define FERRY_MEM_BUS_H

#include <stdint.h>

#include "hv/base/err.h"

enum fy_space { FY_SPACE_PORT, FY_SPACE_MMIO };

/* offset: from the start of the claimed range; size: 1, 2, 4 or 8 bytes. Called on a vCPU's thread. */
struct fy_io_ops {
    uint64_t (*read)(void *dev, uint64_t offset, unsigned size);
    void (*write)(void *dev, uint64_t offset, unsigned size, uint64_t value);
};

struct fy_bus;
struct fy_bus *fy_bus_new(struct fy_err *e);
void fy_bus_free(struct fy_bus *bus);

/* Claim [base, base + len). FY_EEXISTS when it overlaps another claim. ops and dev outlive the bus. */
int fy_bus_add(struct fy_bus *bus, enum fy_space space, uint64_t base, uint64_t len,
               const struct fy_io_ops *ops, void *dev, struct fy_err *e);

/* Claim accesses of exactly `size` bytes at addr, also inside another claim, of which all other accesses stay
 * (the PCI address register lies around the reset register). FY_EEXISTS when it is claimed so already. */
int fy_bus_add_exact(struct fy_bus *bus, enum fy_space space, uint64_t addr, unsigned size,
                     const struct fy_io_ops *ops, void *dev, struct fy_err *e);

/* An unclaimed read gives all ones, an unclaimed write does nothing. An access that crosses the end of a
 * claim is treated as unclaimed. Any thread. */
uint64_t fy_bus_read(const struct fy_bus *bus, enum fy_space space, uint64_t addr, unsigned size);
void fy_bus_write(const struct fy_bus *bus, enum fy_space space, uint64_t addr, unsigned size,
                  uint64_t value);

#endif
