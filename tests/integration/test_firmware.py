#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Firmware as Debian has it (SeaBIOS, OVMF) on the serial console, UEFI variables over resets, moves and stops, and Multiboot images.

FERRY_FIRMWARE_ENGINE: what runs the guests (default soft)."""
import json
import os
import sys

import grubdisk
from ferry import Failure, Pair, build_argument, say, wait_for
from shell import Shell, devices_guest

ENGINE = os.environ.get("FERRY_FIRMWARE_ENGINE", "soft")
GUID = "12345678-1234-1234-1234-123456789abc"
SHELL = rb"Shell> "


def stop(host, name):
    host.vmctl("stop", name, "-f")
    wait_for(f"the end of {name}", 20, lambda: host.state(name) in (None, "stopped"))


def start(host, *args):
    host.vmctl("start", "g", "--engine", ENGINE, *args)
    return host.console("g")


def bios(host):
    """SeaBIOS up to where it finds nothing to boot, again after each kind of reset."""
    console = start(host, "--firmware", "bios")
    console.expect(rb"SeaBIOS \(version [^)]*\)", 60)
    console.expect(rb"No bootable device", 60)
    for i in range(2):
        at = console.length()
        host.vmctl("reset", "g")
        console.expect(rb"SeaBIOS \(version [^)]*\)", 60, at)
        console.expect(rb"No bootable device", 60, at)
    console.close()
    stop(host, "g")
    say("bios: SeaBIOS says that nothing is there to boot, three times")


def rom(pair):
    """A ROM of ours finds the machine as firmware may expect it."""
    pair.alpha.vmctl("start", "g", "--engine", ENGINE, "-m", "64M", "--paused", "--debug-exit", "--firmware",
                     os.path.join(pair.guests, "check.rom"))
    console = pair.alpha.console("g")
    pair.alpha.vmctl("unpause", "g")
    pair.alpha.vmctl("wait", "g", timeout=60)
    console.thread.join(10)
    status = pair.alpha.guest("g").get("exit_status")
    if b"rom ok" not in console.text or status != 1:
        raise Failure(f"the ROM says {console.text!r} and ends with {status} (2 N + 1, N is what is wrong)")
    console.close()
    pair.alpha.vmctl("stop", "g")
    say("rom: the reset vector, ROM and its copy are as they should be")


def to_shell(console, at=0):
    """From power-on, or a reset, to the UEFI shell's prompt."""
    at = console.expect(rb"Press .*ESC", 240, at).end()
    console.send(b"\x1b")
    console.expect(SHELL, 60, at)


def command(console, line):
    """What the shell answers to a command."""
    at = console.length()
    console.send(line.encode() + b"\r")
    console.expect(SHELL, 90, at + len(line))
    return console.text[at:]


def variable(console, host, when):
    answer = command(console, f"setvar FerryTest -guid {GUID}")
    if b"CA FE BA BE" not in answer:
        raise Failure(f"{when} on {host.name} the variable is not there: {answer!r}")


def uefi(pair):
    """A variable that is set stays: over a reset by the guest, one by vmctl, a move, and a stop and a start there."""
    alpha, beta = pair.alpha, pair.beta
    console = start(alpha, "--firmware", "uefi")
    to_shell(console)
    command(console, f"setvar FerryTest -guid {GUID} -bs -rt -nv =CAFEBABE")
    variable(console, alpha, "once set")
    at = console.length()
    console.send(b"reset\r")
    to_shell(console, at)
    variable(console, alpha, "after the guest's own reset")
    at = console.length()
    alpha.vmctl("reset", "g")
    to_shell(console, at)
    variable(console, alpha, "after a reset from outside")
    console.close()
    out = alpha.vmctl("migrate", "g", "beta", "--json", timeout=300).stdout
    if json.loads(out.strip().splitlines()[-1])["state"] != "completed":
        raise Failure(f"the move: {out}")
    console = beta.console("g")
    variable(console, beta, "after a move")
    command(console, f"setvar FerryHere -guid {GUID} -bs -rt -nv =C0FFEE")
    at = console.length()
    console.send(b"reset\r")
    to_shell(console, at)
    variable(console, beta, "after a reset behind a move")
    console.close()
    stop(beta, "g")
    console = start(beta, "--firmware", "uefi")
    to_shell(console)
    variable(console, beta, "after a stop and a start")
    if b"C0 FF EE" not in command(console, f"setvar FerryHere -guid {GUID}"):
        raise Failure("what was set behind the move is lost")
    console.close()
    stop(beta, "g")
    say("uefi: variables stay over resets, a move, a stop and a start")


