#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Virtio devices of a stock Linux guest (the devices guest of scripts/guest-kernel -d): they are found on PCI, they work, and they go on
working on the other host while the guest uses them."""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ferry  # noqa: E402
import hv  # noqa: E402
from shell import Shell, devices_guest  # noqa: E402

MIB = 1 << 20
MEMORY = 512 * MIB
HASH = b"[0-9a-f]{32}  -"


def balloon(host, target=None):
    control = hv.Control(host.control_socket("g"))
    reply, _ = control.call("balloon", (hv.field(1, 1) + hv.field(2, target)) if target is not None else b"")
    control.sock.close()
    names = {"target": 1, "actual": 2, "reported": 3}
    return {name: hv.one(reply, number) for name, number in names.items()} | {"stats": hv.packed(hv.one(reply, 4, b""))}


def resident(host):
    return host.guest("g")["memory_resident"]


def free_kib(shell):
    """MemTotal stays as it is: a balloon that deflates when memory is short leaves it alone."""
    return int(shell.run("grep MemFree /proc/meminfo").split()[1])


def check_rng(shell):
    assert "virtio_rng" in shell.run("cat /sys/class/misc/hw_random/rng_current"), "the guest does not use the entropy device"
    a, b = (shell.run("dd if=/dev/hwrng bs=4k count=16 2>/dev/null | md5sum").strip() for _ in range(2))
    assert len(a) == 35 and a != b, f"entropy of the device: {a!r}, {b!r}"


def check_balloon(host, shell):
    # Fill memory and free it: what the guest had touched becomes the balloon's.
    shell.run("dd if=/dev/zero of=/tmp/fill bs=1M count=200 2>/dev/null; rm /tmp/fill", 120)
    before = free_kib(shell)
    balloon(host, 256 * MIB)
    ferry.wait_for("the guest gives up 256 MiB", 60, lambda: balloon(host)["actual"] == 256 * MIB)
    after = free_kib(shell)
    assert abs(before - after - 256 * 1024) < 16 * 1024, f"MemFree went from {before} to {after} KiB"
    held = resident(host)
    assert held < MEMORY - 256 * MIB, f"the host still holds {held >> 20} MiB"
    balloon(host, 0)
    ferry.wait_for("the guest takes it back", 60, lambda: balloon(host)["actual"] == 0)
    again = free_kib(shell)
    assert abs(again - before) < 16 * 1024, f"MemFree is {again} KiB, was {before}"
    ferry.wait_for("the guest's statistics", 30, lambda: balloon(host)["stats"])
    total = balloon(host)["stats"][5]
    known = int(shell.run("grep MemTotal /proc/meminfo").split()[1])
    assert total == known * 1024, f"the guest counts {known} KiB in all, the balloon's statistics {total} bytes"
    return held


def check_moves(pair, shell):
    source, target = pair.alpha, pair.beta
    shell.console.send(b"while :; do dd if=/dev/hwrng bs=1k count=32 2>/dev/null | md5sum; done\n")
    shell.console.expect(HASH, 30)
    for _ in range(4):
        source.vmctl("migrate", "g", target.name)
        shell.console = target.console("g", scrollback=False)
        shell.console.expect(b"(?s)" + HASH + b".*" + HASH, 30)
        source, target = target, source
    shell.console.send(b"\x03")
    shell.run("true")
    balloon(source, 128 * MIB)
    ferry.wait_for("the balloon works after the moves", 60, lambda: balloon(source)["actual"] == 128 * MIB)
    source.vmctl("migrate", "g", target.name)
    shell.console = target.console("g", scrollback=False)
    assert balloon(target)["target"] == balloon(target)["actual"] == 128 * MIB
    assert free_kib(shell) > 0


def main():
    build = ferry.build_argument(sys.argv)
    kernel, initrd = devices_guest()
    pair = ferry.Pair(build)
    try:
        pair.alpha.vmctl("start", "g", "-k", kernel, "-r", initrd, "-m", "512M", "-p", "2", "--engine", "soft", "-a", "console=ttyS0 quiet")
        console = pair.alpha.console("g")
        console.expect(b"devices ready", 120)
        shell = Shell(console)
        check_rng(shell)
        ferry.say("entropy device: works")
        held = check_balloon(pair.alpha, shell)
        ferry.say(f"balloon: 256 MiB and back; {held >> 20} MiB resident with it")
        check_moves(pair, shell)
        ferry.say("5 moves with the entropy device and the balloon in use")
        pair.check_one_runner()
    finally:
        pair.close()


main()
