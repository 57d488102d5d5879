// SPDX-License-Identifier: Apache-2.0
/* Kernel loaders: guest memory and the first vCPU's registers from a kernel image, initrd and command line.
 */
#ifndef FERRY_VM_LOAD_H
#define FERRY_VM_LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hv/base/err.h"
#include "hv/mem/guest.h"

/* How vCPU 0 starts. Flat segments; everything not here is at its reset value. */
struct fy_boot {
    bool long_mode; /* true: 64-bit with the page tables at cr3; false: 32-bit protected, paging off */
    uint64_t rip, rsp;
    uint64_t rax; /* Multiboot: magic number */
    uint64_t rbx; /* PVH: hvm_start_info; Multiboot: information */
    uint64_t rsi; /* bzImage: boot_params */
    uint64_t cr3; /* long mode: an identity map that covers at least 4 GiB */
    uint64_t
        gdt_base; /* bzImage: a GDT in guest memory with __BOOT_CS 0x10 and __BOOT_DS 0x18; limit 0: none */
    uint16_t gdt_limit;
};

/* Bytes from an operator's files: mapped or read by the caller, untrusted. */
struct fy_boot_images {
    const uint8_t *kernel;
    size_t kernel_len;
    const uint8_t *initrd; /* NULL: none */
    size_t initrd_len;
    const char *cmdline;
    uint64_t acpi_rsdp; /* gpa of the RSDP */
};

/* Load an ELF with an XEN_ELFNOTE_PHYS32_ENTRY note (PVH), an image with a Multiboot header (specifications
 * 0.6.96 and 2.0; the initrd becomes its module), or a bzImage (protocol 2.12 or later, XLF_KERNEL_64; Linux
 * Documentation/arch/x86/boot.rst). FY_ECORRUPT for an image that breaks its format,
 * FY_EUNSUPPORTED for one that is neither, FY_ERESOURCE when memory is too small; says what and where. Guest
 * memory is undefined after an error. */
int fy_load_kernel(struct fy_gmem *m, const struct fy_boot_images *images, struct fy_boot *boot,
                   struct fy_err *e);

/* E820-like map of machine revision 1. Returns the number of entries written (at most room). */
struct fy_ram_range {
    uint64_t base, bytes;
    uint32_t type; /* 1 RAM, 2 reserved, 3 ACPI */
};
size_t fy_memory_map(const struct fy_gmem *m, struct fy_ram_range *out, size_t room);

/* Write the ACPI tables (RSDP, XSDT, FADT, FACS, MADT, DSDT, SSDT; from revision 2 on MCFG and the PCI bus)
 * of a machine `revision` with `vcpus` into the reserved area below 1 MiB and return the RSDP's address in
 * *rsdp. */
int fy_acpi_write(struct fy_gmem *m, unsigned revision, unsigned vcpus, uint64_t *rsdp, struct fy_err *e);

#endif
