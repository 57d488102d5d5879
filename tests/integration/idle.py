#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Many guests at rest: what each costs the host. Starts N stock Linux guests (128 MiB, the software CPU) on one host, lets them settle, measures
for some seconds, and asks each console for an answer before and after.

    idle.py [--build DIR] [--guests N] [--seconds S] [--settle S] [--json]

Memory: PSS of all of Ferry's processes without guest memory (the memfd), by guest. CPU: time of all of Ferry's processes in the measured
seconds, as a share of all CPUs."""
import argparse
import json
import os
import sys
import time

import ferry
from shell import Shell, devices_guest

TICK = os.sysconf("SC_CLK_TCK")
AIM_MIB = 8
AIM_CPU = 0.10  # of all CPUs, for 50 guests


def family(host):
    """Processes of this daemon: itself, its guests' hypervisors, networks and workers."""
    pids = [host.daemon.pid]
    for pid in pids:
        for task in os.listdir(f"/proc/{pid}/task"):
            try:
                with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as f:
                    pids += [int(p) for p in f.read().split()]
            except OSError:
                continue
    return pids


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat", encoding="latin-1") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def pss_kib(pid):
    """(without guest memory, of guest memory)"""
    own = guest = 0
    memfd = False
    with open(f"/proc/{pid}/smaps", encoding="latin-1") as f:
        for line in f:
            word = line.split(None, 1)[0]
            if not word.endswith(":"):
                memfd = "/memfd:ferry:" in line
            elif word == "Pss:":
                if memfd:
                    guest += int(line.split()[1])
                else:
                    own += int(line.split()[1])
    return own, guest


def answer(shells):
    for i, shell in enumerate(shells):
        assert f"guest{i}" in shell.run(f"echo gue''st{i}", 60), f"guest {i} does not answer"


def measure(host, seconds):
    before = {pid: cpu_seconds(pid) for pid in family(host)}
    start = time.monotonic()
    time.sleep(seconds)  # what is measured is this time
    took = time.monotonic() - start
    used = {pid: cpu_seconds(pid) - before.get(pid, 0) for pid in family(host)}
    assert used.keys() == before.keys(), "processes came or went while it was measured"
    memory = [pss_kib(pid) for pid in used]
    return sum(used.values()) / took, used[host.daemon.pid] / took, sum(m[0] for m in memory), sum(m[1] for m in memory)


def quiet(host, seconds):
    """Until two measurements of some seconds are alike, or the time is over."""
    last = None
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        rate = measure(host, min(5, seconds))[0]
        if last is not None and abs(rate - last) < 0.1 * max(rate, 0.01):
            return
        last = rate


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--build", default=ferry.build_argument([]))
    p.add_argument("--guests", type=int, default=4)
    p.add_argument("--seconds", type=float, default=10)
    p.add_argument("--settle", type=float, default=60)
    p.add_argument("--json", action="store_true")
    a = p.parse_args()
    kernel, initrd = devices_guest()
    pair = ferry.Pair(a.build, paired=False)
    try:
        host = pair.alpha
        host.stop_daemon()
        host.options = ["--cpu-overcommit", "100"]
        host.start_daemon()
        shells = []
        for i in range(a.guests):
            host.vmctl("start", f"g{i}", "-k", kernel, "-r", initrd, "-m", "128M", "--engine", "soft", "-a", "console=ttyS0 quiet")
            console = host.console(f"g{i}")
            console.expect(b"devices ready", 180)
            shells.append(Shell(console))
        quiet(host, a.settle)
        answer(shells)
        cpu, daemon, own, guest = measure(host, a.seconds)
        answer(shells)
        cpus = os.sysconf("SC_NPROCESSORS_ONLN")
        result = {"guests": a.guests, "seconds": a.seconds, "pss_mib_per_guest": round(own / 1024 / a.guests, 2),
                  "guest_memory_mib_per_guest": round(guest / 1024 / a.guests, 2), "cpu_percent_of_all": round(100 * cpu / cpus, 2),
                  "cpu_percent_of_one_per_guest": round(100 * cpu / a.guests, 3), "daemon_cpu_percent": round(100 * daemon, 3)}
        if a.json:
            print(json.dumps(result))
        ferry.say(f"{a.guests} idle guests: {result['pss_mib_per_guest']} MiB each beside {result['guest_memory_mib_per_guest']} MiB of guest memory "
                  f"(aim {AIM_MIB}), {result['cpu_percent_of_all']} % of {cpus} CPUs ({result['cpu_percent_of_one_per_guest']} % of one each, "
                  f"aim {100 * AIM_CPU * cpus / 50}), the daemon {result['daemon_cpu_percent']} %")
        assert own / 1024 / a.guests <= AIM_MIB, "an idle guest's processes are larger than is aimed at"
    finally:
        pair.close()


if __name__ == "__main__":
    main()
