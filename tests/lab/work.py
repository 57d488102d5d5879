#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""tests/integration/work.py on two lab hosts: a Debian guest with PostgreSQL and fio at work on a real KVM moves between them. Its disk is a
block device that both hosts have, its clients run on this machine, on a bridge that it reaches over the hosts' own. Needs root, pgbench and psql.

    work.py [BUILD] [--moves N]     N moves (10)
"""
import argparse
import fcntl
import json
import os
import shlex
import struct
import subprocess
import sys
import time

from lab import Console, Failure, Lab, build_argument, contents, kernel_module, move, pair, say

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))
import pgwork  # noqa: E402
from images import debian_image, description  # noqa: E402
from session import LOGIN, Session  # noqa: E402
from wire import run  # noqa: E402

BUDGET = "--max-downtime 5s --deadline 290s"
SLOW = 4  # the guest's processor is emulated
BOOT = 900
MODULES = ("net/llc/llc", "net/802/stp", "net/bridge/bridge", "drivers/net/tun", "drivers/block/virtio_blk")
TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 2, 0x1000, 0x4000


class Outside:
    """A namespace of this machine with a bridge that has 10.88.0.1, and on it a tap for each lab host."""

    def __init__(self):
        self.net = f"fl{os.getpid() % 100000}"
        self.taps = []
        run("ip", "netns", "add", self.net)
        run("ip", "-n", self.net, "link", "add", "hub", "type", "bridge")
        run("ip", "-n", self.net, "addr", "add", "10.88.0.1/24", "dev", "hub")
        for link in ("hub", "lo"):
            run("ip", "-n", self.net, "link", "set", link, "up")

    def tap(self):
        """A tap's descriptor, which stays good when the tap goes to the namespace."""
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        self.taps.append(fd)
        name = f"{self.net}t{len(self.taps)}"
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
        run("ip", "link", "set", name, "netns", self.net)
        run("ip", "-n", self.net, "link", "set", name, "master", "hub", "up")
        return fd

    def command(self, *argv):
        return ["ip", "netns", "exec", self.net, *argv]

    def close(self):
        for fd in self.taps:
            os.close(fd)
        subprocess.run(["ip", "netns", "del", self.net], check=False)


def boot(lab, name, fd, disk):
    """A host with the shared disk and, in a slot behind all other cards, one that leads outside. Both QEMUs go through this machine's page
    cache, so they see the same bytes; on the hosts Ferry goes past theirs."""
    mac = f"52:54:00:88:00:{lab.numbers[name]:02x}"
    return lab.boot(name, memory=1280, fds=(fd,), devices=[
        "-drive", f"if=none,id=shared,file={disk},format=raw,file.locking=off,cache=writeback,discard=unmap",
        "-device", "virtio-blk-pci,drive=shared,share-rw=on",
        "-netdev", f"tap,id=out,fd={fd}", "-device", f"virtio-net-pci,netdev=out,romfile=,addr=0x10,mac={mac}"])


def set_up(host):
    host.await_ready()
    for module in MODULES:
        host.run(f"insmod /modules/{os.path.basename(module)}.ko")
    host.run("brctl addbr br0; brctl addif br0 eth2; ip link set eth2 up; ip link set br0 up")
    # As in firmware.py.
    host.run("echo 500000 >/sys/module/kvm/parameters/min_timer_period_us")
    return host.daemon(options="--engine kvm --disks /dev")


def at_work(lab, outside, image):
    daemon = lab.hosts["alpha"].daemons[0]
    daemon.vmctl("start w -m 512M -p 1 --engine kvm -d /dev/vda,cache=none -n bridge=br0 -k /guest/debian.vmlinuz -r /guest/debian.initrd "
                 f"-a {shlex.quote(description(image)['cmdline'])}")
    console = Console(daemon, "w")
    console.expect(LOGIN, BOOT)
    say("log-in")
    work = pgwork.Work(Session(console), outside, clients=1, rate=4, fio_size="8M", fio_rate="1m", slow=SLOW)
    say("the guest is at work")
    return work


def check_disk(disk):
    """The guest is off: its file system, as this machine sees it, is whole."""
    table = json.loads(run("sfdisk", "--json", disk).stdout)["partitiontable"]
    start = next(p["start"] for p in table["partitions"] if p["name"] == "root") * table["sectorsize"]
    r = run("e2fsck", "-fn", f"{disk}?offset={start}", check=False, timeout=300)
    if r.returncode:
        raise Failure(f"e2fsck: {r.returncode} {r.stdout} {r.stderr}")


def moves(lab, work, number):
    source, target = lab.alpha, lab.beta
    console = work.session.console
    begin, known = time.monotonic(), work.client.acknowledged
    work.client.take_longest()
    pgwork.ferry.wait_for("transactions", BOOT, lambda: work.client.error or work.client.acknowledged >= known + 100)
    say(f"before the moves 100 transactions take {time.monotonic() - begin:.0f} s, the longest of them {work.client.take_longest() * 1000:.0f} ms")
    for i in range(number):
        before, began = work.client.acknowledged, time.monotonic()
        wait, down, total = work.moved(lambda s=source, t=target: move(s, t, "w", BUDGET))
        console.close()
        source, target = target, source
        console = Console(source, "w")
        say(f"move {i + 1} to {source.name}: {total:.0f} ms, down {down:.0f} ms, the client's longest wait {wait:.0f} ms, from "
            f"{(work.client.longest_began - began) * 1000:.0f} ms on, {work.client.acknowledged - before} of its transactions meanwhile")
    return source, console


def main():
    pgwork.need_tools("work.py")
    parser = argparse.ArgumentParser()
    parser.add_argument("build", nargs="*")
    parser.add_argument("--moves", type=int, default=10)
    args = parser.parse_args()
    build = build_argument([sys.argv[0], *args.build])
    image = debian_image(build, pgwork.OPTIONS)
    lab = Lab(build)
    outside = work = None
    try:
        disk = os.path.join(lab.folder, "shared.img")
        subprocess.run(["cp", "--sparse=always", image, disk], check=True)
        files = {f"modules/{os.path.basename(m)}.ko": (0o100644, kernel_module(m + ".ko")) for m in MODULES}
        files |= {f"guest/debian.{what}": (0o100644, contents(description(image)[key])) for what, key in
                  (("vmlinuz", "kernel"), ("initrd", "initrd"))}
        lab.add(files)
        lab.plan("alpha", "beta")
        outside = Outside()
        hosts = [boot(lab, name, outside.tap(), disk) for name in ("alpha", "beta")]
        lab.alpha, lab.beta = (set_up(h) for h in hosts)
        pair(lab.alpha, lab.beta)
        work = at_work(lab, outside, image)
        last, console = moves(lab, work, args.moves)
        say(work.finish(console))
        console.send(b"poweroff\n")
        pgwork.ferry.wait_for("the guest's power-off", BOOT, lambda: last.state("w") == "stopped", 0.5)
        check_disk(disk)
        say("powered off; its file system is whole")
    finally:
        if work:
            work.close()
        lab.close()
        if outside:
            outside.close()


main()
