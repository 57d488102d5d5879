// SPDX-License-Identifier: Apache-2.0
/* Addresses and lines of the machine revisions that chips and ACPI tables share. */
#ifndef FERRY_DEV_PLATFORM_H
#define FERRY_DEV_PLATFORM_H

#define FY_PORT_SERIAL0 0x3f8
#define FY_GSI_SERIAL0 4
#define FY_PORT_RTC 0x70
#define FY_GSI_RTC 8
#define FY_PORT_PM1_EVENT 0x600   /* PM1a_EVT_BLK, 4 bytes */
#define FY_PORT_PM1_CONTROL 0x604 /* PM1a_CNT_BLK, 2 bytes */
#define FY_PORT_PM_TIMER 0x608    /* PM_TMR_BLK, 4 bytes, 3.579545 MHz of the guest clock, 24 bits */
#define FY_GSI_SCI 9
#define FY_PORT_RESET 0xcf9
#define FY_RESET_VALUE 0x06
#define FY_PORT_I8042_COMMAND 0x64
#define FY_PORT_DEBUG_EXIT 0xf4
#define FY_PORT_FWCFG 0x510     /* selector, data */
#define FY_PORT_FWCFG_DMA 0x514 /* address of an access structure, 8 bytes, big endian */
/* from revision 2 on */
#define FY_PORT_PCI_ADDRESS 0xcf8
#define FY_PORT_PCI_DATA 0xcfc
#define FY_ECAM_ADDRESS 0xfd000000u
#define FY_ECAM_BUSES 16
#define FY_PCI_WINDOW 0x80000000u  /* memory BARs: from here, or the end of RAM, to ECAM */
#define FY_PCI_WINDOW2 0xfe000000u /* and between ECAM and the I/O APIC, where SeaBIOS begins */
#define FY_PCI_WINDOW2_END 0xfec00000u
#define FY_PCI_ASSIGN 0xf0000000u /* where BARs are put for a boot without firmware */
#define FY_PORT_GPE0 0x620        /* GPE0_BLK: a byte of status, a byte of enables */
#define FY_GPE_VMGENID 0          /* general-purpose events, by bit */
#define FY_VMGENID_ADDRESS 0xfed10000u
#define FY_VMGENID_WINDOW 4096
#define FY_VMCLOCK_ADDRESS 0xfed11000u
#define FY_VMCLOCK_WINDOW 4096
#define FY_GSI_INTX 16 /* to 19 */
/* PCI slots: a device's is a function of what it is, not of what else there is. 0 and 1 are the platform's.
 */
#define FY_SLOT_RNG 2
#define FY_SLOT_BALLOON 3
#define FY_SLOT_VSOCK 4
#define FY_SLOT_CONSOLE 5
#define FY_SLOT_DISK0 8
#define FY_DISKS_MAX 12
#define FY_SLOT_NIC0 20
#define FY_NICS_MAX 12
#define FY_LAPIC_ADDRESS 0xfee00000u
#define FY_IOAPIC_ADDRESS 0xfec00000u

#endif
