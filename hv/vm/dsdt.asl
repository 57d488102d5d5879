// SPDX-License-Identifier: Apache-2.0
// Devices of machine revision 1. Addresses and lines: hv/dev/platform.h. Processors are in the SSDT that
// hv/vm/acpi.c writes; the power button is the fixed-feature one.
DefinitionBlock ("dsdt.aml", "DSDT", 2, "FERRY ", "FERRYDSD", 1)
{
    Name (\_S5, Package () { 5, 0, 0, 0 })

    Scope (\_SB)
    {
        Device (COM1)
        {
            Name (_HID, EisaId ("PNP0501"))
            Name (_UID, 1)
            Name (_CRS, ResourceTemplate ()
            {
                IO (Decode16, 0x03F8, 0x03F8, 0x01, 0x08)
                IRQNoFlags () { 4 }
            })
        }

        Device (RTC0)
        {
            Name (_HID, EisaId ("PNP0B00"))
            Name (_UID, 0)
            Name (_CRS, ResourceTemplate ()
            {
                IO (Decode16, 0x0070, 0x0070, 0x01, 0x02)
                IRQNoFlags () { 8 }
            })
        }
    }
}
