#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Migration benchmark: the same guest image under Ferry and under QEMU, interleaved, in one run.

One object a line with --json: {"case", "unit", "ferry", "peer", "ratio", "runs", "peer_version", ...}; medians. ferry's time runs from the
verb, less prealloc_ms; the peer's from `migrate` with its target preallocated. In the cold case neither side's memory was touched on the
target, and both run from process start."""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.path.insert(0, os.path.join(HERE, "..", "integration"))
import qemu  # noqa: E402
from ferry import TOP, Failure, Pair, say, wait_for  # noqa: E402

CASES = ["idle-plain", "idle-tls", "idle-tls-zstd", "idle-tls-random", "idle-tls-cold", "r100-tls-zstd", "r400-tls-zstd",
         "flat-tls-zstd", "silence-idle-tls", "silence-400-tls", "work-400-tls", "sparse-8g", "sparse-8g-self", "cpu-per-gib-tls",
         "auto-zero", "auto-text", "auto-random", "auto-mixed"]


def silence_ms(chunks, begin_ns, end_ns):
    """Longest gap between heartbeats over both consoles in [begin, end], in ms."""
    times = sorted(t for t, _ in chunks if begin_ns <= t <= end_ns)
    if len(times) < 2:
        raise Failure("no heartbeat was heard around the switch")
    return max(b - a for a, b in zip(times, times[1:])) / 1e6


def switch_ms(old, new):
    """The gap of the switch itself: from the last byte of the old console to the first of the new one, in ms."""
    last = old[-1][0]
    return (min(t for t, _ in new if t > last) - last) / 1e6


def pages_written(console):
    """The guest's own count, from its last status line `#w PAGES PASS MS BAD`."""
    last = None
    for line in console.text.split(b"\n"):
        if line.startswith(b"#w ") and line.count(b" ") >= 3:
            last = line.split()
    return (int(last[1]), int(last[3])) if last else (0, 0)


class Ferry:
    """One guest on a pair of hosts, moved by vmctl."""

    def __init__(self, pair, cmdline, memory_mib, prealloc=True):
        self.pair = pair
        options = ["--prealloc"] if prealloc else []
        self.host = pair.alpha
        self.console = pair.start(pair.alpha, "bench", cmdline, f"{memory_mib}M", 1, *options)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def migrate(self, *options, timeout=120):
        """The report of one move; self.consoles then holds both consoles, self.window the move's time."""
        target = self.pair.other(self.host)
        begin = time.monotonic_ns()
        p = self.host.spawn("migrate", "bench", target.name, "--json", *options)
        try:
            # Watch the incoming guest's console from before it runs.
            uuid = self.uuid()
            path = os.path.join(target.root, "guests", uuid, "control.sock")
            wait_for("the incoming guest", timeout, lambda: os.path.exists(path) or p.poll() is not None)
            incoming = target_console(path, p)
            out, err = p.communicate(timeout=timeout)
        except (subprocess.TimeoutExpired, Failure):
            self.host.vmctl("job", "cancel", self.host.guest("bench")["job"], check=False)
            p.communicate(timeout=30)
            return None
        if p.returncode:
            raise Failure(f"vmctl migrate: {err.strip()}")
        self.consoles = [self.console, incoming]
        self.window = (begin, time.monotonic_ns())
        self.host = target
        old, self.console = self.console, incoming
        report = json.loads(out.strip().splitlines()[-1])
        self.old_console = old
        return report

    def uuid(self):
        return self.host.guest("bench")["uuid"]

    def verdict(self):
        start = self.console.length()
        self.console.send(b"v")
        return self.console.expect(rb"!verdict (\w+) ", 60, start).group(1).decode()

    def close(self):
        self.console.close()
        for h in self.pair.hosts:
            h.vmctl("stop", "bench", "-f", check=False)


def target_console(path, process):
    from ferry import Console
    end = time.monotonic() + 30
    while True:
        try:
            return Console(path, scrollback=False)
        except OSError:
            if time.monotonic() > end or process.poll() is not None:
                raise Failure("the incoming guest's console cannot be reached") from None
            time.sleep(0.002)


