#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Two lab hosts: stock Debian guests move over TLS from one with KVM to one whose daemon runs what arrives on the software CPU,
and back. FERRY_LAB_ENGINE_MOVES sets the number of moves of the guest at work, two a round trip; FERRY_LAB_MODEL its CPU model."""
import json
import os
import statistics
import sys

from lab import Console, Failure, Lab, Ledger, at_work, build_argument, doctor, move, pair, power_off, run_checks, say

MOVES = int(os.environ.get("FERRY_LAB_ENGINE_MOVES", "2"))
VCPUS = int(os.environ.get("FERRY_LAB_VCPUS", "1"))
# The software CPU runs here on an emulated one: all is as slow as the two of them together.
BUDGET = "--max-downtime 5s --deadline 170s"
WORK = "ferry.mem=8 ferry.rate=2"


def best_model(lab):
    """The best named model that both engines offer."""
    kvm, soft = doctor(lab.alpha), doctor(lab.beta)
    for level in (3, 2, 1):
        model = f"x86-64-v{level}"
        if kvm["kvm " + model][0] == soft["soft " + model][0] == "yes":
            return model
    raise Failure(f"no model that both engines offer: {kvm}, {soft}")


def change(source, target, name):
    """Move a guest from a (daemon, engine) to another."""
    r = move(source[0], target[0], name, BUDGET)
    got = target[0].guest(name)["engine"]
    if got != target[1]:
        raise Failure(f"on {target[0].name} {name} runs on {got}, not {target[1]}")
    say(f"{name} moved to {target[1]}: {r['total_ms']:.0f} ms, down {r['downtime_ms']:.0f} ms (forecast "
        f"{r['forecast_downtime_ms']:.0f}), {r['rounds']} rounds, {r['wire_bytes'] >> 20} MiB on the wire")
    return r


def from_soft_in_mid_boot(lab):
    """A guest that began on the software CPU leaves it while its kernel boots and gets to work on KVM."""
    lab.young.expect(rb"Linux version", 180)
    change((lab.beta, "soft"), (lab.alpha, "kvm"), "young")
    lab.young.close()
    console = Console(lab.alpha, "young")
    at_work(console)
    say(Ledger(console).verdict())
    power_off(lab.alpha, "young", console)


def to_soft_and_back(lab):
    """Each engine takes what the other saved: after each move the guest goes on, its clocks too, and all files are right."""
    source, target = (lab.alpha, "kvm"), (lab.beta, "soft")
    at_work(lab.ledger.console)
    ledger = lab.ledger
    say("before the moves:", ledger.verdict())
    totals, downs = [], []
    for i in range(MOVES):
        ledger.mark()
        r = change(source, target, "g")
        ledger.console.close()
        ledger.mark()
        ledger.console = Console(target[0], "g")
        rate = ledger.rate(lines=4)
        say(f"move {i + 1}: {rate:.1f} MiB/s rewritten in the first second after; {ledger.verdict()}")
        totals.append(r["total_ms"])
        downs.append(r["downtime_ms"])
        source, target = target, source
    if MOVES:
        print(json.dumps({"lab": "engines", "moves": MOVES, "vcpus": VCPUS, "model": lab.model,
                          "total_ms": round(statistics.median(totals)), "total_worst_ms": round(max(totals)),
                          "downtime_ms": round(statistics.median(downs)), "downtime_worst_ms": round(max(downs)),
                          "ledger": "intact"}), flush=True)
    power_off(source[0], "g", ledger.console)


def main():
    lab = Lab(build_argument(sys.argv))
    try:
        lab.plan("alpha", "beta")
        hosts = [lab.boot("alpha", memory=1024), lab.boot("beta", memory=1024)]
        for host in hosts:
            host.await_ready()
        lab.beta = hosts[1].daemon(options="--engine soft")
        lab.alpha = hosts[0].daemon(options="--engine kvm")
        lab.model = os.environ.get("FERRY_LAB_MODEL") or best_model(lab)
        say("the guests are", lab.model)
        options = f"-m 128M --cpu-model {lab.model}"
        lab.young = lab.beta.start("young", options + " -p 1 --engine soft", WORK + " loglevel=6 earlyprintk=ttyS0,115200")
        lab.ledger = Ledger(lab.alpha.start("g", options + f" -p {VCPUS} --engine kvm", WORK))
        pair(lab.alpha, lab.beta)
        checks = [from_soft_in_mid_boot, to_soft_and_back]
        bad = run_checks(lab, checks)
        say(f"{bad} of {len(checks)} checks failed")
        return 1 if bad else 0
    finally:
        lab.close()


sys.exit(main())
