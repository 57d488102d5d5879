#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A Debian guest at work (pgwork.py) while it moves between two hosts on shared storage, on the software CPU unless told otherwise; its
clients come over a bridge. tests/lab/work.py is the same on kvm-amd.

    work.py [--build DIR] [--moves N] [--engine E]     N moves (10)
"""
import os
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ferry  # noqa: E402
import pgwork  # noqa: E402
from images import debian_image, description  # noqa: E402
from session import Session  # noqa: E402
from wire import Wire  # noqa: E402


def argument(name, default):
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else default


def move(source, target):
    report = source.json("migrate", "w", target.name, "--max-downtime", "1s")[-1]
    ferry.wait_for("the end of the target's job", 30, lambda: not target.guest("w").get("job"))
    return report


def main():
    pgwork.need_tools("work.py")
    build = os.path.abspath(ferry.build_argument(sys.argv))
    image = debian_image(build, pgwork.OPTIONS)
    d = description(image)
    pair = ferry.Pair(build, namespaces=True)
    wire = work = None
    try:
        wire = Wire(pair)
        disk = os.path.join(pair.disks, "w.img")
        subprocess.run(["cp", "--sparse=always", image, disk], check=True)
        pair.alpha.vmctl("start", "w", "-m", "768M", "-p", "2", "--engine", argument("--engine", "soft"), "-d", disk, "-n", "bridge=br0",
                         "-k", d["kernel"], "-r", d["initrd"], "-a", d["cmdline"])
        work = pgwork.Work(Session(pair.alpha.console("w")), wire)
        source, target = pair.alpha, pair.beta
        for _ in range(int(argument("--moves", "10"))):
            work.moved(lambda s=source, t=target: move(s, t))
            source, target = target, source
        ferry.say(work.finish(source.console("w", scrollback=False)))
        pair.check_one_runner()
    finally:
        if work:
            work.close()
        pair.close()
        if wire:
            wire.close()


main()
