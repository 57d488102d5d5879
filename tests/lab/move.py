#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Lab hosts booted apart: a stock Debian guest of 2 vCPUs at work moves between them over TLS, and a host that cannot run it
says why. FERRY_LAB_MOVES and FERRY_LAB_APART set the number of moves and the seconds between the two boots."""
import json
import os
import re
import statistics
import sys
import time

from lab import Console, Failure, Lab, Ledger, build_argument, expect_error, move, pair, run_checks, say

MOVES = int(os.environ.get("FERRY_LAB_MOVES", "2"))
VCPUS = int(os.environ.get("FERRY_LAB_VCPUS", "2"))
APART = float(os.environ.get("FERRY_LAB_APART", "15"))
# What an emulated host reaches over TLS is about 10 MB/s: the budget is for that.
BUDGET = "--max-downtime 5s --deadline 170s"
RATE = int(os.environ.get("FERRY_LAB_RATE", "60"))
# The host's one CPU is the guest's first: what it leaves is enough for the movers, and a guest without it gets what they leave.
WEIGHT = int(os.environ.get("FERRY_LAB_WEIGHT", "800"))
WORK = f"ferry.mem=16 ferry.rate={RATE}"


def clocks(hosts):
    """Seconds since each host's boot, for how far they are apart."""
    return [float(h.run("cat /proc/uptime").stdout.split()[0]) for h in hosts]


def there_and_back(lab):
    source, target = lab.alpha, lab.beta
    ledger = lab.ledger
    ledger.mark()
    say(f"before the moves the guest rewrites {ledger.rate(lines=8):.0f} MiB/s; hosts are up "
        f"{', '.join(f'{u:.0f} s' for u in clocks([lab.alpha.host, lab.beta.host]))}")
    logged = source.json("dirty-rate g --interval 4s")[-1]["mib_per_s"]
    say(f"with its writes logged it dirties {logged:.0f} MiB/s")
    totals, downs, rates, wires = [], [], [], []
    for i in range(MOVES):
        source.vmctl(f"set g --cpu-weight {WEIGHT}")
        ledger.mark()
        r = move(source, target, "g", BUDGET)
        rates.append(ledger.rate())
        ledger.console.close()
        ledger.mark()
        ledger.console = Console(target, "g")
        rate = ledger.rate(lines=5)
        v = ledger.verdict()
        totals.append(r["total_ms"])
        downs.append(r["downtime_ms"])
        wires.append(r["wire_bytes"] >> 20)
        say(f"move {i + 1} to {target.name}: {r['total_ms']:.0f} ms, down {r['downtime_ms']:.0f} ms (forecast "
            f"{r['forecast_downtime_ms']:.0f}), {r['rounds']} rounds, {r['codec']}, {r['wire_bytes'] >> 20} MiB on the wire, "
            f"{rates[-1]:.0f} MiB/s rewritten meanwhile, {rate:.0f} in the first second after; {v}")
        source, target = target, source
    lab.at = source
    if not MOVES:
        return
    print(json.dumps({"lab": "move", "moves": MOVES, "vcpus": VCPUS, "apart_s": APART,
                      "total_ms": round(statistics.median(totals)), "total_worst_ms": round(max(totals)),
                      "downtime_ms": round(statistics.median(downs)), "downtime_worst_ms": round(max(downs)),
                      "wire_mib": round(statistics.median(wires)), "wire_most_mib": max(wires),
                      "logged_mib_s": round(logged), "rate_mib_s": round(statistics.median(rates)),
                      "rate_least_mib_s": round(min(rates)), "ledger": "intact"}), flush=True)


def refusals(lab):
    """A third host lacks AVX2 and BMI2, and its TSC runs at another rate, which a processor without TSC scaling cannot hide."""
    mhz = re.search(r"tsc: Detected ([\d.]+) MHz", lab.alpha.host.run("dmesg").stdout).group(1)
    host = lab.boot("gamma", cpu="EPYC,-avx2,-bmi2", memory=1024, append=f"tsc_early_khz={int(float(mhz) * 1200)}")
    host.await_ready()
    gamma = host.daemon()
    pair(lab.at, gamma)
    say(expect_error(gamma, 5, ["avx2", "bmi2"], "start v3 -m 64M --cpu-model x86-64-v3 -k /guest/vmlinuz").strip())
    lab.at.vmctl("start v3 -m 64M --paused --cpu-model x86-64-v3 -k /guest/vmlinuz")
    for extra in ("--plan", ""):
        said = expect_error(lab.at, 5, ["avx2", "bmi2", "TSC"], f"migrate v3 gamma {extra}")
    say(said.strip())
    if lab.at.state("v3") != "paused" or gamma.guest("v3") is not None:
        raise Failure(f"after the refusal: {lab.at.state('v3')} here, {gamma.state('v3')} there")
    lab.at.vmctl("stop -f v3")
    # The guest at work needs none of these features: only the clock stands in its way.
    said = expect_error(lab.at, 5, ["TSC", "cannot scale"], f"migrate g gamma {BUDGET}")
    say(said.strip())
    if "avx2" in said or lab.at.state("g") != "running" or gamma.guest("g") is not None:
        raise Failure(f"after the refusal: {said!r}, {lab.at.state('g')} here, {gamma.state('g')} there")
    say("refused and unharmed:", lab.ledger.verdict())


def main():
    lab = Lab(build_argument(sys.argv))
    try:
        lab.plan("alpha", "beta", "gamma")
        first = lab.boot("alpha")
        first.await_ready()
        lab.alpha = first.daemon()
        lab.ledger = Ledger(lab.alpha.start("g", f"-m 512M -p {VCPUS}", WORK))
        lab.ledger.console.expect(rb"!filled \d+ pages", 180)
        say("the guest is at work")
        # Apart in time is the condition here.
        time.sleep(max(0.0, first.began + APART - time.monotonic()))
        second = lab.boot("beta")
        second.await_ready()
        lab.beta = second.daemon()
        pair(lab.alpha, lab.beta)
        lab.at = lab.alpha
        checks = [there_and_back, refusals]
        bad = run_checks(lab, checks)
        say(f"{bad} of {len(checks)} checks failed")
        return 1 if bad else 0
    finally:
        lab.close()


sys.exit(main())
