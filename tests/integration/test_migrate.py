#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Guests at work move between two hosts; their own ledgers are the judges."""
import json
import os
import signal
import subprocess
import sys
import threading
import time

from ferry import Failure, Pair, build_argument, need_kvm, say, wait_for


def filled(console):
    console.expect(rb"!filled \d+ pages", 60)


def verdict(host, name):
    console = host.console(name)
    start = console.length()
    console.send(b"v")
    m = console.expect(rb"!verdict (\w+) [^\n]*\n", 90, start)
    text = console.text
    console.close()
    if m.group(1) != b"intact" or b"!bad" in text or b"!corrupt" in text or b"!clock" in text:
        raise Failure(f"{name}: {m.group(0)!r}; bad: {b'!bad' in text}")
    return m.group(0)


def move(source, target, name, *options):
    r = source.vmctl("migrate", name, target.name, "--json", *options, timeout=120)
    report = json.loads(r.stdout.strip().splitlines()[-1])
    for field in ("state", "total_ms", "downtime_ms", "setup_ms", "rounds", "ram_bytes", "wire_bytes", "pages_zero", "pages_skipped",
                  "channels", "codec", "tls"):
        if field not in report:
            raise Failure(f"the last object lacks {field}: {report}")
    if report["state"] != "completed":
        raise Failure(f"state {report['state']}")
    if source.state(name) not in ("moved", None) or target.state(name) != "running":
        raise Failure(f"after the move: {source.state(name)} and {target.state(name)}")
    return report


def expect_error(host, code, text, *args):
    r = host.vmctl(*args, check=False)
    if r.returncode != code or text not in r.stderr:
        raise Failure(f"vmctl {' '.join(args)}: exit {r.returncode}, {r.stderr!r}; expected {code} and {text!r}")
    return r.stderr


# --- checks: each gets a fresh guest -------------------------------------------------------------------------------

def there_and_back(pair):
    """Options, codecs and channels in turn, the same guest all the way; two vCPUs at work."""
    filled(pair.start(pair.alpha, "g", "mem=64 mode=random rate=40 fill=mixed", "256M", 2))
    source, target = pair.alpha, pair.beta
    for options in ([], ["--compress", "none", "--channels", "1"], ["--compress", "zstd:1", "--channels", "4"], ["--compress", "lz4"],
                    ["--plaintext"], ["--verify"]):
        r = move(source, target, "g", *options)
        if r["tls"] != ("--plaintext" not in options):
            raise Failure(f"tls {r['tls']} with {options}")
        if "--channels" in options and r["channels"] != int(options[options.index("--channels") + 1]):
            raise Failure(f"{r['channels']} channels with {options}")
        if "--verify" in options and not r.get("verified"):
            raise Failure("--verify did not verify")
        verdict(target, "g")
        source, target = target, source
    pair.check_one_runner()


def pages_that_turn_zero(pair):
    filled(pair.start(pair.alpha, "g", "mem=64 mode=flip rate=200 fill=text", "128M", 1))
    move(pair.alpha, pair.beta, "g")
    verdict(pair.beta, "g")
    move(pair.beta, pair.alpha, "g")
    verdict(pair.alpha, "g")


def untouched_memory_is_not_moved(pair):
    filled(pair.start(pair.alpha, "g", "mem=64 mode=idle fill=random", "4G", 1))
    before = resident(pair.alpha, "g")
    r = move(pair.alpha, pair.beta, "g")
    verdict(pair.beta, "g")
    if r["pages_skipped"] < (3 << 30) // 4096:
        raise Failure(f"only {r['pages_skipped']} pages were skipped")
    after = resident(pair.beta, "g")
    if after > before + (16 << 20):
        raise Failure(f"{before} bytes were touched at the source, {after} are held at the target")


def resident(host, name):
    for value in host.json("show", name):
        for key in ("resident_bytes", "memory_resident", "resident"):
            if key in value:
                return value[key]
    raise Failure("vmctl show gives no resident memory")


