#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Disks of a stock Linux guest on files: contents, flushes, discards, read-only, two users, and moves on shared storage while the guest
writes."""
import hashlib
import os
import random
import re
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ferry  # noqa: E402
from shell import Shell, devices_guest  # noqa: E402

MIB = 1 << 20
SIZE = 64 * MIB
SLOT = 64 << 10
SLOTS = 256
# Writes slot after slot, each with its number in every word, flushed, and says so.
WRITER = (r"(n=0; while [ ! -e /tmp/stop ]; do n=$((n+1)); printf '%065536d' $n | dd of=/dev/vda bs=64k seek=$((n%256)) conv=notrunc,fsync 2>/dev/null "
          r"&& echo w$n. || echo FAI''LED; done; echo stop''ped) &")


def make_image(path, size, seed):
    data = random.Random(seed).randbytes(size)
    with open(path, "wb") as f:
        f.write(data)
    return data


def md5(data):
    return hashlib.md5(data).hexdigest()


def read_at(path, at, size):
    with open(path, "rb") as f:
        f.seek(at)
        return f.read(size)


def guest_md5(shell, disk, at_mib, count_mib):
    shell.run("echo 3 >/proc/sys/vm/drop_caches")
    return shell.run(f"dd if=/dev/{disk} bs=1M skip={at_mib} count={count_mib} 2>/dev/null | md5sum", 120).split()[0]


def holes(path, at, size):
    """Bytes of the range that the file does not hold."""
    with open(path, "rb") as f:
        missing, end = 0, at + size
        while at < end:
            try:
                data = min(os.lseek(f.fileno(), at, os.SEEK_DATA), end)
            except OSError:
                data = end
            missing += data - at
            at = end if data == end else min(os.lseek(f.fileno(), data, os.SEEK_HOLE), end)
        return missing


def check_kinds(pair, shell):
    """What the guest sees of each disk."""
    sys_block = "/sys/block/"
    assert int(shell.run(f"cat {sys_block}vda/size")) * 512 == SIZE
    assert shell.run(f"cat {sys_block}vda/serial").strip() == "data"
    assert shell.run(f"cat {sys_block}vdb/serial").strip() == "disk1"
    assert [shell.run(f"cat {sys_block}{d}/ro").strip() for d in ("vda", "vdb", "vdc")] == ["0", "1", "0"]
    assert int(shell.run(f"ls {sys_block}vda/mq | wc -l")) == 2, "queues of vda"
    show = pair.alpha.json("show", "g")[0]
    assert [d["name"] for d in show["disks"]] == ["data", "disk1", "disk2"] and show["disks"][2]["cache"] == "none", show["disks"]
    assert "read-only" in pair.alpha.vmctl("show", "g").stdout


def check_contents(shell, images):
    for disk, (path, data) in images.items():
        assert guest_md5(shell, disk, 0, 8) == md5(data[:8 * MIB]), f"{disk} reads wrong"
        if disk == "vdb":
            continue
        out = shell.run(f"dd if=/dev/urandom of=/dev/{disk} bs=1M seek=16 count=8 conv=fsync 2>&1; "
                        f"dd if=/dev/urandom of=/dev/{disk} bs=512 seek=1001 count=7 conv=notrunc,fsync 2>&1", 120)
        assert "error" not in out and "FAILED" not in out, out
        assert guest_md5(shell, disk, 0, 24) == md5(read_at(path, 0, 24 * MIB)), f"{disk}: guest and file differ"
        assert read_at(path, 0, MIB // 4) == data[:MIB // 4] and read_at(path, 17 * MIB, MIB) != data[17 * MIB:18 * MIB]


def check_discard(shell, path):
    before = holes(path, 32 * MIB, 8 * MIB)
    assert before == 0, "the image was to be full"
    out = shell.run(f"blkdiscard -o {32 * MIB} -l {8 * MIB} /dev/vda && echo discarded")
    assert "discarded" in out, out
    assert holes(path, 32 * MIB, 8 * MIB) == 8 * MIB, "the discarded range still takes space"
    assert holes(path, 31 * MIB, MIB) == 0 and holes(path, 40 * MIB, MIB) == 0, "more was discarded than asked for"
    assert guest_md5(shell, "vda", 32, 8) == md5(bytes(8 * MIB))


def check_read_only(shell, path, data):
    out = shell.run("dd if=/dev/zero of=/dev/vdb bs=4k count=1 conv=fsync 2>&1 && echo WRITTEN; true")
    assert "WRITTEN" not in out, out
    assert read_at(path, 0, MIB) == data[:MIB]


def refused(host, words, *args):
    r = host.vmctl("start", "other", "-k", devices_guest()[0], *args, check=False)
    assert r.returncode and all(w in r.stderr for w in words), f"{args}: {r.returncode} {r.stderr!r}"
    assert host.guest("other") is None, "a refused start left an entry"


def check_two_users(pair, images):
    path = images["vda"][0]
    for host in (pair.alpha, pair.beta):
        refused(host, ["in use"], "-d", path)
        refused(host, ["in use"], "-d", path + ",ro")
        refused(host, ["in use"], "-d", images["vdb"][0])
    pair.beta.vmctl("start", "reader", "-k", devices_guest()[0], "--engine", "soft", "-d", images["vdb"][0] + ",ro")
    pair.beta.vmctl("stop", "-f", "reader")


def check_wrong_words(pair):
    odd = os.path.join(pair.disks, "odd.raw")
    with open(odd, "wb") as f:
        f.write(bytes(1000))
    noend = os.path.join(pair.disks, "noend")
    os.rename(os.path.join(pair.disks, "spare.img"), noend)
    refused(pair.alpha, ["multiple of 512"], "-d", odd)
    refused(pair.alpha, ["format"], "-d", noend)
    refused(pair.alpha, ["No such file"], "-d", "x.qcow2")
    refused(pair.alpha, ["No such file"], "-d", os.path.join(pair.disks, "none.img"))
    refused(pair.alpha, ["cache=foo"], "-d", noend + ",format=raw,cache=foo")
    refused(pair.alpha, ["neither a file"], "-d", pair.disks + ",format=raw")
    refused(pair.alpha, ["two disks"], "-d", noend + ",format=raw,name=x", "-d", odd + ",ro,name=x")


def check_plan(pair, images):
    pair.alpha.vmctl("migrate", "--plan", "g", "beta")
    path = images["vdc"][0]
    os.rename(path, path + ".gone")
    r = pair.alpha.vmctl("migrate", "--plan", "g", "beta", check=False)
    assert r.returncode == 5 and "disk disk2" in r.stderr and path in r.stderr, f"{r.returncode} {r.stderr!r}"
    make_image(path, MIB, 1)
    r = pair.alpha.vmctl("migrate", "--plan", "g", "beta", check=False)
    assert r.returncode == 5 and f"{MIB} bytes here" in r.stderr, f"{r.returncode} {r.stderr!r}"
    r = pair.alpha.vmctl("migrate", "g", "beta", check=False)
    assert r.returncode == 5 and pair.alpha.state("g") == "running", f"{r.returncode} {r.stderr!r}"
    os.rename(path + ".gone", path)
    outside = os.path.join(pair.folder, "outside.img")
    make_image(outside, MIB, 2)
    pair.alpha.vmctl("start", "outside", "-k", os.path.join(pair.guests, "selfcheck.elf"), "-a", "mem=16", "-m", "64M", "--engine", "soft",
                     "-d", outside)
    r = pair.alpha.vmctl("migrate", "outside", "beta", check=False)
    assert r.returncode == 5 and "lies in no folder" in r.stderr, f"{r.returncode} {r.stderr!r}"
    pair.alpha.vmctl("stop", "-f", "outside")


def check_file(path, n):
    """Each slot holds the last number that was written to it."""
    for slot in range(SLOTS):
        last = n - (n - slot) % SLOTS
        if last <= 0:
            continue
        got = read_at(path, slot * SLOT, SLOT)
        want = b"%065536d" % last
        assert got == want, f"slot {slot}: {got[-12:]!r} where {want[-12:]!r} was written"


def check_moves(pair, shell, path, moves):
    source, target = pair.alpha, pair.beta
    start = shell.console.length()
    shell.console.send(WRITER.encode() + b"\n")
    shell.console.expect(rb"w3\.", 60, start)
    last = 0
    for _ in range(moves):
        source.vmctl("migrate", "g", target.name)
        console = target.console("g", scrollback=False)
        m = console.expect(rb"w(\d+)\.(?s:.*)w(\d+)\.", 60)
        assert int(m.group(2)) > int(m.group(1)) > last, f"{m.group(0)!r} after {last}"
        last = int(m.group(1))
        assert b"FAILED" not in shell.console.text, "a write failed"
        shell.console.close()
        shell.console = console
        # The lock has moved along.
        refused(source, ["in use"], "-d", path)
        source, target = target, source
    shell.run("touch /tmp/stop")
    shell.console.expect(b"stopped", 60)
    assert b"FAILED" not in shell.console.text
    numbers = [int(n) for n in re.findall(rb"w(\d+)\.", shell.console.text)]
    assert numbers == list(range(numbers[0], numbers[-1] + 1)), "numbers are missing"
    n = numbers[-1]
    check_file(path, n)
    return n, source


def trace(host):
    host.stop_daemon()
    host.trace = os.path.join(host.pair.folder, host.name + ".strace")
    host.wrapper = ["strace", "-D", "-f", "--seccomp-bpf", "-y", "-ttt", "-e", "trace=openat,fdatasync,fcntl", "-o", host.trace]
    host.start_daemon()


def times(host, pattern):
    with open(host.trace, encoding="utf-8", errors="replace") as f:
        return [float(line.split()[1]) for line in f if re.search(pattern, line)]


def check_order(build):
    """The source's data is durable and its lock given up before the target's daemon opens the file, its first open of it."""
    pair = ferry.Pair(build)
    try:
        for host in pair.hosts:
            trace(host)
        path = os.path.join(pair.disks, "a.img")
        make_image(path, MIB, 3)
        selfcheck = os.path.join(pair.guests, "selfcheck.elf")
        pair.alpha.vmctl("start", "g", "-m", "64M", "-k", selfcheck, "-a", "mem=16 rate=50", "--engine", "soft", "-d", path)
        pair.alpha.vmctl("migrate", "g", "beta", "--plan")
        name = re.escape(path)
        assert not times(pair.beta, name), "planning opens the disk at the target"
        pair.alpha.vmctl("migrate", "g", "beta")
        ferry.wait_for("it runs at the target", 10, lambda: pair.beta.state("g") == "running")
        pair.alpha.vmctl("stop", "g", check=False)
        durable = times(pair.alpha, r"fdatasync\(\d+<" + name + r">\)\s+= 0")
        unlocked = times(pair.alpha, name + r">, F_OFD_SETLK, \{l_type=F_UNLCK.*= 0")
        opened = times(pair.beta, name)
        assert durable and unlocked and opened, f"{durable} {unlocked} {opened}"
        assert durable[-1] < unlocked[0] < opened[0], f"durable {durable}, unlocked {unlocked}, opened {opened}"
        ferry.say(f"durable {(opened[0] - durable[-1]) * 1000:.2f} ms, unlocked {(opened[0] - unlocked[0]) * 1000:.2f} ms before the open")
    finally:
        pair.close()


def main():
    build = ferry.build_argument(sys.argv)
    moves = int(sys.argv[sys.argv.index("--moves") + 1]) if "--moves" in sys.argv else 4
    kernel, initrd = devices_guest()
    pair = ferry.Pair(build)
    try:
        names = {"vda": "a.img", "vdb": "b.img", "vdc": "c.raw"}
        images = {}
        for seed, (disk, name) in enumerate(names.items()):
            path = os.path.join(pair.disks, name)
            images[disk] = (path, make_image(path, SIZE, seed))
        make_image(os.path.join(pair.disks, "spare.img"), MIB, 9)
        pair.alpha.vmctl("start", "g", "-k", kernel, "-r", initrd, "-m", "512M", "-p", "2", "--engine", "soft", "-a", "console=ttyS0 quiet",
                         "-d", images["vda"][0] + ",name=data", "-d", images["vdb"][0] + ",ro", "-d", images["vdc"][0] + ",cache=none")
        console = pair.alpha.console("g")
        console.expect(b"devices ready", 120)
        shell = Shell(console)
        check_kinds(pair, shell)
        check_contents(shell, images)
        check_discard(shell, images["vda"][0])
        check_read_only(shell, *images["vdb"])
        ferry.say("contents, flush, discard, read-only, cache=none: right")
        check_two_users(pair, images)
        check_wrong_words(pair)
        ferry.say("second users and wrong words are refused")
        check_plan(pair, images)
        n, _ = check_moves(pair, shell, images["vda"][0], moves)
        ferry.say(f"{moves} moves while the guest wrote {n} blocks of 64 KiB, each in its place")
        pair.check_one_runner()
    finally:
        pair.close()
    check_order(build)


if __name__ == "__main__":
    main()
