#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""One lab host: what guests get of it. A guest of 1 GiB gives memory back by its balloon, two guests share a disk by weight. Arguments: the build
folder, checks."""
import os
import re
import sys

from lab import Console, Failure, Lab, build_argument, kernel_module, run_checks, say, wait_for

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))
from shell import Shell  # noqa: E402

MODULES = ("fs/configfs/configfs", "drivers/block/null_blk/null_blk")


def balloon(lab):
    """A guest of 1 GiB whose memory is full of its disk's cache keeps 256 MiB when asked to, has the rest back later, and still works."""
    mib = 1 << 20
    lab.alpha.host.run("truncate -s 320M /tmp/sparse.img")
    lab.alpha.vmctl("start big -m 1G -p 1 -k /guest/vmlinuz -r /guest/devices.gz -a 'console=ttyS0 quiet' -d /tmp/sparse.img,ro")
    console = Console(lab.alpha, "big")
    console.expect(b"devices ready", 240)
    shell = Shell(console)

    def reading(balloon=None):
        """What the guest says is free and cached, and what the host holds of it, in MiB, once the balloon has so many."""
        if balloon is not None:
            wait_for(f"the balloon to have {balloon} MiB", 120,
                     lambda: lab.alpha.json("top --count 1 --interval 1s")[-1]["guests"][0]["balloon_bytes"] == balloon * mib)
        rows = dict(re.findall(r"(\w+): +(\d+) kB", shell.run("cat /proc/meminfo")))
        free, cached, total = (int(rows[name]) >> 10 for name in ("MemFree", "Buffers", "MemTotal"))
        held = lab.alpha.guest("big")["memory_resident"] // mib
        say(f"of {total} MiB {free} are free and {cached} cache; the host holds {held}")
        return free, cached, held

    # The kernel that it booted from is kept, and counts.
    images = lab.alpha.json("show big")[-1]["boot_image_bytes"] // mib + 1
    # What was read stays in the guest's memory for as long as the disk is open.
    shell.run("exec 9</dev/vda; dd if=/dev/vda of=/dev/null bs=1M 2>/dev/null", 240)
    _, cached, held = reading()
    if cached < 320 or held < 320:
        raise Failure("the guest's memory is not in use")
    lab.alpha.vmctl("set big --memory 256M")
    free, cached, held = reading(768)
    if free + cached > 256 or held > 256 + images:
        raise Failure("the guest keeps more than 256 MiB")
    lab.alpha.vmctl("set big --memory 1G")
    # Free page reporting takes free pages aside for a while, up to 128 MiB at a time.
    wait_for("the guest to have 700 MiB free", 30, lambda: reading(0)[0] >= 700)
    shell.run("dd if=/dev/zero of=/tmp/fill bs=1M count=320 2>/dev/null", 240)
    _, _, held = reading()
    if held < 320:
        raise Failure("the guest does not use the memory that it got back")
    console.close()
    lab.alpha.vmctl("stop -f -w big")


def io_weights(lab):
    """Two guests read one disk as fast as they may: by weight, once the kernel hands the disk's time out by cost."""
    host = lab.alpha.host
    host.run("insmod /modules/configfs.ko; insmod /modules/null_blk.ko nr_devices=1 gb=1 queue_mode=2 irqmode=2 completion_nsec=500000 hw_queue_depth=64")
    device = host.run("cat /sys/block/nullb0/dev").stdout.strip()
    weights = {"thin": 100, "thick": 400}
    consoles = []
    for name in weights:
        lab.alpha.vmctl(f"start {name} -m 128M -p 1 -k /guest/vmlinuz -r /guest/devices.gz -a 'console=ttyS0 quiet' -d /dev/nullb0,ro,cache=none")
        consoles.append(Console(lab.alpha, name))
        consoles[-1].expect(b"devices ready", 240)
        shell = Shell(consoles[-1])
        # Several at a time, so that a guest always has a request waiting.
        for i in range(4):
            shell.run(f"(while dd if=/dev/vda of=/dev/null bs=4k count=20000 skip={i * 20000} iflag=direct 2>/tmp/err; do :; done) & true")

    def use():
        reading = lab.alpha.json("top --interval 20s --count 1")[-1]["guests"]
        return [next(g["disk_requests_per_s"] for g in reading if g["name"] == name) for name in weights]

    for name, weight in weights.items():
        lab.alpha.vmctl(f"set {name} --io-weight {weight}")
        said = host.run(f"cat /sys/fs/cgroup/ferry/{lab.alpha.guest(name)['uuid'].replace('-', '')}/io.weight").stdout.split()
        if said[:2] != ["default", str(weight)]:
            raise Failure(f"io.weight of {name}: {said}")
    free = use()
    say(f"with weights alone: {free[0]:.0f} and {free[1]:.0f} requests a second")
    # A model of 40 requests a second, always: what each of these guests could do by itself is more, also on a busy machine.
    limits = " ".join(f"{way}{what}" for way in "rw" for what in ("bps=100000000", "seqiops=40", "randiops=40"))
    host.run(f"echo '{device} ctrl=user model=linear {limits}' >/sys/fs/cgroup/io.cost.model && "
             f"echo '{device} enable=1 ctrl=user min=100.00 max=100.00' >/sys/fs/cgroup/io.cost.qos")
    thin, thick = use()
    say(f"weights 100 and 400 of a disk of 40 requests a second: {thin:.1f} and {thick:.1f}")
    if not 3.4 < thick / thin < 4.6 or thin + thick > 48 or min(free) < 48:
        raise Failure(f"{thin} and {thick} requests a second; with weights alone {free}")
    host.run(f"echo '{device} enable=0' >/sys/fs/cgroup/io.cost.qos")
    for console, name in zip(consoles, weights):
        console.close()
        lab.alpha.vmctl(f"stop -f -w {name}")


CHECKS = [balloon, io_weights]


def main():
    lab = Lab(build_argument(sys.argv))
    try:
        lab.add({f"modules/{os.path.basename(m)}.ko": (0o100644, kernel_module(m + ".ko")) for m in MODULES})
        lab.plan("alpha")
        host = lab.boot("alpha")
        host.await_ready()
        lab.alpha = host.daemon()
        only = sys.argv[2:]
        checks = [c for c in CHECKS if not only or c.__name__ in only]
        bad = run_checks(lab, checks)
        say(f"{bad} of {len(checks)} checks failed")
        return 1 if bad else 0
    finally:
        lab.close()


sys.exit(main())
