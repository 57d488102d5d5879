#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""System behaviour: sysguest on the software CPU and on QEMU's emulation, each line against the manuals, so against each
other. Without QEMU only the software CPU. Lines of features that a side lacks are left out."""
import os
import subprocess
import sys

from ferry import TOP, Failure, Pair, build_argument, say
from sysguest import complaints, dialogue

def on_soft(pair):
    pair.alpha.vmctl("start", "g", "-m", "256M", "-p", "2", "-k", os.path.join(pair.guests, "sysguest.elf"), "--engine", "soft",
                     "--debug-exit", "--paused")
    console = pair.alpha.console("g")
    pair.alpha.vmctl("unpause", "g")
    try:
        text = dialogue(console)
        console.send(b"q")
        pair.alpha.vmctl("wait", "g", check=False)
        if pair.alpha.state("g") not in ("stopped", "off", None):
            raise Failure("it does not power off")
        return text
    except Failure as why:
        raise Failure(f"soft: {why}; {pair.alpha.guest('g')}") from None
    finally:
        console.close()

def on_tcg(pair):
    """None where QEMU is not to be had."""
    peer = subprocess.run([os.path.join(TOP, "scripts", "qemu-peer")], capture_output=True, text=True, check=False)
    if peer.returncode:
        say("skipped: the comparison with QEMU:", peer.stderr.strip().splitlines()[-1])
        return None
    command = [os.path.join(peer.stdout.strip().splitlines()[-1], "qemu"), "-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", "256",
               "-display", "none", "-nodefaults", "-no-reboot", "-serial", "stdio", "-device", "isa-debug-exit,iobase=0xf4,iosize=4",
               "-append", "mild", "-kernel", os.path.join(pair.guests, "sysguest.elf")]
    try:
        r = subprocess.run(command, input=b"m" * 500, capture_output=True, timeout=240, check=False)
    except subprocess.TimeoutExpired as late:
        raise Failure(f"tcg: not at its end; the last of it is {(late.stdout or b'')[-300:]!r}") from None
    if r.returncode != 1:
        raise Failure(f"tcg: QEMU ended with {r.returncode}: {r.stderr[-300:]!r}")
    return r.stdout.replace(b"\r", b"").decode("latin-1")

def main():
    pair = Pair(build_argument(sys.argv), paired=False)
    bad = 0
    try:
        for side, run in (("soft", on_soft), ("tcg", on_tcg)):
            text = run(pair)
            if text is None:
                continue
            found = complaints(text, side)
            for line in found:
                say(line)
            bad += len(found)
            say(f"{side}: {text.count(chr(10))} lines, {len(found)} differences")
    except Failure as why:
        say(f"test_sysguest: {why}")
        return 1
    finally:
        pair.close()
    return 1 if bad else 0

if __name__ == "__main__":
    sys.exit(main())
