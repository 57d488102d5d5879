#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Devices of a stock guest on the software CPU, against QEMU's TCG with the same kernel, initramfs, image and CPU level, in one run.

soft-randread-dN, soft-randwrite-dN: requests of 4 KiB a second past the guest's page cache, N at a time. soft-seqread: MiB/s in 128 KiB
requests, 4 at a time. The image is in the host's page cache (cache=writeback on both sides; QEMU's disk has an I/O thread too).
One object a line with --json: {"case", "unit", "ferry", "peer", "ratio", "runs", ...}; medians; more is better."""
import argparse
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.path.insert(0, os.path.join(HERE, "..", "integration"))
import qemu  # noqa: E402
from ferry import TOP, Failure, Pair, say, wait_for  # noqa: E402
from shell import Shell, devices_guest  # noqa: E402

CASES = {"soft-randread-d1": "randread 1", "soft-randread-d16": "randread 16", "soft-randwrite-d1": "randwrite 1", "soft-seqread": "seqread 4"}
QEMU_CPU = "qemu64,-svm,-pni,-cx16,-lahf-lm"  # x86-64-v1
MEMORY = 512
IMAGE = 256 << 20
CMDLINE = "console=ttyS0 quiet"


def archive(name, data, mode=0o100755):
    """A cpio archive (newc) of one file."""
    def entry(path, body, file_mode):
        head = "070701" + "".join(f"{v:08x}" for v in (0, file_mode, 0, 0, 1, 0, len(body), 0, 0, 0, 0, len(path) + 1, 0))
        out = head.encode() + path.encode() + b"\0"
        out += b"\0" * (-len(out) % 4) + body
        return out + b"\0" * (-len(out) % 4)
    return entry(name, data, mode) + entry("TRAILER!!!", b"", 0)


def measure(shell, what, seconds):
    """Requests and bytes a second."""
    out = shell.run(f"/bin/diskio /dev/vda {what} {seconds}", 60 + seconds)
    words = next((line.split() for line in out.splitlines() if line.startswith("!disk")), None)
    if not words:
        raise Failure(f"diskio: {out!r}")
    requests, us, size = map(int, words[1:])
    return requests / us * 1e6, size / us * 1e6 / (1 << 20)


class Bench:
    def __init__(self, args):
        self.args = args
        self.qemu = os.path.join(subprocess.run([os.path.join(TOP, "scripts", "qemu-peer")], check=True, capture_output=True,
                                                text=True).stdout.strip(), "qemu")
        self.version = qemu.version(self.qemu)
        self.pair = Pair(args.build, paired=False, namespaces=False)
        self.host = self.pair.alpha
        self.kernel, initrd = devices_guest()
        self.initrd = os.path.join(self.pair.folder, "initrd.gz")
        with open(initrd, "rb") as f, open(os.path.join(args.build, "tests", "guests", "diskio"), "rb") as program, \
                open(self.initrd, "wb") as out:
            out.write(f.read() + gzip.compress(archive("bin/diskio", program.read()), 1, mtime=0))
        self.image = os.path.join(self.pair.disks, "bench.img")
        with open(self.image, "wb") as f:
            for _ in range(IMAGE >> 20):
                f.write(os.urandom(1 << 20))

    def on_ferry(self, cases):
        self.host.vmctl("start", "g", "-m", f"{MEMORY}M", "-p", "1", "-k", self.kernel, "-r", self.initrd, "-a", CMDLINE, "--engine", "soft",
                        "--cpu-model", "x86-64-v1", "-d", self.image)
        console = self.host.console("g")
        try:
            return self.each(console, cases)
        finally:
            console.close()
            self.host.vmctl("stop", "g", "-f", check=False)
            wait_for("the guest's end", 30, lambda: self.host.state("g") in (None, "stopped"))

    def on_qemu(self, cases):
        with tempfile.TemporaryDirectory(prefix="ferry-tcg-") as folder:
            path = os.path.join(folder, "serial")
            process = subprocess.Popen(
                [self.qemu, "-accel", "tcg,thread=multi", "-machine", "q35", "-cpu", QEMU_CPU, "-m", str(MEMORY), "-nodefaults", "-display",
                 "none", "-no-reboot", "-object", "iothread,id=io", "-drive",
                 f"if=none,id=d,file={self.image},format=raw,cache=writeback,aio={self.args.aio}", "-device", "virtio-blk-pci,drive=d,iothread=io",
                 "-chardev", f"socket,id=s,path={path},server=on,wait=off", "-serial", "chardev:s", "-kernel", self.kernel, "-initrd",
                 self.initrd, "-append", CMDLINE], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            try:
                return self.each(qemu.Serial(path), cases)
            except Failure:
                process.kill()
                say(process.stderr.read().decode("utf-8", "replace")[-500:])
                raise
            finally:
                process.kill()
                process.wait()

    def each(self, console, cases):
        console.expect(rb"devices ready", 300)
        shell = Shell(console)
        shell.run("dd if=/dev/vda of=/dev/null bs=1M 2>/dev/null", 120)
        return {case: measure(shell, CASES[case], self.args.seconds)[case == "soft-seqread"] for case in cases}

    def run(self, cases):
        mine, theirs = {c: [] for c in cases}, {c: [] for c in cases}
        for _ in range(self.args.runs):
            for side, into in ((self.on_ferry, mine), (self.on_qemu, theirs)):
                for case, value in side(cases).items():
                    into[case].append(value)
        for case in cases:
            unit = "MiB/s" if case == "soft-seqread" else "requests/s"
            ferry, peer = statistics.median(mine[case]), statistics.median(theirs[case])
            row = {"case": case, "unit": unit, "ferry": round(ferry, 1), "peer": round(peer, 1), "ratio": round(ferry / peer, 3),
                   "runs": self.args.runs, "peer_version": self.version}
            print(json.dumps(row) if self.args.json else
                  f"{case:18} ferry {row['ferry']} {unit}  peer {row['peer']} {unit}  ratio {row['ratio']}  ({self.args.runs} runs)", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--build", required=True)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--aio", default="threads", choices=["threads", "io_uring", "native"], help="QEMU's")
    args = parser.parse_args()
    wrong = [c for c in args.cases if c not in CASES]
    if wrong:
        parser.error(f"no case {wrong[0]}")
    bench = Bench(args)
    try:
        bench.run(args.cases or list(CASES))
    finally:
        bench.pair.close()


main()
