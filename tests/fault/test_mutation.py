#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Does the judge judge? Damage is done to a move that only the guest's own checker can see (fault points 100 and up, hv/base/fault.h); each
kind must turn the guest's ledger red. A checker that stays green here proves nothing anywhere else."""
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))
from ferry import Failure, Pair, build_argument, need_kvm, say  # noqa: E402
from proxy import Proxy, delay  # noqa: E402

# name, fault, side that carries it, guest, options of migrate, proxy's harm by channel
CASES = [
    ("one page dropped", "100:fail:3000", "alpha", "mem=32 mode=seq rate=5 fill=random", (), {}),
    # The second round waits for more than a pass of the guest, so that pages have turned both ways since the first.
    ("a zero skipped", "101:fail:every,11:delay=400:2", "alpha", "mem=32 mode=flip rate=100 fill=text", (), {}),
    ("the last batch omitted", "102:fail:1", "alpha", "mem=32 mode=idle fill=random", (), {}),
    ("two rounds swapped", "103:fail:60", "beta", "mem=32 mode=seq rate=max fill=text", ("--max-downtime", "2s"), {}),
    ("channels reordered without a barrier", "104:fail:every", "beta",
     "mem=16 mode=random rate=60 fill=random", ("--channels", "2", "--max-downtime", "1s"), {1: delay(0.05)}),
]


def verdict(console):
    start = console.length()
    console.send(b"v")
    m = console.expect(rb"!verdict (\w+) [^\n]*\n|!corrupt", 60, start)
    return "corrupt" if b"!corrupt" in console.text or b"!bad" in console.text or m.group(1) != b"intact" else "intact"


def run(build, fault, side, guest, options, harm):
    pair = Pair(build, namespaces=False)
    proxy = Proxy(pair.beta.address)
    try:
        host = pair.alpha if side == "alpha" else pair.beta
        host.stop_daemon()
        host.start_daemon(fault=fault)
        if harm:
            pair.alpha.vmctl("host", "remove", "beta", check=False)
            token = pair.beta.vmctl("host", "invite", "--address", proxy.address).stdout.split()[-1]
            pair.alpha.vmctl("host", "join", token)
            proxy.harm = harm
        console = pair.start(pair.alpha, "g", guest, "64M", 1)
        console.expect(rb"!filled", 60)
        console.expect(rb"#w [^\n]*\n", 20, console.length())
        r = pair.alpha.vmctl("migrate", "g", "beta", *options, check=False)
        if harm and r.returncode == 12 and "records arrived" in r.stderr:
            return "corrupt"  # the channels' digests caught it before the guest could
        if r.returncode:
            raise Failure(r.stderr.strip())
        with open(host.log, encoding="utf-8", errors="replace") as f:
            if "fires" not in f.read():
                return "fault not reached"
        return verdict(pair.beta.console("g"))
    finally:
        proxy.close()
        pair.close()


def main():
    why = need_kvm()
    if why:
        print(f"skipped: {why}")
        return 77
    build = build_argument(sys.argv)
    bad = 0
    for name, fault, side, guest, options, harm in CASES:
        start = time.monotonic()
        try:
            # The guest may heal a damaged page by writing it again before it looks: a few chances to see it red.
            for _ in range(12):
                got = run(build, fault, side, guest, options, harm)
                if got == "corrupt":
                    break
            if got != "corrupt":
                raise Failure(f"the ledger says {got}")
            say(f"ok {name}: red ({time.monotonic() - start:.1f} s)")
        except Exception as e:  # noqa: BLE001 - every case is tried
            bad += 1
            say(f"FAILED {name}: {type(e).__name__}: {e}")
    try:
        got = run(build, "999:fail", "alpha", CASES[1][3], (), {})
    except Failure as e:
        got = str(e)
    if got != "fault not reached":
        bad += 1
        say(f"FAILED control without damage: {got}")
    return 1 if bad else 0


sys.exit(main())
