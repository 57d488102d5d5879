// SPDX-License-Identifier: Apache-2.0
// VM generation ID of machine revision 2 (hv/dev/vmgenid.c), told of by general-purpose event 0, and VMClock (hv/dev/vmclock.c).
DefinitionBlock ("vmgen.aml", "SSDT", 2, "FERRY ", "FERRYGEN", 1)
{
    Scope (\_SB)
    {
        Device (VGEN)
        {
            Name (_HID, "FERY0001")
            // The name in Microsoft's paper is longer than ACPI allows; the second is what Hyper-V added for that.
            Method (_CID, 0, NotSerialized)
            {
                Return (Package () { "VM_Gen_Counter", "VMGENCTR" })
            }
            Name (_DDN, "VM_Gen_Counter")
            Name (ADDR, Package () { 0xFED10000, 0 })
            Name (_CRS, ResourceTemplate ()
            {
                Memory32Fixed (ReadOnly, 0xFED10000, 0x00001000)
            })
        }

        Device (VCLK)
        {
            Name (_HID, "AMZNC10C")
            Name (_CID, "VMCLOCK")
            Name (_DDN, "VMCLOCK")
            Name (_CRS, ResourceTemplate ()
            {
                Memory32Fixed (ReadOnly, 0xFED11000, 0x00001000)
            })
        }
    }

    Scope (\_GPE)
    {
        Method (_E00, 0, NotSerialized)
        {
            Notify (\_SB.VGEN, 0x80)
        }
    }
}
