#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The hand-over of disks (docs/spec/stream.md, section 4): a guest with a disk on shared storage moves, and a process dies or a step fails
where a disk changes hands. The guest ends up where the table says, with its disk locked by whoever runs it, and by nobody else."""
import fcntl
import os
import struct
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from ferry import Failure, Pair, build_argument, need_kvm, say, wait_for  # noqa: E402
from test_handover import CRASHED_SOURCE, CRASHED_TARGET, GUEST, SOURCE, TARGET, check_end, logs, read, settle  # noqa: E402

# (faults of alpha's processes, faults of beta's, where the guest ends up)
ROWS = [
    ("85:kill", "", CRASHED_SOURCE),         # flushed and unlocked, not latched: the source's hypervisor dies
    ("85:fail", "", SOURCE),                 # and its latch fails
    ("17:kill", "", SOURCE),                 # latched, COMMIT not sent
    ("17:kill,86:kill", "", CRASHED_SOURCE),  # as that, and the source's hypervisor dies before it has its disks back
    ("17:kill,86:fail", "", SOURCE),         # as that, and its disks are not to be had at first
    ("", "36:kill", SOURCE),                 # COMMIT came, the daemon was not told
    ("", "67:fail", SOURCE),                 # the target's daemon cannot open the disk
    ("", "67:kill", SOURCE),                 # or dies there
    ("", "87:fail", SOURCE),                 # the target's hypervisor has locked it and cannot run
    ("", "87:kill", SOURCE),                 # or dies there
    ("86:fail", "87:kill", SOURCE),          # and the source does not get it back at once
    ("", "84:kill", CRASHED_TARGET),         # the guest runs, its hypervisor dies
    ("18:kill", "", TARGET),                 # the source's worker dies behind COMMIT
]
SIZE = 1 << 20
F_OFD_SETLK = 37


def try_lock(fd):
    """A write lock for this process; False when another has one."""
    try:
        fcntl.fcntl(fd, F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
        return True
    except BlockingIOError:
        return False


def make_disk(pair):
    path = os.path.join(pair.disks, "a.img")
    with open(path, "wb") as f:
        f.truncate(SIZE)
    return path


def locked(path):
    with open(path, "r+b") as f:
        return not try_lock(f.fileno())


def begin(pair, source_faults="", target_faults=""):
    for host, faults in ((pair.alpha, source_faults), (pair.beta, target_faults)):
        if faults:
            host.stop_daemon()
            host.start_daemon(fault=faults)
    path = make_disk(pair)
    pair.start(pair.alpha, "g", GUEST, "64M", 1, "-d", path).expect(rb"!filled \d+", 60)
    if not locked(path):
        raise Failure("the disk of a running guest is not locked")
    return path


def fired(pair, faults):
    text = "".join(read(path) for h in pair.hosts for path in logs(h))
    return [f for f in faults.replace(",", " ").split() if f"fault point {f.split(':')[0]} fires" not in text]


def check_disk(path, where):
    """Who runs has the lock; where nobody runs it is free."""
    want = where in (SOURCE, TARGET)
    wait_for(f"the disk to be {'locked' if want else 'free'}", 10, lambda: locked(path) == want, 0.05)


def row(build, source_faults, target_faults, want):
    pair = Pair(build)
    try:
        path = begin(pair, source_faults, target_faults)
        p = pair.alpha.spawn("migrate", "g", "beta", "--json")
        p.communicate(timeout=60)
        got = settle(pair, 30)
        if got == SOURCE and want == CRASHED_SOURCE:
            # It was to run here again, and its hypervisor dies doing so.
            got = wait_for("its end", 10, lambda: settle(pair, 5) == CRASHED_SOURCE and CRASHED_SOURCE, 0.05)
        if got != want:
            raise Failure(f"the guest is {got}; the table says {want}")
        # A dropped hypervisor's log is gone with it.
        missing = fired(pair, source_faults + "," + target_faults) if want in (SOURCE, TARGET) else []
        missing = [f for f in missing if not (f.startswith(("83", "87")) and want == SOURCE)]
        if missing:
            raise Failure(f"fault points {missing} were not reached")
        check_end(pair, got)
        check_disk(path, got)
        if got == SOURCE:
            # Nothing is left in the way of the next try.
            for h in pair.hosts:
                h.stop_daemon()
                h.start_daemon()
            pair.alpha.vmctl("migrate", "g", "beta")
            wait_for("it to run at the target", 10, lambda: pair.beta.state("g") == "running")
            check_end(pair, TARGET)
            check_disk(path, TARGET)
    except Failure:
        for h in pair.hosts:
            say(f"{h.name}:", read(h.log)[-3000:])
        raise
    finally:
        pair.close()


def stranger(build):
    """Somebody else takes the lock while it is nobody's: the target cannot run the guest and says so, the source's stands until it is
    given back, and goes on by itself."""
    pair = Pair(build)
    try:
        path = begin(pair, "17:delay=1500")
        p = pair.alpha.spawn("migrate", "g", "beta", "--json")
        with open(path, "r+b") as f:
            wait_for("the source to let go of the disk", 20, lambda: try_lock(f.fileno()))
            out, err = p.communicate(timeout=60)
            wait_for("the guest to stand at the source", 20, lambda: pair.alpha.state("g") == "paused", 0.05)
            if "in use" not in out + err + read(pair.alpha.log):
                raise Failure(f"nothing says why: {out!r} {err!r}")
            if "in use" not in pair.alpha.guest("g").get("warning", ""):
                raise Failure(f"the guest's entry does not say why it stands: {pair.alpha.guest('g')}")
            before = pair.alpha.guest("g")["running_ms"]
            # A move from here would hand over a disk that it does not have.
            r = pair.alpha.vmctl("migrate", "g", "beta", check=False)
            ran, there = pair.alpha.guest("g")["running_ms"] - before, pair.beta.guest("g")
            if r.returncode == 0 or ran or (there and (there["state"] != "incoming" or there["running_ms"])):
                raise Failure(f"a guest without its disk has moved or run: {r.returncode} {r.stderr!r}, {ran} ms, at beta {there}")
            # The target clears away by itself what the refused move left.
            wait_for("the target to forget the guest", 20, lambda: pair.beta.guest("g") is None)
        if settle(pair, 20) != SOURCE:
            raise Failure("the guest did not go on at the source")
        check_end(pair, SOURCE)
        check_disk(path, SOURCE)
    finally:
        pair.close()


def cancelled(build):
    """A cancel before the switch: the lock was never given up."""
    pair = Pair(build)
    try:
        path = begin(pair, "13:delay=800")
        p = pair.alpha.spawn("migrate", "g", "beta", "--json")
        job = wait_for("the job", 10, lambda: pair.alpha.guest("g").get("job"))
        pair.alpha.vmctl("job", "cancel", job, check=False)
        p.communicate(timeout=60)
        where = settle(pair, 20)
        check_end(pair, where)
        check_disk(path, where)
        return where
    finally:
        pair.close()


def main():
    build = build_argument(sys.argv)
    reason = need_kvm()
    if reason:
        say(f"skipped: {reason}")
        return 77
    bad = 0
    only = [a for a in sys.argv[1:] if a[0].isdigit()]
    checks = [(f"row {a or '-'} / {b or '-'}", lambda a=a, b=b, want=want: row(build, a, b, want)) for a, b, want in ROWS]
    checks += [("a stranger has the disk", lambda: stranger(build)), ("cancel", lambda: cancelled(build))]
    for name, check in checks:
        if only and not any(o in name for o in only):
            continue
        try:
            start = time.monotonic()
            check()
            say(f"ok {name} ({time.monotonic() - start:.1f} s)")
        except Exception as e:  # noqa: BLE001 - every row is tried
            bad += 1
            say(f"FAILED {name}: {type(e).__name__}: {e}")
    say(f"{bad} failed")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
