// SPDX-License-Identifier: Apache-2.0
/* Private to hv/vm: where boot data lies below 1 MiB in machine revision 1, guest-physical. Kernels load at
 * 1 MiB or above. */
#ifndef FERRY_VM_LOWMEM_H
#define FERRY_VM_LOWMEM_H

#define FY_LOW_GDT 0x1000u
#define FY_LOW_START_INFO 0x2000u  /* PVH: hvm_start_info */
#define FY_LOW_MODULES 0x2100u     /* PVH: hvm_modlist_entry */
#define FY_LOW_MEMMAP 0x2200u      /* PVH: hvm_memmap_table_entry[] */
#define FY_LOW_BOOT_PARAMS 0x7000u /* bzImage: the zero page */
#define FY_LOW_STACK 0x9000u       /* grows down; one page */
#define FY_LOW_PAGE_TABLES 0x9000u /* PML4, PDPT, four page directories */
#define FY_LOW_CMDLINE 0x20000u
#define FY_LOW_CMDLINE_MAX 0x10000u /* with its NUL */
#define FY_LOW_RAM_END 0x9f000u
#define FY_LOW_RESERVED 0xa0000u
#define FY_LOW_ACPI 0xe0000u
#define FY_LOW_ACPI_BYTES 0x4000u
#define FY_LOW_END 0x100000u

#endif
