#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Guests whose time is their count of instructions (docs/adr/0005-icount.md). Debian's kernel boots with timer interrupts on virtual
time, and

- two runs have the same memory and registers at the same counts, wherever they were stopped in between;
- at many seeded counts the state is saved, loaded into a fresh ferry-hv and run a million instructions further: memory digest and the
  whole state (every register of vCPU and chips) equal those of the unmoved run at that count;
- some of these counts fall inside a REP, an interrupt shadow and a HLT, or the test fails;
- some are whole moves over TLS between two daemons.

  test_icount.py [--build DIR] [--counts N] [--moves N] [--seed N]      defaults: 40 and 3; the issue's figures: 1000 and 50.
FERRY_ICOUNT_COUNTS and FERRY_ICOUNT_MOVES stand for the two where no option does.
"""
import argparse
import os
import random
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from ferry import Failure, Pair, TOP, say  # noqa: E402
from hv import Control, Hypervisor, Refused, describe, field, parts, registers  # noqa: E402

CACHE = os.path.join(os.environ.get("FERRY_CACHE") or os.path.join(TOP, ".cache"), "kernel-6.1")
MEMORY = 128 << 20
CMDLINE = "console=ttyS0"
NS, SEED = 1, 7  # virtual nanoseconds an instruction; of RDRAND and the real-time clock
BOOT = 2_000_000_000  # by then the guest's /init has filled its pages and sleeps between turns
IDLE = 1_800_000_000
FURTHER = 1_000_000
REGION = 50_000  # instructions that are searched one by one
SCOUTED = 4000  # counts at which the first run stands; a few in a hundred are inside a REP
KINDS = ("rep", "shadow", "halt")


def fresh(build, paused=True):
    return Hypervisor(build, describe(MEMORY, CMDLINE, True, NS, SEED), os.path.join(CACHE, "vmlinuz"),
                      os.path.join(CACHE, "initramfs.gz"), paused=paused)


def snapshot(control):
    """What must be equal: digest and state."""
    return control.digest(), control.save()


def compare(what, got, want):
    if got[0] == want[0] and got[1] == want[1]:
        return
    a, b = parts(got[1]), parts(want[1])
    differ = [name for name in sorted(set(a) | set(b)) if a.get(name) != b.get(name)]
    detail = ""
    if "vcpu0" in differ:
        x, y = registers(got[1]), registers(want[1])
        detail = "".join(f"\n  {k}: {x[k]} instead of {y[k]}" for k in x if x[k] != y[k])
    memory = "" if got[0] == want[0] else f", memory digest {got[0]:016x} instead of {want[0]:016x}"
    raise Failure(f"{what}: parts that differ: {', '.join(differ) or 'none'}{memory}{detail}")


def refusals(build):
    """Bad arguments have clear answers."""
    for machine, text in ((describe(MEMORY, icount=1, vcpus=2), "one vCPU"), (describe(MEMORY, icount=1, engine="kvm"), "count"),
                          (describe(MEMORY, icount=2_000_000), "at most"), (describe(MEMORY, seed=1), "seed")):
        try:
            Hypervisor(build, machine, os.path.join(CACHE, "vmlinuz")).close()
        except Refused as e:
            if text not in str(e):
                raise Failure(f"a refusal that does not say {text!r}: {e}") from e
        else:
            raise Failure(f"a machine that must be refused ({text}) is not")
    plain = Hypervisor(build, describe(MEMORY), os.path.join(CACHE, "vmlinuz"))
    counted = fresh(build)
    try:
        for control, call, text in ((plain.control, lambda c: c.run_to(5), "does not count"), (plain.control, lambda c: c.count(), "does not count"),
                                    (plain.control, lambda c: c.digest(), "does not count"), (counted.control, lambda c: c.run_to(1 << 63), "cannot run to"),
                                    (counted.control, lambda c: (c.run_to(1000), c.run_to(999)), "cannot run to")):
            try:
                call(control)
            except Refused as e:
                if text not in str(e):
                    raise Failure(f"a refusal that does not say {text!r}: {e}") from e
            else:
                raise Failure(f"an operation that must be refused ({text}) is not")
    finally:
        plain.close()
        counted.close()


def scout(build, rng, wanted):
    """A first run: snapshots at a few counts, counts inside REP, and where time passed in HLT, to search there one by one."""
    hv = fresh(build)
    control = hv.control
    seen, reps, regions = {}, [], []
    try:
        for i, count in enumerate(sorted(rng.sample(range(1000, IDLE, 3), SCOUTED))):
            place = control.run_to(count)
            if i % (SCOUTED // 8) == 0:
                seen[count] = snapshot(control)
            if control.run_to(count + 1)["rip"] == place["rip"]:
                before = registers(control.save())
                control.run_to(count + 2)
                if in_rep(before, registers(control.save())):
                    reps.append(count + 2)
        place = control.run_to(IDLE)
        while len(regions) < wanted:
            before, place = place, control.run_to(place["count"] + REGION)
            if place["now_ns"] - before["now_ns"] > REGION * NS:
                regions.append(before["count"])
                place = control.run_to(place["count"] + rng.randrange(10 * REGION))
            if place["count"] > 4 * BOOT:
                raise Failure("the guest never halts")
    finally:
        hv.close()
    return seen, sorted(rng.sample(reps, min(len(reps), wanted))), regions


def search(run, start):
    """Let the reference run go on one instruction at a time until it stood in an interrupt shadow and in HLT. Yields which, where it
    stands there."""
    wanted = {"halt", "shadow"}
    run.advance(start)
    for count in range(start + 1, start + 2 * REGION):
        place = run.advance(count)
        kind = "halt" if place["halted"] else "shadow" if place["shadow"] else None
        if kind in wanted:
            wanted.discard(kind)
            yield kind
        if not wanted:
            return


def in_rep(before, now):
    """Between two iterations of a string instruction: it is the next one again, with one less to do."""
    return before["rip"] == now["rip"] and now["gpr"][1] == before["gpr"][1] - 1 and now["gpr"][1] and before["gpr"][6:8] != now["gpr"][6:8]


class Moves:
    """The reference run, and the fresh hypervisors that go on from its counts."""

    def __init__(self, build):
        self.build = build
        self.hv = fresh(build)
        self.open = []  # (count to compare at, what, hypervisor)
        self.kinds = dict.fromkeys(KINDS, 0)
        self.done = 0
        self.copy_s = 0.0

    def advance(self, count):
        """Go on to `count`, and say where that is; on the way, compare."""
        while self.open and self.open[0][0] <= count:
            at, what, moved = self.open.pop(0)
            try:
                self.hv.control.run_to(at)
                place = Control.place(moved.control.answer()[0])
                if place["count"] != at:
                    raise Failure(f"{what}: stopped at {place['count']} instead of {at}")
                compare(what, snapshot(moved.control), snapshot(self.hv.control))
                self.done += 1
                if self.done % 100 == 0:
                    say(f"{self.done} equal")
            finally:
                moved.close()
        return self.hv.control.run_to(count)

    def move(self, kind=None):
        """Save here, load into a fresh process, and let that go on."""
        c = self.hv.control
        place = c.count()
        state = c.save()
        kind = kind or ("halt" if place["halted"] else "shadow" if place["shadow"] else None)
        if kind:
            self.kinds[kind] += 1
        start = time.monotonic()
        moved = Hypervisor(self.build, c.machine(), incoming=True, paused=False)
        try:
            moved.copy_memory(self.hv)
            moved.control.load(state)
            moved.control.run(os.urandom(16), True)
            if moved.control.save() != state or moved.control.count() != place:
                compare(f"count {place['count']}, loaded", (0, moved.control.save()), (0, state))
                raise Failure(f"count {place['count']}: {moved.control.count()} after loading instead of {place}")
            moved.control.send("run_to", field(1, place["count"] + FURTHER))
        except BaseException:
            moved.close()
            raise
        self.copy_s += time.monotonic() - start
        self.open.append((place["count"] + FURTHER, f"count {place['count']}" + (f" ({kind})" if kind else ""), moved))

    def close(self):
        for _, _, moved in self.open:
            moved.close()
        self.hv.close()


def save_and_load(build, rng, found, counts):
    """`counts` moves into fresh processes along one reference run."""
    start = time.monotonic()
    seen, reps, regions = found
    plan = [(c, None) for c in rng.sample(range(1000, BOOT), counts)]
    plan += [(c, "rep") for c in reps] + [(c, "idle") for c in regions] + [(c, "seen") for c in seen]
    run, again = Moves(build), 0
    try:
        for count, why in sorted(plan, key=lambda p: p[0]):
            now = run.hv.control.count()["count"]
            if count < now:  # a search has gone past it
                count, why = now, why if why == "idle" else None
            run.advance(count)
            if why is None or why == "rep":
                run.move(why)
            elif why == "seen":
                compare(f"second run, count {count}", snapshot(run.hv.control), seen[count])
                again += 1
            else:
                for kind in search(run, count):
                    run.move(kind)
        run.advance(run.open[-1][0] if run.open else BOOT)
    finally:
        run.close()
    if again < len(seen) // 2:
        raise Failure(f"only {again} counts of the first run were met again")
    missing = [k for k in KINDS if not run.kinds[k]]
    if missing:
        raise Failure(f"no count fell inside: {', '.join(missing)}")
    say(f"second run equal to the first at {again} counts; {run.done} counts saved, loaded and run on: equal; of these in REP "
        f"{run.kinds['rep']}, shadow {run.kinds['shadow']}, HLT {run.kinds['halt']}; {time.monotonic() - start:.0f} s, "
        f"{run.copy_s:.0f} of them copying")


def over_tls(build, rng, moves):
    """A guest hops between two daemons; a ferry-hv that stays is the reference."""
    start = time.monotonic()
    pair = Pair(build)
    stays = fresh(build)
    try:
        for engine, text in (("soft,icount=0", "icount"), ("kvm,icount=1", "only soft"), ("soft,icount=1", "one vCPU")):
            r = pair.alpha.vmctl("start", "never", "-p", "2", "-k", os.path.join(CACHE, "vmlinuz"), "--engine", engine, check=False)
            if r.returncode != 2 or text not in r.stderr:
                raise Failure(f"vmctl start --engine {engine} -p 2 ended with {r.returncode}: {r.stderr}")
        pair.alpha.vmctl("start", "mover", "-m", "128M", "-k", os.path.join(CACHE, "vmlinuz"), "-r", os.path.join(CACHE, "initramfs.gz"),
                         "-a", CMDLINE, "--cpu-model", "x86-64-v1", "--engine", f"soft,icount={NS},seed={SEED}", "--paused")
        at = pair.alpha
        control = Control(at.control_socket("mover"))
        slot = BOOT // moves
        for i in range(moves):
            count = i * slot + rng.randrange(1000, slot - FURTHER - 1000)
            control.run_to(count)
            control.close()
            to = pair.other(at)
            at.vmctl("migrate", "mover", to.name)
            at = to
            control = Control(at.control_socket("mover"))
            if control.count()["count"] != count:
                raise Failure(f"the move from count {count} ended at {control.count()['count']}")
            control.run_to(count + FURTHER)
            stays.control.run_to(count + FURTHER)
            compare(f"move {i} over TLS at count {count}", snapshot(control), snapshot(stays.control))
        control.close()
        name = at.guest("mover")["engine"]
        if name != f"soft,icount={NS},seed={SEED}":
            raise Failure(f"the guest's engine is told as {name}")
        pair.check_one_runner()
    finally:
        stays.close()
        pair.close()
    say(f"{moves} moves over TLS: equal; {time.monotonic() - start:.0f} s")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--build", default=os.path.join(TOP, "build", "release"))
    p.add_argument("--counts", type=int, default=int(os.environ.get("FERRY_ICOUNT_COUNTS", "40")))
    p.add_argument("--moves", type=int, default=int(os.environ.get("FERRY_ICOUNT_MOVES", "3")))
    p.add_argument("--seed", type=int, default=1)
    a = p.parse_args()
    made = subprocess.run([os.path.join(TOP, "scripts", "guest-kernel"), "-l", os.path.join(a.build, "tests", "guests", "ledger")],
                          capture_output=True, text=True, check=False)
    if made.returncode:
        print(made.stderr.strip() or "no guest kernel")
        return 77
    rng = random.Random(a.seed)
    refusals(a.build)
    found = scout(a.build, rng, max(2, a.counts // 50))
    say(f"first run: {len(found[0])} snapshots; in REP at counts {found[1][:3]}..., halts near {found[2][:3]}...")
    save_and_load(a.build, rng, found, a.counts)
    if a.moves:
        over_tls(a.build, rng, a.moves)
    return 0


if __name__ == "__main__":
    sys.exit(main())
