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


def main():
    build = ferry.build_argument(sys.argv)
    kernel, initrd = devices_guest("6.12")
    pair = ferry.Pair(build)
    try:
        pair.alpha.vmctl("start", "g", "-k", kernel, "-r", initrd, "-m", "512M", "--engine", "soft", "-a", "console=ttyS0")
        console = pair.alpha.console("g")
        console.expect(b"devices ready", 180)
        shell = Shell(console)
        first = generation(pair.alpha)
        assert len(first) == 16 and any(first), first
        pair.alpha.vmctl("migrate", "g", "beta")
        shell.console = pair.beta.console("g", scrollback=False)
        assert generation(pair.beta) == first, "a move has changed the generation ID"
        assert FORK not in shell.run("dmesg"), "the kernel takes a move for a copy"
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
        ferry.say("generation ID: stays over a move, changes with a copy, and the kernel reseeds")
        pair.check_one_runner()
    finally:
        pair.close()


main()