def cancel_leaves_the_guest(pair):
    console = pair.start(pair.alpha, "g", "mem=64 mode=seq rate=100 fill=random", "128M", 1)
    filled(console)
    p = pair.alpha.spawn("migrate", "g", "beta", "--max-bandwidth", "2M", "--json")
    job = wait_for("the job", 10, lambda: pair.alpha.guest("g").get("job"))
    wait_for("memory to move", 10, lambda: any(j.get("phase") == "memory" and j.get("wire_bytes", 0) > 0
                                                for j in pair.alpha.json("job", "show", job)))
    pair.alpha.vmctl("job", "cancel", job)
    p.communicate(timeout=20)
    if p.returncode != 9:
        raise Failure(f"a cancelled migrate ended with {p.returncode}")
    verdict(pair.alpha, "g")
    wait_for("the target to drop its guest", 5, lambda: pair.beta.guest("g") is None and not pair.beta.children())
    # the cap can be lifted while it runs
    p = pair.alpha.spawn("migrate", "g", "beta", "--max-bandwidth", "2M", "--json")
    job = wait_for("the job", 10, lambda: pair.alpha.guest("g").get("job"))
    pair.alpha.vmctl("job", "set", job, "--max-bandwidth", "0")
    out, err = p.communicate(timeout=60)
    if p.returncode:
        raise Failure(f"after lifting the cap: {p.returncode} {err}")
    verdict(pair.beta, "g")


def deadline(pair):
    filled(pair.start(pair.alpha, "g", "mem=64 mode=seq rate=50 fill=random", "128M", 1))
    slow = ("--max-bandwidth", "2M", "--deadline", "1s")
    expect_error(pair.alpha, 8, "deadline", "migrate", "g", "beta", *slow)
    if pair.alpha.state("g") != "running":
        raise Failure("a missed deadline with cancel did not leave the guest running")
    expect_error(pair.alpha, 8, "paused", "migrate", "g", "beta", *slow, "--on-miss", "pause")
    if pair.alpha.state("g") != "paused":
        raise Failure("a missed deadline with pause did not pause the guest")
    pair.alpha.vmctl("unpause", "g")
    verdict(pair.alpha, "g")


def plan_moves_nothing(pair):
    filled(pair.start(pair.alpha, "g", "mem=64 mode=seq rate=100 fill=text", "128M", 1))
    r = json.loads(pair.alpha.vmctl("migrate", "g", "beta", "--plan", "--json").stdout.strip().splitlines()[-1])
    if r["state"] != "planned" or pair.alpha.state("g") != "running" or pair.beta.guest("g") is not None:
        raise Failure(f"--plan: {r}")
    verdict(pair.alpha, "g")


def paused_arrival(pair):
    filled(pair.start(pair.alpha, "g", "mem=16 mode=seq rate=20 fill=text", "64M", 1))
    pair.alpha.vmctl("migrate", "g", "beta", "--paused")
    if pair.beta.state("g") != "paused":
        raise Failure(f"--paused arrived {pair.beta.state('g')}")
    pair.beta.vmctl("unpause", "g")
    verdict(pair.beta, "g")


def paused_guest(pair):
    """A guest that an operator has paused moves, and stays paused."""
    filled(pair.start(pair.alpha, "g", "mem=16 mode=seq rate=20 fill=text", "64M", 1))
    pair.alpha.vmctl("pause", "g")
    pair.alpha.vmctl("migrate", "g", "beta")
    if pair.beta.state("g") != "paused":
        raise Failure(f"a paused guest arrived {pair.beta.state('g')}")
    pair.beta.vmctl("unpause", "g")
    verdict(pair.beta, "g")


def refusals(pair):
    filled(pair.start(pair.alpha, "g", "mem=16 mode=idle fill=text", "64M", 1))
    expect_error(pair.alpha, 3, "nowhere", "migrate", "g", "nowhere")
    expect_error(pair.alpha, 3, "nobody", "migrate", "nobody", "beta")
    pair.beta.vmctl("host", "remove", "alpha")
    r = pair.alpha.vmctl("migrate", "g", "beta", check=False)
    if r.returncode not in (6, 7):
        raise Failure(f"a host that was removed: {r.returncode} {r.stderr}")
    verdict(pair.alpha, "g")
    token = pair.beta.vmctl("host", "invite").stdout.split()[-1]
    pair.alpha.vmctl("host", "join", token, check=False)
    r = pair.alpha.vmctl("host", "join", token, check=False)
    if r.returncode == 0:
        raise Failure("an invite was good twice")
    pair.beta.stop_daemon()
    r = pair.alpha.vmctl("migrate", "g", "beta", check=False)
    if r.returncode != 6:
        raise Failure(f"a daemon that is not there: {r.returncode} {r.stderr}")
    verdict(pair.alpha, "g")
    pair.beta.start_daemon()