def grub(pair):
    """The same disk boots GRUB by either firmware, which reads it by virtio, asks at the serial port, and reboots."""
    disk = os.path.join(pair.folder, "grub.img")
    grubdisk.make(disk, pair.folder)
    for firmware, timeout in (("bios", 60), ("uefi", 240)):
        console = start(pair.alpha, "--firmware", firmware, "-d", disk)
        at = 0
        for who in (b"ann", b"bob"):
            console.expect(b"FERRY-GRUB " + firmware.encode() + rb"[^?]*name\?", timeout, at)
            at = console.length()
            console.send(who + b"\r")
            console.expect(b"hello " + who, 30, at)
        console.close()
        stop(pair.alpha, "g")
    say("grub: the disk boots by SeaBIOS and by OVMF, and again after GRUB's reboot")


def multiboot(pair):
    """Both specifications, as ELF and as flat images, with a module."""
    module = os.path.join(pair.folder, "module")
    data = os.urandom(70001)
    with open(module, "wb") as f:
        f.write(data)
    for version, magic in ((1, b"2badb002"), (2, b"36d76289")):
        for kind in ("elf", "flat"):
            pair.alpha.vmctl("start", "g", "--engine", ENGINE, "-m", "64M", "--paused", "--debug-exit", "-k",
                             os.path.join(pair.guests, f"multiboot{version}.{kind}"), "-r", module, "-a", f"a {kind} image")
            console = pair.alpha.console("g")
            pair.alpha.vmctl("unpause", "g")
            pair.alpha.vmctl("wait", "g", timeout=60)
            console.thread.join(10)
            text = console.text.replace(b"\r", b"")
            for line in (b"multiboot " + magic, f"cmdline a {kind} image".encode(), b"loader Ferry",
                         f"module {len(data):x} sum {sum(data) & 0xffffffff:x}".encode(), b"range 0 9f000 1", b"range 100000 3f00000 1"):
                if line + b"\n" not in text:
                    raise Failure(f"multiboot{version}.{kind}: no {line!r} in {text!r}")
            if version == 2 and b"acpi RSD PTR\n" not in text:
                raise Failure(f"no ACPI root in {text!r}")
            status = pair.alpha.guest("g").get("exit_status")
            if status != 43:
                raise Failure(f"multiboot{version}.{kind} ended with {status}")
            console.close()
            pair.alpha.vmctl("stop", "g")
    say("multiboot: four images were told what they should be")


def kernel(pair):
    """Firmware boots the kernel that is given with it (SeaBIOS by its 16-bit entry, OVMF by its EFI stub), also when the guest moves in the
    middle of that, and again at the other host. SeaBIOS prefers it to a disk."""
    image, initrd = devices_guest()
    disk = os.path.join(pair.disks, "grub.img")  # where an incoming guest's may be
    grubdisk.make(disk, pair.folder)
    for firmware, said in (("bios", rb"SeaBIOS \(version"), ("uefi", rb"\x1b")):
        console = start(pair.alpha, "--firmware", firmware, "-k", image, "-r", initrd, "-a", f"console=ttyS0 ferry.by={firmware}", "-m", "256M",
                        "-d", disk)
        console.expect(said, 100)
        pair.alpha.vmctl("migrate", "g", "beta", timeout=300)
        console = pair.beta.console("g")
        console.expect(b"devices ready", 240)
        shell = Shell(console)
        if f"ferry.by={firmware}" not in shell.run("cat /proc/cmdline"):
            raise Failure(f"{firmware}: another command line")
        if ("yes" in shell.run("[ -d /sys/firmware/efi ] && echo y''es")) != (firmware == "uefi"):
            raise Failure(f"{firmware}: the kernel was booted by something else")
        at = console.length()
        console.send(b"reboot -f\n")
        console.expect(b"devices ready", 240, at)
        console.close()
        stop(pair.beta, "g")
    say("kernel: by SeaBIOS and by OVMF, over a move in the middle of the boot, and again behind it")


