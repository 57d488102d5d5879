// SPDX-License-Identifier: Apache-2.0
/* The PCI host bridge: configuration space through ports 0xcf8/0xcfc and through ECAM (PCI Local Bus
 * Specification 3.0; PCI Firmware Specification 3.2, section 4.1), memory BARs in the hole below 4 GiB, INTx
 * on GSIs 16 to 19, and MSI-X (pci_msix.h). One bus, number 0, of 32 slots; function 0 of each, and functions
 * 1 to 7 of slot 1 for what firmware expects there.
 *
 * Threads: functions are added while the machine is built. vCPUs read and write configuration space and BARs
 * on their own threads; one lock guards configuration space, none is held while a BAR is read or written. */
#ifndef FERRY_DEV_PCI_H
#define FERRY_DEV_PCI_H

#include "hv/dev/device.h"
#include "proto/state.pb-c.h"

#define FY_PCI_SLOTS 32
#define FY_PCI_BARS 6
#define FY_PCI_CONFIG_BYTES 256

struct fy_pci;
struct fy_pci_function;

/* What a function is. Constants of the machine revision: a guest can see all of them. */
struct fy_pci_id {
    uint16_t vendor, device;
    uint16_t subsystem_vendor, subsystem;
    uint8_t revision;
    uint32_t class_code; /* 24 bits: base class, subclass, interface */
    bool intx;           /* has interrupt pin A */
    bool multifunction;  /* set on function 0 of a slot that has others */
};

struct fy_pci_ops {
    /* Optional. A BAR is mapped at gpa, or no longer (gpa FY_PCI_UNMAPPED). The configuration lock is held;
     * calls nothing of this header. Also at load and reset. */
    void (*bar_moved)(void *dev, unsigned bar, uint64_t gpa);
    /* Optional. After a write of [offset, offset + len) of configuration space; may use fy_pci_config. The
     * configuration lock is held. */
    void (*config_written)(void *dev, unsigned offset, unsigned len);
    /* Optional. Before a read of configuration space; the lock is held. */
    void (*config_read)(void *dev, unsigned offset, unsigned len);
};
#define FY_PCI_UNMAPPED UINT64_MAX

/* Claims ports 0xcf8..0xcff (all but 0xcf9 by itself), ECAM and the BAR window on bus; makes the host bridge
 * (00:00.0). out: device "pci", with the bridge's state. It must be freed after its functions' devices. */
int fy_pci_new(struct fy_bus *bus, const struct fy_dev_host *host, struct fy_device *out, struct fy_pci **pci,
               struct fy_err *e);

/* Add a function. It stays for the bus's life. FY_EEXISTS when the place is taken. While the machine is
 * built. */
int fy_pci_add(struct fy_pci *pci, unsigned slot, unsigned function, const struct fy_pci_id *id,
               const struct fy_pci_ops *ops, void *dev, struct fy_pci_function **out, struct fy_err *e);
/* A 32-bit memory BAR of `bytes` (a power of two, 16 at least). Accesses go to io with the offset in the BAR.
 * While the machine is built. */
int fy_pci_add_bar(struct fy_pci_function *f, unsigned bar, uint32_t bytes, const struct fy_io_ops *io,
                   void *io_dev, struct fy_err *e);
/* Append a capability of `len` bytes (id and next included: they are written here); returns its offset, or
 * -1. writable: mask of bits that the guest may set, NULL for none. While the machine is built. */
int fy_pci_add_capability(struct fy_pci_function *f, uint8_t id, const uint8_t *body, const uint8_t *writable,
                          unsigned len, struct fy_err *e);
/* Extra writable bits of configuration space (a chip's own registers) and their power-on value. */
void fy_pci_set_register(struct fy_pci_function *f, unsigned offset, unsigned len, uint32_t value,
                         uint32_t writable);
/* Give each BAR an address and switch memory decoding and bus mastering on, as firmware would: for machines
 * that boot without firmware. After fy_pci_reset. */
void fy_pci_assign(struct fy_pci *pci);

/* The 256 bytes; for config_written and config_read only. */
uint8_t *fy_pci_config(struct fy_pci_function *f);
/* May it read and write memory (Command register, Bus Master Enable)? Any thread. */
bool fy_pci_bus_master(const struct fy_pci_function *f);
/* Level of its INTx pin. Any thread. */
void fy_pci_intx(struct fy_pci_function *f, bool level);
/* Send a message: nothing when the function is no bus master. Any thread. */
void fy_pci_msi(struct fy_pci_function *f, uint64_t address, uint32_t data);
const struct fy_dev_host *fy_pci_host(const struct fy_pci_function *f);

/* A function's part of its device's state: configuration space, checked at load against what is writable.
 * The machine is paused. fy_pci_save's message is the caller's. */
Ferry__PciFunction *fy_pci_save(struct fy_pci_function *f, struct fy_err *e);
/* Checks without changing anything; what passed, fy_pci_load commits without failing. id: for the error's
 * text. */
int fy_pci_check(struct fy_pci_function *f, const Ferry__PciFunction *s, const char *id, struct fy_err *e);
void fy_pci_load(struct fy_pci_function *f, const Ferry__PciFunction *s);
/* Power-on state of one function. vCPUs parked. */
void fy_pci_reset(struct fy_pci_function *f);

#endif
