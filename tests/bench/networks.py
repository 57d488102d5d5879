#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Devices against QEMU's, both with a software CPU: the same kernel, initramfs (the devices guest), memory and host side, interleaved in
one run.

net-rx, net-tx: TCP from the host to the guest and back, over a tap each; -user: over the user network. From the first byte sent or asked for
to the guest's end of the connection, MiB/s.
One object a line with --json: {"case", "unit", "ferry", "peer", "ratio", "runs", ...}; medians; above 1 Ferry is faster."""
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
from ferry import TOP, Failure, Pair, free_port, say, wait_for  # noqa: E402
from shell import Shell, devices_guest  # noqa: E402

CASES = ["net-rx", "net-tx", "net-rx-user", "net-tx-user"]
MEMORY = 512
QEMU_CPU = "qemu64,-svm,-pni,-cx16,-lahf-lm"  # x86-64-v1
CMDLINE = "console=ttyS0 quiet"
# argv: address, port, MiB, "rx" (the guest receives) or "tx"; prints MiB/s
MOVE = """
import socket, sys, time
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 60)
s.settimeout(300)
mib, chunk, got = int(sys.argv[3]), b"\\xa5" * (1 << 20), 0
begin = time.monotonic()
if sys.argv[4] == "rx":
    for _ in range(mib):
        s.sendall(chunk)
    s.shutdown(socket.SHUT_WR)
    while s.recv(1 << 16):
        pass
else:
    while part := s.recv(1 << 18):
        got += len(part)
    assert got == mib << 20, got
print(mib / (time.monotonic() - begin))
"""


class Tcg:
    """A guest under QEMU's TCG with a network card."""

    def __init__(self, host, binary, kernel, initrd, netdev):
        self.folder = tempfile.TemporaryDirectory(prefix="ferry-tcg-")
        path = os.path.join(self.folder.name, "serial")
        self.process = subprocess.Popen(
            host.command(binary, "-accel", "tcg,thread=multi", "-cpu", QEMU_CPU, "-m", str(MEMORY), "-nodefaults", "-display", "none",
                         "-no-reboot", "-chardev", f"socket,id=s,path={path},server=on,wait=off", "-serial", "chardev:s", "-kernel",
                         kernel, "-initrd", initrd, "-append", CMDLINE, "-netdev", netdev + ",id=n", "-device",
                         "virtio-net-pci,netdev=n,romfile="),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        self.console = qemu.Serial(path)

    def close(self):
        self.process.kill()
        self.process.wait()
        self.console.close()
        self.folder.cleanup()


class Bench:
    def __init__(self, args):
        self.args = args
        self.qemu = os.path.join(subprocess.run([os.path.join(TOP, "scripts", "qemu-peer")], check=True, capture_output=True,
                                                text=True).stdout.strip(), "qemu")
        self.version = qemu.version(self.qemu)
        self.kernel, self.initrd = devices_guest()
        self.pair = Pair(args.build, paired=False)
        self.host = self.pair.alpha
        if not self.host.netns:
            self.pair.close()
            raise Failure("network namespaces are needed")
        for i, name in enumerate(("tf", "tq")):
            for command in (f"tuntap add {name} mode tap vnet_hdr", f"addr add 10.89.{i}.1/24 dev {name}", f"link set {name} up"):
                subprocess.run(["ip", "-n", self.host.netns, *command.split()], check=True)

    def measure(self, shell, address, port, direction):
        mib = self.args.mib
        if direction == "rx":
            shell.run("nc -l -p 5001 >/dev/null & true")
        else:
            shell.run(f"dd if=/dev/zero bs=64k count={16 * mib} 2>/dev/null | nc -l -p 5001 & true")
        wait_for("the guest listens", 30,
                 lambda: shell.run("cat /proc/net/tcp /proc/net/tcp6 | grep -c ':1389 .* 0A '").strip() != "0")
        r = subprocess.run(self.host.command(sys.executable, "-c", MOVE, address, str(port), str(mib), direction), capture_output=True,
                           text=True, check=False, timeout=600)
        if r.returncode:
            raise Failure(r.stderr.strip())
        return float(r.stdout)

    def guest(self, console, address):
        console.expect(b"devices ready", 300)
        shell = Shell(console)
        shell.run(f"ip addr add {address}/24 dev eth0; ip link set eth0 up")
        return shell

    def ferry_run(self, user, direction):
        port = free_port() if user else 5001
        self.host.vmctl("start", "g", "-m", f"{MEMORY}M", "-k", self.kernel, "-r", self.initrd, "-a", CMDLINE, "--engine", "soft",
                        "--cpu-model", "x86-64-v1", "-n", f"user,forward=tcp:{port}:5001" if user else "tap=tf")
        console = self.host.console("g")
        try:
            shell = self.guest(console, "10.0.2.15" if user else "10.89.0.2")
            return self.measure(shell, "127.0.0.1" if user else "10.89.0.2", port, direction)
        finally:
            console.close()
            self.host.vmctl("stop", "g", "-f", check=False)
            wait_for("the guest's end", 30, lambda: self.host.state("g") in (None, "stopped"))

    def peer_run(self, user, direction):
        port = free_port() if user else 5001
        t = Tcg(self.host, self.qemu, self.kernel, self.initrd,
                f"user,hostfwd=tcp:127.0.0.1:{port}-:5001" if user else "tap,ifname=tq,script=no,downscript=no,vhost=off")
        try:
            shell = self.guest(t.console, "10.0.2.15" if user else "10.89.1.2")
            return self.measure(shell, "127.0.0.1" if user else "10.89.1.2", port, direction)
        finally:
            t.close()

    def run(self, case):
        user, direction = case.endswith("-user"), case.split("-")[1]
        mine, theirs = [], []
        try:
            for _ in range(self.args.runs):
                mine.append(self.ferry_run(user, direction))
                theirs.append(self.peer_run(user, direction))
        except Failure as why:
            say(f"{case}: {why}")
            return False
        ferry, peer = statistics.median(mine), statistics.median(theirs)
        row = {"case": case, "unit": "MiB/s", "ferry": round(ferry, 2), "peer": round(peer, 2), "ratio": round(ferry / peer, 3),
               "runs": self.args.runs, "mib": self.args.mib, "peer_version": self.version}
        if self.args.json:
            print(json.dumps(row), flush=True)
        else:
            print(f"{case:14} ferry {row['ferry']} MiB/s  peer {row['peer']} MiB/s  ratio {row['ratio']}  ({self.args.runs} runs)", flush=True)
        return True


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("cases", nargs="*", metavar="CASE", help=" ".join(CASES))
    p.add_argument("--json", action="store_true")
    p.add_argument("--runs", type=int, default=3)
    p.add_argument("--mib", type=int, default=32)
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
