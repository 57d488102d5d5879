#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A guest that attacks its devices (tests/guests/hostile), on each engine, while it is moved to and fro: no crash, no hang, no growth.

    test_hostile.py [--build DIR] [--seconds N] [--seed N] [--engine soft|kvm]     N seconds an engine and console (8)
"""
import os
import re
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ferry  # noqa: E402
import hv  # noqa: E402

STEP = b"hostile [0-9]+\r?\n"
GROWTH_KIB = 16 << 10  # allocator slack and caches that fill once; a leak an operation is far beyond after some seconds


def own_memory_kib(pid):
    """Resident memory that is not the guest's."""
    total, guest = 0, False
    with open(f"/proc/{pid}/smaps", encoding="utf-8") as f:
        for line in f:
            if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
                guest = "memfd:ferry:" in line
            elif line.startswith("Rss:") and not guest:
                total += int(line.split()[1])
    return total


def devices(pair):
    """Options for one of each device."""
    os.makedirs(os.path.join(pair.folder, "disks"), exist_ok=True)
    disk = os.path.join(pair.folder, "disks", "disk.img")
    with open(disk, "wb") as f:
        f.truncate(64 << 20)
    return ["-d", disk + ",queues=2", "--vsock", "-n", "user"]


def requests(host, name):
    """Requests that all devices have answered, in this process."""
    control = hv.Control(host.control_socket(name))
    reply, _ = control.call("stats", b"")
    control.sock.close()
    return sum(hv.one(device, 3, 0) for device in map(hv.parse, reply.get(1, [])))


def attack_console(pair, engine, seconds, seed):
    """With a virtio console: what the guest says is mostly what it puts into its rings, so it is watched by what its devices do."""
    source, target = pair.alpha, pair.beta
    source.vmctl("start", "c", "-k", os.path.join(pair.guests, "hostile.elf"), "-m", "3584M", "--engine", engine, "-a", f"seed={seed}", "--virtio-console", *devices(pair))
    first, moves = None, 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        last = requests(source, "c")
        ferry.wait_for("the devices to go on", 120, lambda: requests(source, "c") > last)
        assert source.state("c") == "running", source.state("c")
        first = first or own_memory_kib(source.guest("c")["pid"])
        source.vmctl("migrate", "c", target.name, "--max-downtime", "5s")
        moves += 1
        source, target = target, source
        ferry.wait_for("the end of the target's job", 10, lambda: not source.guest("c").get("job"))
    ferry.wait_for("the devices to go on", 120, lambda: requests(source, "c") > 0)
    held = own_memory_kib(source.guest("c")["pid"])
    assert held < first + GROWTH_KIB, f"ferry-hv's own memory went from {first} to {held} KiB"
    ferry.say(f"{engine}: with a virtio console, {moves} moves; own memory {first} then {held} KiB")
    source.vmctl("stop", "-f", "c")
    ferry.wait_for("the guest's end", 10, lambda: source.state("c") == "stopped")


def attack(pair, engine, seconds, seed):
    source, target = pair.alpha, pair.beta
    source.vmctl("start", "g", "-k", os.path.join(pair.guests, "hostile.elf"), "-m", "3584M", "--engine", engine, "-a", f"seed={seed}", *devices(pair))
    console = source.console("g")
    found = int(console.expect(rb"devices ([0-9]+)", 60).group(1))
    assert found >= 5, f"the guest found {found} devices"
    console.expect(STEP, 120)
    first = own_memory_kib(source.guest("g")["pid"])
    end = time.monotonic() + seconds
    moves = 0
    while time.monotonic() < end:
        place = console.length()
        console.expect(STEP, 120, place)  # it goes on: nothing hangs
        assert source.state("g") == "running", source.state("g")
        source.vmctl("migrate", "g", target.name, "--max-downtime", "5s")
        moves += 1
        source, target = target, source
        ferry.wait_for("the end of the target's job", 10, lambda: not source.guest("g").get("job"))
        console.close()
        console = source.console("g", scrollback=False)
        console.expect(STEP, 120)
    last = own_memory_kib(source.guest("g")["pid"])
    steps = int(re.findall(rb"hostile ([0-9]+)", console.text)[-1])
    assert last < first + GROWTH_KIB, f"ferry-hv's own memory went from {first} to {last} KiB"
    ferry.say(f"{engine}: {found} devices, {steps} steps, {moves} moves; own memory {first} then {last} KiB")
    console.close()
    source.vmctl("stop", "-f", "g")
    ferry.wait_for("the guest's end", 10, lambda: source.state("g") == "stopped")


def option(name, default):
    return int(sys.argv[sys.argv.index(name) + 1]) if name in sys.argv else default


def main():
    engines = [sys.argv[sys.argv.index("--engine") + 1]] if "--engine" in sys.argv else ["soft", "kvm"]
    pair = ferry.Pair(ferry.build_argument(sys.argv))
    try:
        for engine in engines:
            if engine == "kvm" and not os.access("/dev/kvm", os.R_OK | os.W_OK):
                ferry.say("kvm: skipped, /dev/kvm cannot be opened")
                continue
            attack(pair, engine, option("--seconds", 8), option("--seed", 1))
            attack_console(pair, engine, option("--seconds", 8), option("--seed", 1))
    finally:
        pair.close()


main()
