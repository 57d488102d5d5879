#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Firmware on a real KVM: SeaBIOS and OVMF from their reset vectors to their prompts, over resets and a move to another daemon."""
import sys

from lab import Console, Failure, Lab, build_argument, move, pair, run_checks, say, wait_for

GUID = "12345678-1234-1234-1234-123456789abc"
MOVE = "--max-downtime 5s --deadline 150s"
SHELL = rb"Shell> "


def stop(daemon, name):
    daemon.vmctl(f"stop {name} -f")
    wait_for(f"the end of {name}", 30, lambda: daemon.state(name) in (None, "stopped"), 0.2)


def bios(lab):
    """SeaBIOS finds nothing to boot, again after a reset, whose image comes from guest memory."""
    lab.alpha.vmctl("start b -m 64M --engine kvm --firmware bios")
    console = Console(lab.alpha, "b")
    console.expect(rb"SeaBIOS \(version [^)]*\)", 120)
    console.expect(rb"No bootable device", 120)
    at = console.length()
    lab.alpha.vmctl("reset b")
    console.expect(rb"SeaBIOS \(version [^)]*\)", 120, at)
    console.expect(rb"No bootable device", 120, at)
    console.close()
    stop(lab.alpha, "b")


def rom(lab):
    """A ROM of ours finds the machine as firmware may expect it: on KVM its memory is a read-only slot."""
    lab.alpha.vmctl("start r -m 64M --engine kvm --paused --debug-exit --firmware /guest/check.rom")
    console = Console(lab.alpha, "r")
    lab.alpha.vmctl("unpause r")
    console.expect(rb"rom ok", 60)
    console.close()
    lab.alpha.vmctl("wait r")
    lab.alpha.vmctl("stop r")


def grub(lab):
    """A disk with GRUB boots by SeaBIOS and is rebooted by GRUB."""
    lab.alpha.vmctl("start d -m 64M --engine kvm --firmware bios -d /guest/grub.img")
    console = Console(lab.alpha, "d")
    at = 0
    for who in (b"ann", b"bob"):
        console.expect(rb"FERRY-GRUB bios[^?]*name\?", 180, at)
        at = console.length()
        console.send(who + b"\r")
        console.expect(b"hello " + who, 60, at)
    console.close()
    stop(lab.alpha, "d")


def to_shell(console, at=0):
    at = console.expect(rb"Press .*ESC", 300, at).end()
    console.send(b"\x1b")
    console.expect(SHELL, 120, at)


def command(console, line):
    at = console.length()
    console.send(line.encode() + b"\r")
    console.expect(SHELL, 120, at + len(line))
    return console.text[at:]


def uefi(lab):
    """OVMF's flash keeps a variable over the guest's reset and over a move, and the guest still answers."""
    # Each interrupt's handler in OVMF writes CR8, and QEMU 10.0 dies of that ("bql_locked()") when KVM has asked for an
    # interrupt window, as it does when ticks come faster than the emulation is: let them come rarely.
    lab.alpha.host.run("echo 500000 >/sys/module/kvm/parameters/min_timer_period_us")
    lab.alpha.vmctl("start u -m 128M --engine kvm --firmware uefi")
    console = Console(lab.alpha, "u")
    to_shell(console)
    command(console, f"setvar FerryTest -guid {GUID} -bs -rt -nv =CAFEBABE")
    at = console.length()
    console.send(b"reset\r")
    to_shell(console, at)
    if b"CA FE BA BE" not in command(console, f"setvar FerryTest -guid {GUID}"):
        raise Failure(f"after a reset the variable is lost: {console.text[-600:]!r}")
    report = move(lab.alpha, lab.second, "u", MOVE)
    say(f"moved in {report['total_ms']:.0f} ms, down {report['downtime_ms']:.0f} ms")
    console.close()
    console = Console(lab.second, "u")
    console.expect(SHELL, 60)
    if b"CA FE BA BE" not in command(console, f"setvar FerryTest -guid {GUID}"):
        raise Failure(f"after a move the variable is lost: {console.text[-600:]!r}")
    console.close()
    stop(lab.second, "u")


def multiboot(lab):
    """A Multiboot image of each specification is told what it should be."""
    for version, magic in ((1, b"2badb002"), (2, b"36d76289")):
        for kind in ("elf", "flat"):
            lab.alpha.vmctl(f"start m -m 64M --engine kvm --paused --debug-exit -k /guest/multiboot{version}.{kind} -a hello")
            console = Console(lab.alpha, "m")
            lab.alpha.vmctl("unpause m")
            console.expect(rb"multiboot " + magic + rb"\r?\n", 60)
            console.expect(rb"cmdline hello\r?\n", 60)
            console.expect(rb"end\r?\n", 60)
            console.close()
            lab.alpha.vmctl("wait m", timeout=60)
            lab.alpha.vmctl("stop m")


def main():
    lab = Lab(build_argument(sys.argv))
    try:
        lab.plan("alpha")
        host = lab.boot("alpha")
        host.await_ready()
        lab.alpha = host.daemon()
        lab.second = host.daemon("second", 4748)
        pair(lab.alpha, lab.second)
        only = sys.argv[2:]
        return 1 if run_checks(lab, [c for c in (multiboot, rom, bios, grub, uefi) if not only or c.__name__ in only]) else 0
    except Failure as why:
        say(f"firmware: {why}")
        return 1
    finally:
        lab.close()


if __name__ == "__main__":
    sys.exit(main())