def defined(pair):
    """Firmware is a setting of a definition: by name, or a file by its absolute path."""
    alpha = pair.alpha
    alpha.vmctl("create", "d", "--firmware", "bios", "--engine", ENGINE, "-m", "64M")
    alpha.vmctl("start", "d")
    console = alpha.console("d")
    console.expect(rb"No bootable device", 60)
    console.close()
    stop(alpha, "d")
    alpha.vmctl("set", "d", "firmware=" + os.path.join(pair.guests, "check.rom"), "debug-exit=yes")
    alpha.vmctl("start", "d")
    if alpha.vmctl("wait", "d", timeout=60).stdout.split() != ["1"]:
        raise Failure(f"the defined ROM ended with {alpha.guest('d')}")
    alpha.vmctl("create", "v", "--firmware", "uefi", "--engine", ENGINE)
    alpha.vmctl("start", "v", "--paused")
    stop(alpha, "v")
    variables = os.path.join(alpha.root, "nvram", "v")
    if not os.path.exists(variables):
        raise Failure("a guest that stops loses its variables")
    alpha.vmctl("delete", "v")
    if os.path.exists(variables):
        raise Failure("variables outlive the definition")
    r = alpha.vmctl("create", "e", "--firmware", "some.rom", check=False)
    if r.returncode == 0 or "absolute" not in r.stderr:
        raise Failure(f"a relative path in a definition: {r.returncode}, {r.stderr!r}")
    say("defined: by name, by path")


def wrong(pair):
    """Refusals name their cause."""
    odd = os.path.join(pair.folder, "odd.fd")
    with open(odd, "wb") as f:
        f.write(b"\xff" * 5000)
    for args, word in ((("--firmware", odd), "4 KiB"), (("--firmware", "/nowhere/rom"), "/nowhere/rom"), ((), "--firmware"),
                       (("--firmware", "bios", "-k", odd), "bzImage"),
                       (("--firmware", "bios", "-a", "quiet"), "-k")):
        r = pair.alpha.vmctl("start", "g", "--engine", ENGINE, *args, check=False)
        if r.returncode == 0 or word not in r.stderr:
            raise Failure(f"start {args}: {r.returncode}, {r.stderr!r}")
    with open(os.path.join(pair.alpha.root, "nvram", "g"), "wb") as f:
        f.write(b"\xff" * 4096)
    r = pair.alpha.vmctl("start", "g", "--engine", ENGINE, "--firmware", "uefi", check=False)
    if r.returncode == 0 or "nvram/g" not in r.stderr:
        raise Failure(f"variables of another size: {r.returncode}, {r.stderr!r}")
    # a whole image, variables and all, as a ROM; and one that is nothing but jumps to itself
    rom = os.path.join(pair.folder, "loop.rom")
    with open(rom, "wb") as f:
        f.write(b"\xff" * (65536 - 16) + b"\xeb\xfe" + b"\x90" * 14)
    start(pair.alpha, "--firmware", rom).close()
    if pair.alpha.state("g") != "running":
        raise Failure(f"a ROM that jumps to itself: {pair.alpha.guest('g')}")
    stop(pair.alpha, "g")
    say("wrong input is refused")


def main():
    pair = Pair(build_argument(sys.argv))
    try:
        multiboot(pair)
        rom(pair)
        bios(pair.alpha)
        grub(pair)
        kernel(pair)
        uefi(pair)
        defined(pair)
        wrong(pair)
        pair.check_one_runner()
    except Failure as why:
        say(f"test_firmware: {why}")
        return 1
    finally:
        pair.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