def daemon_restarts(pair):
    """Guests go on without their daemon, and it finds them again."""
    filled(pair.start(pair.alpha, "g", "mem=32 mode=seq rate=50 fill=text", "64M", 1))
    before = pair.alpha.guest("g")["pid"]
    pair.alpha.stop_daemon(signal.SIGKILL)
    pair.alpha.start_daemon()
    if pair.alpha.state("g") != "running" or pair.alpha.guest("g")["pid"] != before:
        raise Failure("the daemon did not find its guest again")
    move(pair.alpha, pair.beta, "g")
    verdict(pair.beta, "g")


def hypervisor_death_is_a_crash(pair):
    filled(pair.start(pair.alpha, "g", "mem=16 mode=idle fill=text", "64M", 1))
    os.kill(pair.alpha.guest("g")["pid"], signal.SIGKILL)
    wait_for("crashed", 5, lambda: pair.alpha.state("g") == "crashed")


def debug_exit(pair):
    pair.start(pair.alpha, "g", "mem=16 mode=idle fill=text", "64M", 1, "--debug-exit")
    console = pair.alpha.console("g")
    console.expect(rb"!filled", 30)
    console.send(b"q")
    value = pair.alpha.json("wait", "g", check=False)[-1]
    if value.get("exit_status", 0) % 2 != 1:
        raise Failure(f"debug exit: {value}")


def dirty_rate(pair):
    filled(pair.start(pair.alpha, "g", "mem=64 mode=seq rate=100 fill=text", "128M", 1))
    value = pair.alpha.json("dirty-rate", "g")[-1]
    rate = next((v for k, v in value.items() if k in ("mib_per_s", "rate_mib_s", "bytes_per_s")), None)
    if rate is None:
        raise Failure(f"dirty-rate: {value}")
    mib = rate / (1 << 20) if rate > 1 << 16 else rate
    if not 30 <= mib <= 200:
        raise Failure(f"a guest that writes 100 MiB/s is measured at {mib}")
    # In top, with a guest that stands beside it.
    pair.start(pair.alpha, "still", "mem=16 mode=idle fill=zero", "64M", 1)
    pair.alpha.vmctl("pause", "still")
    rows = {g["name"]: g for g in pair.alpha.json("top", "--dirty", "--count", "1")[-1]["guests"]}
    if not 30 <= rows["g"].get("dirty_bytes_per_s", 0) / (1 << 20) <= 200 or "dirty_bytes_per_s" in rows["still"]:
        raise Failure(f"top --dirty: {rows}")
    if "dirty_bytes_per_s" in pair.alpha.json("top", "--count", "1")[-1]["guests"][0]:
        raise Failure("top logs guests' writes unasked")


