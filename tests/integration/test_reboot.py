#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A guest that was started from a kernel boots again at the host that it has moved to, by the reset button and by its own doing, and moves on."""
import os
import shutil
import sys

import ferry
from shell import Shell, devices_guest

IMAGES = "boot_image_bytes"


def move(source, target):
    source.vmctl("migrate", "g", target.name)


def reset(host, console, booted):
    at = console.length()
    host.vmctl("reset", "g")
    console.expect(booted, 120, at)


def linux(pair):
    """A bzImage with an initrd: the very files are gone when it boots again."""
    kernel, initrd = (shutil.copy(f, pair.folder) for f in devices_guest())
    pair.alpha.vmctl("start", "g", "-k", kernel, "-r", initrd, "-m", "256M", "--engine", "soft", "-a", "console=ttyS0 quiet ferry.word=kept")
    size = os.path.getsize(kernel) + os.path.getsize(initrd)
    os.unlink(kernel)
    os.unlink(initrd)
    console = pair.alpha.console("g")
    console.expect(b"devices ready", 120)
    assert pair.alpha.guest("g")[IMAGES] == size, pair.alpha.guest("g")
    assert "kept with the guest" in pair.alpha.vmctl("show", "g").stdout
    source, target = pair.alpha, pair.beta
    for _ in range(2):
        move(source, target)
        console = target.console("g", scrollback=False)
        shell = Shell(console)
        shell.run("echo before > /tmp/word")
        reset(target, console, b"devices ready")
        shell = Shell(console)
        assert "before" not in shell.run("cat /tmp/word"), "the guest was not reset"
        assert "ferry.word=kept" in shell.run("cat /proc/cmdline")
        at = console.length()
        console.send(b"reboot -f\n")
        console.expect(b"devices ready", 120, at)
        assert target.guest("g")[IMAGES] == size
        source, target = target, source
    Shell(console)
    console.send(b"poweroff -f\n")
    source.vmctl("wait", "g", timeout=60)
    assert source.state("g") == "stopped", source.guest("g")
    source.vmctl("stop", "g")
    ferry.say("linux: boots again from its kept images at either host, twice each, and powers off")


def multiboot(pair, engine):
    """Small enough for every KVM: a guest that resets itself when a key is pressed."""
    module = os.path.join(pair.folder, "module")
    data = os.urandom(3 << 20)
    with open(module, "wb") as f:
        f.write(data)
    told = b"cmdline keys\r?\n" + rb"(?s:.*)module %x sum %x\r?\n(?s:.*)end" % (len(data), sum(data) & 0xffffffff)
    pair.alpha.vmctl("start", "g", "--engine", engine, "-m", "64M", "--debug-exit", "-k", os.path.join(pair.guests, "multiboot1.elf"), "-r", module,
                     "-a", "keys")
    console = pair.alpha.console("g")
    console.expect(told, 60)
    source, target = pair.alpha, pair.beta
    for _ in range(3):
        move(source, target)
        console = target.console("g", scrollback=False)
        reset(target, console, told)
        at = console.length()
        console.send(b"r")
        console.expect(told, 60, at)
        source, target = target, source
    console.send(b"e")
    source.vmctl("wait", "g", timeout=60)
    assert source.guest("g")["exit_status"] == 43, source.guest("g")
    source.vmctl("stop", "g")
    ferry.say(f"multiboot on {engine}: three moves, two boots after each")


def there_and_back(pair):
    """Moves in a tight loop: none is refused because the worker by which the guest came is not gone yet."""
    pair.start(pair.alpha, "g", "mem=16 rate=20", "64M").expect(b"!filled", 60)
    source, target = pair.alpha, pair.beta
    for _ in range(20):
        move(source, target)
        source, target = target, source
    assert pair.check_one_runner() >= 21
    source.vmctl("stop", "g", "-f")
    ferry.say("20 moves there and back at once")


def pvh(pair, engine):
    pair.alpha.vmctl("start", "g", "--engine", engine, "-m", "128M", "-p", "2", "-k", os.path.join(pair.guests, "selfcheck.elf"), "-a", "mem=16 rate=20")
    pair.alpha.console("g").expect(b"!filled", 60)
    source, target = pair.alpha, pair.beta
    for _ in range(2):
        move(source, target)
        reset(target, target.console("g", scrollback=False), b"(?s)!start.*!filled")
        source, target = target, source
    source.vmctl("stop", "g", "-f")
    ferry.wait_for("its end", 20, lambda: source.state("g") in (None, "stopped"))
    ferry.say(f"pvh on {engine}: two moves, a boot after each")


def main():
    pair = ferry.Pair(ferry.build_argument(sys.argv))
    try:
        for engine in ["soft"] + ([] if ferry.need_kvm() else ["kvm"]):
            for h in pair.hosts:
                h.stop_daemon()
                h.engine = engine
                h.start_daemon()
            multiboot(pair, engine)
            pvh(pair, engine)
            if engine == "soft":
                linux(pair)
        there_and_back(pair)
        pair.check_one_runner()
    finally:
        pair.close()


main()
