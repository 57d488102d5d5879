// SPDX-License-Identifier: Apache-2.0
/* Private to hv/vm: the ACPI tables as one piece, for guest memory or for firmware that places them. */
#ifndef FERRY_VM_ACPI_H
#define FERRY_VM_ACPI_H

#include "hv/vm/load.h"
#include "hv/vm/lowmem.h"

#define FY_ACPI_RSDP_BYTES 36

struct fy_acpi_machine {
    unsigned revision, vcpus;
    uint64_t low_ram_end; /* first byte behind the RAM below 4 GiB */
};

struct fy_acpi {
    uint8_t bytes[FY_LOW_ACPI_BYTES]; /* the RSDP first */
    size_t used;
    uint32_t fadt, xsdt; /* offsets of the tables that have pointers */
    struct {
        uint32_t at; /* offset */
        uint8_t size;
    } pointer[16]; /* to places in `bytes`; not the RSDP's */
    unsigned pointers;
};

/* Make the tables as they are at guest-physical address `base`. */
int fy_acpi_build(struct fy_acpi *t, uint64_t base, const struct fy_acpi_machine *machine, struct fy_err *e);

#endif
