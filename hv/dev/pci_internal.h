// SPDX-License-Identifier: Apache-2.0
/* Private to the PCI bus and MSI-X: a function's insides and the registers of its header (PCI Local Bus
 * Specification 3.0, section 6.1). */
#ifndef FERRY_DEV_PCI_INTERNAL_H
#define FERRY_DEV_PCI_INTERNAL_H

#include "hv/dev/pci.h"

#define PCI_VENDOR 0x00
#define PCI_DEVICE 0x02
#define PCI_COMMAND 0x04
#define PCI_COMMAND_MEMORY 0x2
#define PCI_COMMAND_MASTER 0x4
#define PCI_COMMAND_NO_INTX 0x400
#define PCI_STATUS 0x06
#define PCI_STATUS_CAPABILITIES 0x10
#define PCI_REVISION 0x08
#define PCI_CACHE_LINE 0x0c
#define PCI_HEADER_TYPE 0x0e
#define PCI_BAR0 0x10
#define PCI_BAR_END 0x28
#define PCI_SUBSYSTEM_VENDOR 0x2c
#define PCI_SUBSYSTEM 0x2e
#define PCI_CAPABILITIES 0x34
#define PCI_INTERRUPT_LINE 0x3c
#define PCI_INTERRUPT_PIN 0x3d
#define PCI_FIRST_CAPABILITY 0x40
#define PCI_ADDRESS_MASK 0x80fffffcu

#define PCI_CAP_VENDOR 0x09
#define PCI_CAP_MSIX 0x11

struct fy_pci_bar {
    uint32_t bytes; /* 0: none */
    const struct fy_io_ops *io;
    void *dev;
    unsigned index; /* in the bus's list of mapped BARs */
};

struct fy_pci_function {
    struct fy_pci *pci;
    unsigned slot;
    const struct fy_pci_ops *ops;
    void *dev;
    uint8_t config[FY_PCI_CONFIG_BYTES];
    uint8_t initial[FY_PCI_CONFIG_BYTES];  /* at power-on */
    uint8_t writable[FY_PCI_CONFIG_BYTES]; /* bits that the guest may change */
    struct fy_pci_bar bars[FY_PCI_BARS];
    unsigned capability_end, last_capability;
};

#endif
