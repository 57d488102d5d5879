#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Devices of a stock guest (the devices guest, kernel 6.1) against QEMU's, in one run: the same kernel, initramfs, image, cache mode, queue
and I/O thread on both sides, interleaved. soft-*: the software CPU against TCG, on this machine. kvm-*: both on KVM, on a lab host.

*-randread-dN, *-randwrite-dN: requests of 4 KiB a second past the guest's page cache, N at a time. *-seqread, *-seqwrite: MiB/s in requests
of 128 KiB, 4 at a time. The image is in the host's page cache (cache=writeback). *-net-rx, *-net-tx: MiB/s of TCP from the host to the guest
and back, over a tap each. soft-net-rx-user, soft-net-tx-user: over the user network.
One object a line with --json: {"case", "unit", "ferry", "peer", "ratio", "runs", ...}; medians; above 1 Ferry is faster. side_us and
peer_side_us: CPU time of the programs beside their vCPU threads, microseconds a request (disks) or a MiB (networks); side_ratio of them."""
import argparse
import json
import os
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.path.insert(0, os.path.join(HERE, "..", "integration"))
sys.path.insert(0, os.path.join(HERE, "..", "lab"))
import devsites  # noqa: E402
from ferry import Failure, say, wait_for  # noqa: E402
from shell import Shell  # noqa: E402

DISK = {"randread-d1": ("randread", 1), "randread-d32": ("randread", 32), "randwrite-d1": ("randwrite", 1),
        "randwrite-d32": ("randwrite", 32), "seqread": ("seqread", 4), "seqwrite": ("seqwrite", 4)}
NET = ["net-rx", "net-tx"]
USER = ["soft-net-rx-user", "soft-net-tx-user"]
CASES = [f"{engine}-{case}" for engine in ("soft", "kvm") for case in [*DISK, *NET]] + USER


def side_ticks(site, pids):
    """CPU time in clock ticks of the processes' threads that are no vCPU."""
    out = site.sh("cat " + " ".join(f"/proc/{pid}/task/*/stat" for pid in pids))
    total = 0
    for line in out.splitlines():
        head, _, rest = line.rpartition(")")
        name = head.partition("(")[2]
        if not name.startswith(("vcpu", "CPU ")):
            fields = rest.split()
            total += int(fields[11]) + int(fields[12])
    return total


def disk_case(shell, case, seconds):
    """Value in the case's unit, and how many requests that was."""
    what, depth = DISK[case]
    out = shell.run(f"/bin/diskio /dev/vda {what} {depth} {seconds}", 120 + seconds)
    words = next((line.split() for line in out.splitlines() if line.startswith("!disk")), None)
    if not words:
        raise Failure(f"diskio: {out!r}")
    requests, us, size = map(int, words[1:])
    return (size / us * 1e6 / (1 << 20) if what.startswith("seq") else requests / us * 1e6), requests


def net_case(guest, shell, case, mib):
    """MiB/s, and how many MiB. The listener is up before the clock starts."""
    if case.startswith("net-rx"):
        shell.run("nc -l -p 5001 >/dev/null & true")
    else:
        shell.run(f"dd if=/dev/zero bs=64k count={16 * mib} 2>/dev/null | nc -l -p 5001 & true")
    wait_for("the guest listens", 60, lambda: shell.run("cat /proc/net/tcp /proc/net/tcp6 | grep -c ':1389 .* 0A '").strip() != "0")
    return guest.transfer(case.split("-")[1], mib), mib


def measure(site, side, cases, args):
    """One boot of a guest: {case: (value, CPU ticks beside the vCPUs a unit of work)}."""
    disk = any(c in DISK for c in cases)
    user = any(c.endswith("-user") for c in cases)
    guest = site.start(side, user)
    try:
        guest.console.expect(rb"devices ready", 600)
        shell = Shell(guest.console)
        guest.connected(shell)
        if disk:
            shell.run("dd if=/dev/vda of=/dev/null bs=1M 2>/dev/null", 300)
        results = {}
        for case in cases:
            before = side_ticks(site, guest.pids())
            value, work = disk_case(shell, case, args.seconds) if case in DISK else net_case(guest, shell, case, site.mib or args.mib)
            results[case] = value, (side_ticks(site, guest.pids()) - before) / work
        return results
    finally:
        guest.close()


def row(case, mine, theirs, runs, site):
    unit = "MiB/s" if "seq" in case or "net" in case else "requests/s"
    ferry, peer = (statistics.median(v for v, _ in side) for side in (mine, theirs))
    tick_us = 1e6 / site.ticks_a_second
    side, peer_side = (statistics.median(t for _, t in s) * tick_us for s in (mine, theirs))
    return {"case": case, "unit": unit, "ferry": round(ferry, 2), "peer": round(peer, 2), "ratio": round(ferry / peer, 3), "runs": runs,
            "peer_version": site.version, "side_us": round(side, 2), "peer_side_us": round(peer_side, 2),
            "side_ratio": round(side / peer_side, 3) if peer_side else None}


def run(site, prefix, cases, args):
    """All cases of one site; each pair boots a guest a side."""
    mine, theirs = {c: [] for c in cases}, {c: [] for c in cases}
    groups = [g for g in ([c for c in cases if not c.endswith("-user")], [c for c in cases if c.endswith("-user")]) if g]
    for i in range(args.runs):
        for side, into in ((("ferry", mine), ("qemu", theirs)) if i % 2 == 0 else (("qemu", theirs), ("ferry", mine))):
            for group in groups:
                for case, value in measure(site, side, group, args).items():
                    into[case].append(value)
        say(f"pair {i + 1} of {args.runs} is done")
    for case in cases:
        r = row(f"{prefix}-{case}", mine[case], theirs[case], args.runs, site)
        print(json.dumps(r) if args.json else
              f"{r['case']:18} ferry {r['ferry']} {r['unit']}  peer {r['peer']}  ratio {r['ratio']}  CPU beside vCPUs {r['side_us']} us, "
              f"peer {r['peer_side_us']}  ({r['runs']} runs)", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("cases", nargs="*", metavar="CASE", help=" ".join(CASES) + "; all but the -user ones when none is named")
    p.add_argument("--json", action="store_true")
    p.add_argument("--runs", type=int, default=7)
    p.add_argument("--seconds", type=int, default=4, help="for each disk case")
    p.add_argument("--mib", type=int, default=32, help="for each network case here; a lab host moves 8")
    p.add_argument("--aio", default="threads", choices=["threads", "io_uring"], help="QEMU's; the lab's tmpfs makes io_uring slow")
    p.add_argument("--build", required=True)
    args = p.parse_args()
    unknown = [c for c in args.cases if c not in CASES]
    if unknown:
        p.error(f"no such case: {' '.join(unknown)} (there are {' '.join(CASES)})")
    status = 0
    for prefix, make in (("soft", devsites.Here), ("kvm", devsites.Lab)):
        cases = [c.partition("-")[2] for c in args.cases or [c for c in CASES if c not in USER] if c.startswith(prefix + "-")]
        if not cases:
            continue
        site = make(args)
        try:
            run(site, prefix, cases, args)
        except (Failure, subprocess.SubprocessError, devsites.lab.Failure) as why:
            say(f"{prefix}: {why}")
            status = 1
        finally:
            site.close()
    return status


sys.exit(main())
