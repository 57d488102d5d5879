#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Two lab hosts: a stock Debian guest at work moves over TLS from one with KVM to one whose daemon runs what arrives on the
software CPU, and back. FERRY_LAB_ENGINE_MOVES sets the number of moves, two a round trip."""
import json
import os
import statistics
import sys

from lab import Console, Failure, Lab, Ledger, build_argument, move, pair, run_checks, say

MOVES = int(os.environ.get("FERRY_LAB_ENGINE_MOVES", "2"))
VCPUS = int(os.environ.get("FERRY_LAB_VCPUS", "1"))
MODEL = os.environ.get("FERRY_LAB_MODEL", "x86-64-v1")
# The software CPU runs here on an emulated one: all is as slow as the two of them together.
BUDGET = "--max-downtime 5s --deadline 170s"
WORK = "ferry.mem=8 ferry.rate=2"


def runs_on(daemon, engine):
    got = daemon.guest("g")["engine"]
    if got != engine:
        raise Failure(f"on {daemon.name} the guest runs on {got}, not {engine}")


def to_soft_and_back(lab):
    """Each engine takes what the other saved: after each move the guest goes on, its clocks too, and all files are right."""
    source, target = (lab.alpha, "kvm"), (lab.beta, "soft")
    ledger = lab.ledger
    runs_on(*source)
    say("before the moves:", ledger.verdict())
    totals, downs = [], []
    for i in range(MOVES):
        ledger.mark()
        r = move(source[0], target[0], "g", BUDGET)
        runs_on(*target)
        ledger.console.close()
        ledger.mark()
        ledger.console = Console(target[0], "g")
        rate = ledger.rate(lines=4)
        v = ledger.verdict()
        totals.append(r["total_ms"])
        downs.append(r["downtime_ms"])
        say(f"move {i + 1} to {target[1]}: {r['total_ms']:.0f} ms, down {r['downtime_ms']:.0f} ms (forecast "
            f"{r['forecast_downtime_ms']:.0f}), {r['rounds']} rounds, {r['wire_bytes'] >> 20} MiB on the wire, "
            f"{rate:.1f} MiB/s rewritten in the first second after; {v}")
        source, target = target, source
    if not MOVES:
        return
    print(json.dumps({"lab": "engines", "moves": MOVES, "vcpus": VCPUS, "model": MODEL,
                      "total_ms": round(statistics.median(totals)), "total_worst_ms": round(max(totals)),
                      "downtime_ms": round(statistics.median(downs)), "downtime_worst_ms": round(max(downs)),
                      "ledger": "intact"}), flush=True)


def main():
    lab = Lab(build_argument(sys.argv))
    try:
        lab.plan("alpha", "beta")
        hosts = [lab.boot("alpha", memory=1024), lab.boot("beta", memory=1024)]
        hosts[0].await_ready()
        lab.alpha = hosts[0].daemon(options="--engine kvm")
        lab.ledger = Ledger(lab.alpha.start("g", f"-m 128M -p {VCPUS} --engine kvm --cpu-model {MODEL}", WORK))
        hosts[1].await_ready()
        lab.beta = hosts[1].daemon(options="--engine soft")
        pair(lab.alpha, lab.beta)
        lab.ledger.console.expect(rb"!filled \d+ pages", 180)
        checks = [to_soft_and_back]
        bad = run_checks(lab, checks)
        say(f"{bad} of {len(checks)} checks failed")
        return 1 if bad else 0
    finally:
        lab.close()


sys.exit(main())
