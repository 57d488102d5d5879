#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a host promises to its guests: starts and arrivals beyond it are refused with figures, and a larger ratio lets them in."""
import os
import re
import sys

import ferry


def total_mib():
    with open("/proc/meminfo", encoding="ascii") as f:
        lines = dict(line.split(":", 1) for line in f)
    return int(lines["MemTotal"].split()[0]) // 1024 - 2 * int(lines["HugePages_Total"])


def figures(host):
    text = " ".join(host.vmctl("doctor").stdout.split())
    m = re.search(r"memory: (\d+) MiB are promised to (\d+) guests?, (\d+) MiB may be \((the host has|the daemon's cgroup allows) (\d+) MiB", text)
    assert m, text
    return int(m[1]), int(m[2]), int(m[3]), int(m[5])


def start(pair, host, name, mib, *options, check=True):
    return host.vmctl("start", name, "-m", f"{mib}M", "--engine", "soft", "--paused", "-k", os.path.join(pair.guests, "multiboot1.elf"), "-a", "keys",
                      *options, check=check)


def refused(r, *words):
    assert r.returncode != 0, r
    for w in words:
        assert w in r.stderr, f"no {w!r} in {r.stderr!r}"


def again(host, *options):
    host.stop_daemon()
    host.options = list(options)
    host.start_daemon()


def main():
    pair = ferry.Pair(ferry.build_argument(sys.argv))
    alpha, beta = pair.hosts
    try:
        promised, guests, allowed, there = figures(alpha)
        assert (promised, guests, allowed) == (0, 0, there) and there <= total_mib() + 1, (promised, guests, allowed, there, total_mib())
        # More than half of what is there, and little of it touched.
        half = there * 55 // 100 // 2 * 2
        start(pair, alpha, "a", half)
        promised, guests, _, _ = figures(alpha)
        # its memory, boot images, a 256th of both, and 16 MiB
        assert guests == 1 and half + half // 256 + 16 <= promised <= half + half // 256 + 16 + 4, (promised, half)
        r = start(pair, alpha, "b", half, check=False)
        refused(r, f"{promised} MiB are promised to 1 guest already", f"{allowed} MiB may be promised", f"{half} MiB of memory", "--memory-overcommit 1.00")
        assert alpha.guest("b") is None
        ferry.say(f"start: refused at {promised} of {allowed} MiB")
        # The same at an arrival; with a larger ratio it comes in.
        start(pair, beta, "b", half)
        refused(alpha.vmctl("migrate", "a", "beta", check=False), "beta", "MiB are promised to 1 guest already", "--memory-overcommit 1.00")
        assert alpha.state("a") == "paused" and beta.guest("a") is None
        again(beta, "--memory-overcommit", "2")
        promised, guests, twice, _ = figures(beta)
        assert guests == 1 and abs(twice - 2 * allowed) <= 1, (guests, twice, allowed)
        alpha.vmctl("migrate", "a", "beta")
        assert beta.state("a") == "paused" and figures(beta)[1] == 2 and figures(alpha)[:2] == (0, 0)
        ferry.say("arrival: refused, and let in by a ratio of 2")
        for name in "ab":
            beta.vmctl("stop", name, "-f")
        ferry.wait_for("nothing is promised", 20, lambda: figures(beta)[:2] == (0, 0))
        # CPUs are warned of only.
        cpus = os.sysconf("SC_NPROCESSORS_ONLN")
        again(beta, "--cpu-overcommit", "1")
        start(pair, beta, "c", 64, "-p", str(min(cpus + 1, 64)))
        assert f"this host {cpus} CPUs" in beta.guest("c")["warning"], beta.guest("c")
        ferry.say("vCPUs: warned of")
        refused(start(pair, beta, "d", 64, "--memory-merge", check=False), "memfd", "balloon")
        for text in ("0.5", "nan", "1000", "x"):
            beta.stop_daemon()
            beta.options = ["--memory-overcommit", text]
            beta.start_daemon(wait=False)
            assert beta.daemon.wait(10) != 0, text
        pair.check_one_runner()
    finally:
        pair.close()


main()