class Viewer:
    """vmctl console, as an operator's pipe."""

    def __init__(self, host, name):
        self.process = subprocess.Popen([os.path.join(host.pair.bin, "vmctl"), "-H", os.path.join(host.root, "ferryd.sock"), "console", name],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.text = {"out": b"", "err": b""}
        for which, pipe in (("out", self.process.stdout), ("err", self.process.stderr)):
            threading.Thread(target=self._read, args=(which, pipe), daemon=True).start()

    def _read(self, which, pipe):
        while True:
            data = os.read(pipe.fileno(), 65536)
            if not data:
                return
            self.text[which] += data

    def expect(self, which, word, timeout=20, start=0):
        wait_for(f"{word!r} from vmctl console", timeout, lambda: word in self.text[which][start:])

    def send(self, data):
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def close(self):
        self.process.kill()
        self.process.wait()


def console_survives_moves(pair):
    """One vmctl console all along: there, on to the peer, back again; not a byte lost or said twice."""
    console = pair.start(pair.alpha, "g", "mem=32 mode=seq rate=20 fill=text", "256M")
    filled(console)
    console.close()
    viewer = Viewer(pair.alpha, "g")
    viewer.expect("out", b"!filled")
    for source, target, words in ((pair.alpha, pair.beta, b"has moved to beta"), (pair.beta, pair.alpha, b"g is running")):
        move(source, target, "g")
        viewer.expect("err", words)
        start = len(viewer.text["out"])
        viewer.send(b"v")
        viewer.expect("out", b"!verdict intact", 60, start)
    pair.alpha.vmctl("pause", "g")
    whole = pair.alpha.console("g")  # the scrollback: all of it, as long as it is this short
    whole.expect(rb"!verdict intact[^$]*!verdict intact", 10)
    if len(whole.text) >= 65536:
        raise Failure("the guest said too much for this test")
    wait_for("the viewer to have it all", 10, lambda: len(viewer.text["out"]) >= len(whole.text))
    if viewer.text["out"] != whole.text:
        at = next(i for i, (a, b) in enumerate(zip(viewer.text["out"], whole.text)) if a != b)
        raise Failure(f"what was seen differs from what was said at byte {at} of {len(whole.text)}")
    whole.close()
    viewer.close()
    # Where the guest is no more, its peer says so, and vmctl ends with that.
    pair.alpha.vmctl("unpause", "g")
    move(pair.alpha, pair.beta, "g")
    pair.beta.vmctl("stop", "g", "-f")
    wait_for("the guest's end", 20, lambda: pair.beta.state("g") in (None, "stopped"))
    r = pair.alpha.vmctl("console", "g", check=False)
    if r.returncode == 0 or "its console on beta: " not in r.stderr:
        raise Failure(f"the console of a guest that has ended elsewhere: exit {r.returncode}, {r.stderr!r}")


def slow_viewer_loses_nothing(pair):
    """A viewer that does not read for thousands of single bytes gets them all when it does."""
    watcher = pair.start(pair.alpha, "g", "mem=16 mode=idle", "256M")
    filled(watcher)
    viewer = Viewer(pair.alpha, "g")
    viewer.expect("out", b"!filled")
    viewer.process.send_signal(signal.SIGSTOP)
    seen = watcher.length()
    wait_for("the guest to say much", 30, lambda: watcher.length() > seen + 5000)
    viewer.process.send_signal(signal.SIGCONT)
    pair.alpha.vmctl("pause", "g")
    wait_for("the viewer to have it all", 10, lambda: len(viewer.text["out"]) >= watcher.length())
    if viewer.text["out"] != watcher.text:
        raise Failure(f"{len(viewer.text['out'])} bytes seen, {watcher.length()} said, or others")
    watcher.close()
    viewer.close()


CHECKS = [there_and_back, pages_that_turn_zero, untouched_memory_is_not_moved, cancel_leaves_the_guest, deadline, plan_moves_nothing,
          paused_arrival, paused_guest, refusals, daemon_restarts, hypervisor_death_is_a_crash, debug_exit, dirty_rate,
          console_survives_moves, slow_viewer_loses_nothing]


def main():
    why = need_kvm()
    if why:
        print(f"skipped: {why}")
        return 77
    only = [a for a in sys.argv[1:] if not a.startswith("-") and "/" not in a]
    bad = 0
    for check in CHECKS:
        if only and check.__name__ not in only:
            continue
        start = time.monotonic()
        pair = None
        try:
            pair = Pair(build_argument(sys.argv))
            check(pair)
            say(f"ok {check.__name__} ({time.monotonic() - start:.1f} s)")
        except Exception as e:  # noqa: BLE001 - one check's failure must not hide the others
            bad += 1
            say(f"FAILED {check.__name__}: {type(e).__name__}: {e}")
            for h in getattr(pair, "hosts", []):
                with open(h.log, encoding="utf-8", errors="replace") as f:
                    say(f"{h.name}:", f.read()[-2500:])
        finally:
            if pair:
                pair.close()
    say(f"{bad} of {len(CHECKS)} checks failed")
    return 1 if bad else 0


sys.exit(main())
