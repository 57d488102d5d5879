#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The software CPU against QEMU's TCG: the same kernel, initramfs, memory and CPU level, interleaved in one run.

boot-interpreter: from the verb (or QEMU's start) to the initramfs's first line. loop-*: between the guest's own two lines.
logdirty-*: CPU time of the vCPU over a boot with a tracker open (untaken) or taken every 100 ms, against the same boot without.
One object a line with --json: {"case", "unit", "ferry", "peer", "ratio", "runs", ...}; medians."""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.path.insert(0, os.path.join(HERE, "..", "integration"))
import qemu  # noqa: E402
from ferry import TOP, Failure, Pair, say, stock_kernel, wait_for  # noqa: E402

CASES = ["boot-interpreter", "loop-fnv1a", "loop-sha256", "logdirty-untaken", "logdirty-taken"]
MEMORY = 512
MIB = {"fnv1a": 64, "sha256": 32}
QEMU_CPU = "qemu64,-svm,-pni,-cx16,-lahf-lm"  # x86-64-v1


class Tcg:
    """One boot under QEMU's TCG; lines with their arrival times."""

    def __init__(self, binary, kernel, initramfs, cmdline):
        self.folder = tempfile.TemporaryDirectory(prefix="ferry-tcg-")
        path = os.path.join(self.folder.name, "serial")
        self.begin = time.monotonic_ns()
        self.process = subprocess.Popen(
            [binary, "-accel", "tcg,thread=multi", "-cpu", QEMU_CPU, "-m", str(MEMORY), "-nodefaults", "-display", "none", "-no-reboot",
             "-chardev", f"socket,id=s,path={path},server=on,wait=off", "-serial", "chardev:s", "-kernel", kernel, "-initrd", initramfs,
             "-append", cmdline], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.console = qemu.Serial(path)

    def close(self):
        self.process.kill()
        self.process.wait()
        self.console.close()
        self.folder.cleanup()


def arrival(console, pattern, timeout):
    """When the first byte of what matches came, ns."""
    m = console.expect(pattern, timeout)
    at = 0
    for when, data in list(console.chunks):
        at += len(data)
        if at > m.start():
            return when
    raise Failure("a console lost its place")


class Bench:
    def __init__(self, args):
        self.args = args
        self.qemu = os.path.join(subprocess.run([os.path.join(TOP, "scripts", "qemu-peer")], check=True, capture_output=True,
                                                text=True).stdout.strip(), "qemu")
        self.version = qemu.version(self.qemu)
        self.kernel, self.initramfs = stock_kernel()
        self.loops = os.path.join(os.path.dirname(self.kernel), "loops.gz")
        self.pair = Pair(args.build, paired=False, namespaces=False)
        self.host = self.pair.alpha

    def row(self, case, unit, ferry, peer, **more):
        row = {"case": case, "unit": unit, "ferry": round(ferry, 3), "peer": round(peer, 3), "ratio": round(ferry / peer, 3),
               "runs": self.args.runs, "peer_version": self.version, **more}
        if self.args.json:
            print(json.dumps(row), flush=True)
        else:
            extra = " ".join(f"{k}={v}" for k, v in more.items())
            print(f"{case:18} ferry {row['ferry']} {unit}  peer {row['peer']} {unit}  ratio {row['ratio']}  ({self.args.runs} runs) {extra}",
                  flush=True)

    def start(self, initramfs, cmdline):
        begin = time.monotonic_ns()
        self.host.vmctl("start", "g", "-m", f"{MEMORY}M", "-p", "1", "-k", self.kernel, "-r", initramfs, "-a", cmdline, "--engine", "soft",
                        "--cpu-model", "x86-64-v1")
        return begin, self.host.console("g")

    def stop(self, console):
        console.close()
        self.host.vmctl("stop", "g", "-f", check=False)
        wait_for("the guest's end", 30, lambda: self.host.state("g") in (None, "stopped"))

    def boot(self, case):
        mine, theirs = [], []
        for _ in range(self.args.runs):
            begin, console = self.start(self.initramfs, "console=ttyS0 quiet")
            mine.append((arrival(console, rb"!init", 300) - begin) / 1e6)
            self.stop(console)
            t = Tcg(self.qemu, self.kernel, self.initramfs, "console=ttyS0 quiet")
            try:
                theirs.append((arrival(t.console, rb"!init", 300) - t.begin) / 1e6)
            finally:
                t.close()
        self.row(case, "ms", statistics.median(mine), statistics.median(theirs))

    def loop(self, case):
        name = case.split("-")[1]
        cmdline = f"console=ttyS0 quiet loop={name} mib={MIB[name]}"
        mine, theirs, hashes = [], [], set()

        def span(console):
            first = arrival(console, rb"!begin [^\n]*\n", 300)
            last = arrival(console, rb"!end [0-9a-f]+\s", 300)
            hashes.add(console.expect(rb"!end ([0-9a-f]+)\s", 1).group(1))
            return (last - first) / 1e6
        for _ in range(self.args.runs):
            _, console = self.start(self.loops, cmdline)
            mine.append(span(console))
            self.stop(console)
            t = Tcg(self.qemu, self.kernel, self.loops, cmdline)
            try:
                theirs.append(span(t.console))
            finally:
                t.close()
        if len(hashes) != 1:
            raise Failure(f"{name}: results differ: {hashes}")
        self.row(case, "ms", statistics.median(mine), statistics.median(theirs), mib=MIB[name])

    def vcpu_ms(self, mode):
        _, console = self.start(self.initramfs, "console=ttyS0 quiet")
        tool = None
        if mode:
            tool = subprocess.Popen([os.path.join(self.args.build, "tests", "tracker"), self.host.control_socket("g"), mode],
                                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            if tool.stdout.readline() != "open\n":
                raise Failure("no tracker")
        console.expect(rb"!init", 300)
        used = self.host.json("show", "g")[0]["vcpu_cpu_ms"]
        if tool:
            tool.communicate()
        self.stop(console)
        return used

    def logdirty(self, case):
        mode = case.split("-")[1]
        pairs = [(self.vcpu_ms(mode), self.vcpu_ms(None)) for _ in range(self.args.pairs)]
        self.args.runs, runs = len(pairs), self.args.runs
        ratio = statistics.median(a / b for a, b in pairs)
        self.row(case, "ms", statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs),
                 median_of_ratios=round(ratio, 3), note="peer: Ferry without a tracker")
        self.args.runs = runs

    def run(self, case):
        try:
            {"boot": self.boot, "loop": self.loop, "logdirty": self.logdirty}[case.split("-")[0]](case)
        except Failure as why:
            say(f"{case}: {why}")
            return False
        return True


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("cases", nargs="*", metavar="CASE", help=" ".join(CASES))
    p.add_argument("--json", action="store_true")
    p.add_argument("--runs", type=int, default=5)
    p.add_argument("--pairs", type=int, default=10, help="of logdirty-*")
    p.add_argument("--build", default=os.path.join(TOP, "build", "release"))
    args = p.parse_args()
    unknown = [c for c in args.cases if c not in CASES]
    if unknown:
        p.error(f"no such case: {' '.join(unknown)}")
    bench = Bench(args)
    try:
        results = [bench.run(c) for c in args.cases or CASES]
    finally:
        bench.pair.close()
    sys.exit(0 if all(results) else 1)


main()