def cmdline(fill="text", rate=0, mem=1024, mode=None):
    mode = mode or ("idle" if rate == 0 else "seq")
    text = f"mem={mem} mode={mode} fill={fill} hb=1"
    return text + (f" rate={rate}" if rate else "")


class Bench:
    def __init__(self, args):
        self.args = args
        self.qemu = os.path.join(subprocess.run([os.path.join(TOP, "scripts", "qemu-peer")], check=True, capture_output=True,
                                                text=True).stdout.strip(), "qemu")
        self.version = qemu.version(self.qemu)
        self.kernel = os.path.join(os.path.abspath(args.build), "tests", "guests", "selfcheck.elf")

    def row(self, case, unit, ferry, peer, runs, **more):
        ratio = round(ferry / peer, 3) if ferry is not None and peer else None
        row = {"case": case, "unit": unit, "ferry": None if ferry is None else round(ferry, 3),
               "peer": None if peer is None else round(peer, 3), "ratio": ratio, "runs": runs, "peer_version": self.version, **more}
        if self.args.json:
            print(json.dumps(row), flush=True)
        else:
            extra = " ".join(f"{k}={v}" for k, v in more.items())
            print(f"{case:20} ferry {row['ferry']} {unit}  peer {row['peer']} {unit}  ratio {ratio}  ({runs} runs) {extra}", flush=True)

    # --- one run of either side ---

    def ferry_total(self, line, memory, options, prealloc=True, cold=False):
        pair = Pair(self.args.build, namespaces=False)
        try:
            with Ferry(pair, line, memory, prealloc) as f:
                f.console.expect(rb"!filled", 120)
                r = f.migrate(*options)
                if r is None:
                    return None
                if f.verdict() != "intact":
                    raise Failure("the guest's ledger is not intact")
                r["net_ms"] = r["total_ms"] - (0 if cold else r.get("prealloc_ms") or 0)
                return r
        finally:
            pair.close()

    def peer_total(self, line, memory, prealloc=True, cold=False, **options):
        with qemu.QemuMove(self.qemu, self.kernel, line, memory, prealloc=prealloc, **options) as q:
            q.src.serial.expect(rb"!filled", 120)
            began = time.monotonic()
            q.start_target()
            r = q.migrate()
            if r and cold:
                r["total_ms"] = (time.monotonic() - began) * 1000
            return r

    def compare(self, case, line, memory, ferry_options, peers, prealloc=True, cold=False):
        """Interleaved runs of Ferry and each peer setting; the better peer median counts."""
        ferry, other = [], [[] for _ in peers]
        for _ in range(self.args.runs):
            r = self.ferry_total(line, memory, ferry_options, prealloc, cold)
            ferry.append(r["net_ms"] if r else None)
            for i, options in enumerate(peers):
                p = self.peer_total(line, memory, prealloc, cold, **options)
                other[i].append(p["total_ms"] if p else None)
        mine = statistics.median(ferry) if None not in ferry else None
        theirs = [statistics.median(o) for o in other if None not in o]
        self.row(case, "ms", mine, min(theirs) if theirs else None, self.args.runs)

    # --- cases ---

    def idle_plain(self, case):
        self.compare(case, cmdline(), 2048, ["--plaintext"], [{"channels": 1}, {"channels": 2}])

    def idle_tls(self, case):
        self.compare(case, cmdline(), 2048, ["--compress", "none"], [{"tls": True, "channels": 1}, {"tls": True, "channels": 2}])

    def idle_tls_zstd(self, case):
        self.compare(case, cmdline(), 2048, [], [{"tls": True, "channels": 2, "zstd": True}])

    def idle_tls_random(self, case):
        self.compare(case, cmdline("random"), 2048, [], [{"tls": True, "channels": 1}, {"tls": True, "channels": 2}])

    def idle_tls_cold(self, case):
        self.compare(case, cmdline(), 2048, [], [{"tls": True, "channels": 2, "zstd": True}], prealloc=False, cold=True)

    def busy(self, case):
        rate = {"r100-tls-zstd": 100, "r400-tls-zstd": 400, "flat-tls-zstd": "max"}[case]
        options = ["--deadline", "40s"] if rate == "max" else []
        try:
            self.compare(case, cmdline(rate=rate), 2048, options, [{"tls": True, "channels": 2, "zstd": True}])
        except Failure as why:
            if rate != "max":
                raise
            self.row(case, "ms", None, None, self.args.runs, note=str(why)[:120])

    def silence(self, case):
        rate = 400 if "400" in case else 0
        gaps, switches, reported, forecasts, peers = [], [], [], [], []
        pair = Pair(self.args.build, namespaces=False)
        try:
            with Ferry(pair, cmdline(rate=rate), 2048) as f:
                f.console.expect(rb"!filled", 120)
                for _ in range(self.args.switches):
                    r = f.migrate()
                    if r is None:
                        raise Failure("no convergence")
                    settle = f.console.length()
                    f.console.expect(rb"(?s).{1500,}", 20, settle)  # about two seconds of heartbeat
                    chunks = f.old_console.chunks + f.console.chunks
                    last = f.old_console.chunks[-1][0]
                    gaps.append(silence_ms(chunks, last - 10**9, last + 2 * 10**9))
                    switches.append(switch_ms(f.old_console.chunks, f.console.chunks))
                    reported.append(r["downtime_ms"])
                    forecasts.append(r["forecast_downtime_ms"])
                    f.old_console.close()
                if f.verdict() != "intact":
                    raise Failure("the guest's ledger is not intact")
        finally:
            pair.close()
        for _ in range(min(self.args.switches, self.args.runs)):
            with qemu.QemuMove(self.qemu, self.kernel, cmdline(rate=rate), 2048, downtime_ms=50) as q:
                q.src.serial.expect(rb"!filled", 120)
                q.start_target()
                if q.migrate() is None:
                    continue
                start = q.dst.serial.length()
                q.dst.serial.expect(rb"(?s).{1500,}", 20, start)
                last = q.src.serial.chunks[-1][0]
                peers.append(silence_ms(q.src.serial.chunks + q.dst.serial.chunks, last - 10**9, last + 2 * 10**9))
        good = sum(abs(f - d) <= 0.3 * d for f, d in zip(forecasts, reported))
        self.row(case, "ms", statistics.median(gaps), statistics.median(peers) if peers else None, len(gaps),
                 worst=round(max(gaps), 3), downtime_ms=round(statistics.median(reported), 3),
                 downtime_error_ms=round(max(abs(a - b) for a, b in zip(gaps, reported)), 3), switch_ms=round(statistics.median(switches), 3),
                 switch_worst=round(max(switches), 3), switch_error_ms=round(max(abs(a - b) for a, b in zip(switches, reported)), 3),
                 within_3=sum(abs(a - b) <= 3 for a, b in zip(switches, reported)), forecasts_within_30=good)

    def work(self, case):
        """Pages that the guest wrote a second while it was moving."""
        line = cmdline(rate=400)
        mine, theirs = [], []
        for _ in range(self.args.runs):
            pair = Pair(self.args.build, namespaces=False)
            try:
                with Ferry(pair, line, 2048) as f:
                    f.console.expect(rb"!filled", 120)
                    start = f.console.length()
                    f.console.expect(rb"#w [^\n]*\n", 10, start)
                    before = pages_written(f.console)
                    f.migrate()
                    after = pages_written(f.old_console)
                    mine.append((after[0] - before[0]) / max(after[1] - before[1], 1) * 1000)
            finally:
                pair.close()
            with qemu.QemuMove(self.qemu, self.kernel, line, 2048) as q:
                q.src.serial.expect(rb"!filled", 120)
                start = q.src.serial.length()
                q.src.serial.expect(rb"#w [^\n]*\n", 10, start)
                before = pages_written(q.src.serial)
                q.start_target()
                if q.migrate():
                    after = pages_written(q.src.serial)
                    theirs.append((after[0] - before[0]) / max(after[1] - before[1], 1) * 1000)
        self.row(case, "pages/s", statistics.median(mine), statistics.median(theirs) if theirs else None, len(mine))

    def sparse(self, case):
        line = cmdline("random", mem=256)
        big, small, peer = [], [], []
        for _ in range(self.args.runs):
            big.append(self.ferry_total(line, 8192, [], prealloc=False, cold=True)["net_ms"])
            if case == "sparse-8g-self":
                small.append(self.ferry_total(line, 512, [], prealloc=False, cold=True)["net_ms"])
            else:
                peer.append(self.peer_total(line, 8192, False, tls=True, channels=2)["total_ms"])
        if case == "sparse-8g-self":
            self.row(case, "ms", statistics.median(big), statistics.median(small), len(big), note="peer: Ferry with a 512 MiB guest")
        else:
            self.row(case, "ms", statistics.median(big), statistics.median(peer), len(big))

    def cpu(self, case):
        mine, theirs = [], []
        for _ in range(self.args.runs):
            r = self.ferry_total(cmdline(), 2048, [])
            # The target worker's share is in its own report on the other host; the source's alone is not the cost.
            mine.append((r["cpu_ms"] + r.get("peer_cpu_ms", 0)) / 1000)
            theirs.append(self.peer_total(cmdline(), 2048, tls=True, channels=2, zstd=True)["cpu_s"])
        self.row(case, "s/GiB", statistics.median(mine), statistics.median(theirs), len(mine))

    def auto(self, case):
        """One guest moves to and fro, each codec in turn: what is chosen by itself against the best of the fixed ones."""
        codecs = ["auto", "none", "lz4", "zstd"]
        times = {c: [] for c in codecs}
        pair = Pair(self.args.build, namespaces=False)
        try:
            with Ferry(pair, cmdline(case.split("-")[1]), 2048) as f:
                f.console.expect(rb"!filled", 120)
                for i in range(self.args.runs):
                    for codec in codecs[i % 4:] + codecs[:i % 4]:
                        r = f.migrate("--compress", codec)
                        if r is None:
                            raise Failure("no convergence")
                        times[codec].append(r["total_ms"] - (r.get("prealloc_ms") or 0))
                        f.old_console.close()
                if f.verdict() != "intact":
                    raise Failure("the guest's ledger is not intact")
        finally:
            pair.close()
        medians = {c: statistics.median(t) for c, t in times.items()}
        best = min(codecs[1:], key=medians.get)
        self.row(case, "ms", medians["auto"], medians[best], self.args.runs, note=f"peer: Ferry with {best}",
                 **{c: round(medians[c], 1) for c in codecs[1:]})

    def run(self, case):
        table = {"idle-plain": self.idle_plain, "idle-tls": self.idle_tls, "idle-tls-zstd": self.idle_tls_zstd,
                 "idle-tls-random": self.idle_tls_random, "idle-tls-cold": self.idle_tls_cold, "r100-tls-zstd": self.busy,
                 "r400-tls-zstd": self.busy, "flat-tls-zstd": self.busy, "silence-idle-tls": self.silence,
                 "silence-400-tls": self.silence, "work-400-tls": self.work, "sparse-8g": self.sparse, "sparse-8g-self": self.sparse,
                 "cpu-per-gib-tls": self.cpu, "auto-zero": self.auto, "auto-text": self.auto, "auto-random": self.auto,
                 "auto-mixed": self.auto}
        try:
            table[case](case)
        except Failure as why:
            say(f"{case}: {why}")
            self.row(case, "ms", None, None, 0, note=str(why)[:200])
            return False
        return True


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("cases", nargs="*", metavar="CASE", help=" ".join(CASES))
    p.add_argument("--json", action="store_true")
    p.add_argument("--runs", type=int, default=9)
    p.add_argument("--switches", type=int, default=20)
    p.add_argument("--build", default=os.path.join(TOP, "build", "release"))
    args = p.parse_args()
    unknown = [c for c in args.cases if c not in CASES]
    if unknown:
        p.error(f"no such case: {' '.join(unknown)}")
    bench = Bench(args)
    results = [bench.run(c) for c in args.cases or CASES]
    sys.exit(0 if all(results) else 1)


main()
