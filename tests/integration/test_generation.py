#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The VM generation ID in a stock Linux that has a driver for it (6.12): it stays over a move, and when the guest is made a copy the
kernel hears of it and gives its random number generator a new seed."""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ferry  # noqa: E402
import hv  # noqa: E402
from shell import Shell, devices_guest  # noqa: E402

FORK = "crng reseeded due to virtual machine fork"


def generation(host, change=False):
    control = hv.Control(host.control_socket("g"))
    reply, _ = control.call("generation", hv.field(1, 1) if change else b"")
    control.sock.close()
    return hv.one(reply, 1, b"")


def clock(shell):
    """VMClock's page (vmclock-abi.h) as the guest reads it: magic, sequence count, disruption marker, generation counter."""
    words = {at: int(shell.run(f"devmem {0xfed11000 + at:#x} {bits}"), 16) for at, bits in ((0, 32), (12, 32), (16, 64), (104, 64))}
    return words[0], words[12], words[16], words[104]


def main():
    build = ferry.build_argument(sys.argv)
    kernel, initrd = devices_guest("6.12")
    pair = ferry.Pair(build)
    try:
        pair.alpha.vmctl("start", "g", "-k", kernel, "-r", initrd, "-m", "512M", "--engine", "soft", "-a", "console=ttyS0")
        console = pair.alpha.console("g")
        console.expect(b"devices ready", 180)
        shell = Shell(console)
        assert "AMZNC10C" in shell.run("cat /sys/bus/acpi/devices/*/hid")
        magic, count, marker, copies = clock(shell)
        assert magic == 0x4b4c4356 and count % 2 == 0, (magic, count)
        first = generation(pair.alpha)
        assert len(first) == 16 and any(first), first
        pair.alpha.vmctl("migrate", "g", "beta")
        shell.console = pair.beta.console("g", scrollback=False)
        assert generation(pair.beta) == first, "a move has changed the generation ID"
        assert FORK not in shell.run("dmesg"), "the kernel takes a move for a copy"
        assert clock(shell) == (magic, count + 2, marker + 1, copies), "VMClock does not tell of the move"
        try:
            generation(pair.beta, True)
            raise ferry.Failure("the ID of a guest that runs was changed")
        except hv.Refused:
            pass
        pair.beta.vmctl("pause", "g")
        second = generation(pair.beta, True)
        assert second != first
        pair.beta.vmctl("unpause", "g")
        ferry.wait_for("the kernel to hear of it", 30, lambda: FORK in shell.run("dmesg"))
        assert generation(pair.beta) == second
        assert clock(shell) == (magic, count + 4, marker + 2, copies + 1), "VMClock does not tell of the copy"
        ferry.say("generation ID: stays over a move, changes with a copy, and the kernel reseeds; VMClock tells of both")
        pair.check_one_runner()
    finally:
        pair.close()


main()
