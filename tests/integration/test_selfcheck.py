#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The tester tested: the self-checking guest says intact where nothing was done to it, in each of its modes, and turns
red for each thing that a migration could do wrong to a page. Both from inside (its verdict) and outside (check_memory)."""
import glob
import json
import os
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from ferry import Failure, Pair, build_argument, need_kvm, say  # noqa: E402

PAGE = 4096
AREA = 16 << 20  # first byte of the working area, also its offset in the memfd


def memory_of(guest):
    """A path to the guest's memfd that can be written."""
    for path in glob.glob(f"/proc/{guest['pid']}/fd/*"):
        if os.readlink(path).startswith(f"/memfd:ferry:{guest['name']}"):
            return path
    raise Failure("the guest's memfd is not to be found")


def outside(pair, path):
    """check_memory's exit status and report."""
    r = subprocess.run([os.path.join(pair.guests, "check_memory"), path], capture_output=True, text=True, check=False)
    return r.returncode, json.loads(r.stdout) if r.stdout else r.stderr


def verdict(console):
    start = console.length()
    console.send(b"v")
    return console.expect(rb"!verdict (\w+) passes=(\d+) pages=(\d+) bad=(\d+)", 60, start)


def pages_written(console):
    start = console.length()
    return int(console.expect(rb"#w (\d+) \d+ \d+ \d+\n", 10, start).group(1))


def zero_page(fd):
    os.pwrite(fd, bytes(PAGE), AREA + 100 * PAGE)


def flip_bit(fd):
    at = AREA + 777 * PAGE + 64 * 20 + 9
    os.pwrite(fd, bytes([os.pread(fd, 1, at)[0] ^ 4]), at)


def swap_pages(fd):
    a, b = (os.pread(fd, PAGE, AREA + n * PAGE) for n in (5, 6))
    os.pwrite(fd, b, AREA + 5 * PAGE)
    os.pwrite(fd, a, AREA + 6 * PAGE)


def run_guest(pair, name, cmdline, vcpus):
    console = pair.start(pair.alpha, name, cmdline, "256M", vcpus)
    console.expect(rb"!filled \d+ pages", 60)
    return console


def intact(pair, number, cmdline, vcpus):
    name = f"i{number}"
    console = run_guest(pair, name, cmdline, vcpus)
    if verdict(console).group(1) != b"intact":
        raise Failure(f"{cmdline}: red without a cause")
    for _ in range(3):
        pair.alpha.vmctl("pause", name)
        code, report = outside(pair, memory_of(pair.alpha.guest(name)))
        if code or report["state"] != "intact":
            raise Failure(f"{cmdline}: from outside: {report}")
        pair.alpha.vmctl("unpause", name)
    pair.alpha.vmctl("stop", name, "-f")
    console.close()
    say("intact:", cmdline, vcpus)


def red(pair, number, cmdline, mutate):
    name = f"r{number}"
    console = run_guest(pair, name, cmdline, 1)
    stale = mutate == "stale"
    path = memory_of(pair.alpha.guest(name))
    fd = os.open(path, os.O_RDWR)
    pair.alpha.vmctl("pause", name)
    if stale:
        old = os.pread(fd, PAGE, AREA + 31 * PAGE)
        pair.alpha.vmctl("unpause", name)
        target = pages_written(console) + 2 * (16 << 8)  # two whole passes later
        end = time.monotonic() + 30
        while pages_written(console) < target:
            if time.monotonic() > end:
                raise Failure("the guest makes no progress")
        pair.alpha.vmctl("pause", name)
        os.pwrite(fd, old, AREA + 31 * PAGE)
    else:
        mutate(fd)
    code, report = outside(pair, path)
    os.close(fd)
    if code != 1:
        raise Failure(f"{name}: not seen from outside: {report}")
    pair.alpha.vmctl("unpause", name)
    if verdict(console).group(1) != b"corrupt":
        raise Failure(f"{name}: the guest did not notice")
    console.expect(rb"!bad [0-9a-f]+ expected", 1)
    pair.alpha.vmctl("stop", name, "-f")
    console.close()
    say("red as it must be:", cmdline, "stale" if stale else mutate.__name__)


def main():
    reason = need_kvm()
    if reason:
        print(reason)
        return 77
    pair = Pair(build_argument(sys.argv), paired=False)
    try:
        for i, (cmdline, vcpus) in enumerate((("mem=64 rate=200", 1), ("mem=64 rate=max fill=mixed verify=full", 2),
                                              ("mem=64 rate=100 mode=random fill=random dirty=32", 3),
                                              ("mem=32 rate=50 mode=flip", 2), ("mem=64 mode=idle fill=zero", 1))):
            intact(pair, i, cmdline, vcpus)
        for i, (cmdline, mutate) in enumerate((("mem=16 rate=100", zero_page), ("mem=16 rate=100", flip_bit),
                                               ("mem=16 rate=100 fill=random", swap_pages), ("mem=16 rate=100", "stale"),
                                               ("mem=16 mode=idle", flip_bit), ("mem=16 rate=20 mode=flip", flip_bit))):
            red(pair, i, cmdline, mutate)
    finally:
        pair.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
