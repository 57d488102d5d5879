// SPDX-License-Identifier: Apache-2.0
// The PCI bus of machine revision 2 (hv/dev/pci.c): windows, interrupt lines (GSI 16 + (slot + pin) % 4, pin A
// only is used), and ECAM's place as a motherboard resource.
DefinitionBlock ("pci.aml", "SSDT", 2, "FERRY ", "FERRYPCI", 1)
{
    Scope (\_SB)
    {
        Device (PCI0)
        {
            Name (_HID, EisaId ("PNP0A08"))
            Name (_CID, EisaId ("PNP0A03"))
            Name (_UID, 0)
            Name (_BBN, 0)
            Name (_SEG, 0)
            // hv/vm/acpi.c moves the first memory window's begin to the end of RAM.
            Name (_CRS, ResourceTemplate ()
            {
                WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode, 0, 0, 0x0f, 0, 0x10)
                IO (Decode16, 0x0CF8, 0x0CF8, 0x01, 0x08)
                WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange, 0, 0, 0x0CF7, 0, 0x0CF8)
                WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange, 0, 0x0D00, 0xFFFF, 0, 0xF300)
                DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable, ReadWrite,
                             0, 0x80000000, 0xFCFFFFFF, 0, 0x7D000000)
                DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable, ReadWrite,
                             0, 0xFE000000, 0xFEBFFFFF, 0, 0x00C00000)
            })
            Name (_PRT, Package ()
            {
                Package () { 0x0002FFFF, 0, 0, 18 }, Package () { 0x0003FFFF, 0, 0, 19 },
                Package () { 0x0004FFFF, 0, 0, 16 }, Package () { 0x0005FFFF, 0, 0, 17 },
                Package () { 0x0006FFFF, 0, 0, 18 }, Package () { 0x0007FFFF, 0, 0, 19 },
                Package () { 0x0008FFFF, 0, 0, 16 }, Package () { 0x0009FFFF, 0, 0, 17 },
                Package () { 0x000AFFFF, 0, 0, 18 }, Package () { 0x000BFFFF, 0, 0, 19 },
                Package () { 0x000CFFFF, 0, 0, 16 }, Package () { 0x000DFFFF, 0, 0, 17 },
                Package () { 0x000EFFFF, 0, 0, 18 }, Package () { 0x000FFFFF, 0, 0, 19 },
                Package () { 0x0010FFFF, 0, 0, 16 }, Package () { 0x0011FFFF, 0, 0, 17 },
                Package () { 0x0012FFFF, 0, 0, 18 }, Package () { 0x0013FFFF, 0, 0, 19 },
                Package () { 0x0014FFFF, 0, 0, 16 }, Package () { 0x0015FFFF, 0, 0, 17 },
                Package () { 0x0016FFFF, 0, 0, 18 }, Package () { 0x0017FFFF, 0, 0, 19 },
                Package () { 0x0018FFFF, 0, 0, 16 }, Package () { 0x0019FFFF, 0, 0, 17 },
                Package () { 0x001AFFFF, 0, 0, 18 }, Package () { 0x001BFFFF, 0, 0, 19 },
                Package () { 0x001CFFFF, 0, 0, 16 }, Package () { 0x001DFFFF, 0, 0, 17 },
                Package () { 0x001EFFFF, 0, 0, 18 }, Package () { 0x001FFFFF, 0, 0, 19 }
            })
        }

        Device (ECAM)
        {
            Name (_HID, EisaId ("PNP0C02"))
            Name (_UID, 1)
            Name (_CRS, ResourceTemplate ()
            {
                Memory32Fixed (ReadWrite, 0xFD000000, 0x01000000)
            })
        }
    }
}
