#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Definitions: kept over the daemon's death, started by hand, by the daemon's start and after a crash, and never where the guest
would run twice."""
import os
import re
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from ferry import ENGINE, Failure, Pair, build_argument, need_kvm, say, wait_for  # noqa: E402

WORK = "mem=16 mode=random rate=40 fill=mixed"


def equal(what, got, expected):
    if got != expected:
        raise Failure(f"{what}: {got!r} instead of {expected!r}")


def refused(host, code, words, *args):
    r = host.vmctl(*args, check=False)
    if r.returncode != code or not re.search(words, r.stderr):
        raise Failure(f"vmctl {' '.join(args)}: {r.returncode} instead of {code}, {r.stderr!r} without {words!r}")


def define(pair, host, *options, work=WORK, name="g"):
    host.vmctl("create", name, "-m", "64M", "-k", os.path.join(pair.guests, "selfcheck.elf"), "-a", work, "--engine", ENGINE, *options)


def pid_of(host, name="g"):
    g = host.guest(name)
    return g.get("pid") if g else None


def running(host, name="g", than=None, timeout=20):
    """Its pid, once it runs as another process than `than`."""
    def there():
        g = host.guest(name)
        return g and g["state"] == "running" and g.get("pid") not in (None, than) and g["pid"]
    return wait_for(f"{name} to run on {host.name}", timeout, there, 0.02)


def reads(host, path, text):
    with open(os.path.join(host.root, path), encoding="utf-8") as f:
        return re.search(text, f.read())


def restart_daemon(host, sig=signal.SIGKILL, fault=None):
    host.stop_daemon(sig)
    host.start_daemon(fault)


def log_says(host, text, start=0):
    with open(host.log, encoding="utf-8", errors="replace") as f:
        f.seek(start)
        return re.search(text, f.read())


def no_start_by_itself(host, name="g"):
    """After a start of the daemon: it has looked at its definitions when it answers, and this guest is not among the started."""
    g = host.guest(name)
    if g and g["state"] in ("starting", "running"):
        raise Failure(f"{name} was started by itself on {host.name}")


# --- checks: each gets a fresh pair of hosts ----------------------------------------------------------------------------

def kept_and_started(pair):
    a = pair.alpha
    define(pair, a, "-p", "2")
    equal("state", a.state("g"), "defined")
    for verb in ("stop", "wait", "pause", "console"):
        refused(a, 4, "does not run", verb, "g")
    equal("show", a.json("show", "g")[0]["defined"], True)
    if not reads(a, "definitions/g.yaml", r"(?m)^memory: 64M$"):
        raise Failure("the readable file lacks the memory")
    a.vmctl("start", "g")
    running(a)
    equal("vCPUs", a.guest("g")["vcpus"], 2)
    # what is set counts from the next start on
    a.vmctl("set", "g", "memory=128M", "cpus=1", "append=" + WORK + " x=\"y: z\"")
    equal("memory of the one that runs", a.guest("g")["memory_bytes"], 64 << 20)
    refused(a, 4, "stop it first", "delete", "g")
    refused(a, 14, "taken by a guest that is running", "start", "g")
    a.vmctl("stop", "g", "-f")
    a.vmctl("start", "g")
    running(a)
    equal("memory", a.guest("g")["memory_bytes"], 128 << 20)
    equal("vCPUs", a.guest("g")["vcpus"], 1)
    equal("command line", a.guest("g")["cmdline"], WORK + " x=\"y: z\"")
    a.vmctl("stop", "g", "-f")
    # out and in again
    yaml = a.vmctl("export", "g").stdout
    path = os.path.join(pair.folder, "g.yaml")
    with open(path, "w", encoding="utf-8") as f:
        f.write(yaml)
    equal("export --json", a.json("export", "g")[0]["memory"], 128 << 20)
    a.vmctl("delete", "g")
    equal("after delete", a.guest("g"), None)
    equal("its file", os.path.exists(os.path.join(a.root, "definitions", "g.yaml")), False)
    refused(a, 3, "no definition", "export", "g")
    equal("create --json", a.json("create", "-f", path)[0], {"schema": 1, "name": "g", "done": "create"})
    equal("export", a.vmctl("export", "g").stdout, yaml)
    # a new daemon knows it
    restart_daemon(a)
    equal("export after kill -9", a.vmctl("export", "g").stdout, yaml)
    a.vmctl("start", "g", "--paused")
    equal("state", a.state("g"), "paused")


def disks(pair):
    a = pair.alpha
    files = [os.path.join(pair.folder, name) for name in ("one.img", "two.raw", "three")]
    for path in files:
        with open(path, "wb") as f:
            f.truncate(4 << 20)
    define(pair, a, "-d", files[0] + ",cache=none", "-d", files[1] + ",ro,name=second")
    equal("disks", a.json("export", "g")[0]["disks"], [files[0] + ",cache=none", files[1] + ",ro,name=second"])
    a.vmctl("start", "g")
    running(a)
    got = [(d["source"], d["cache"], d["read_only"]) for d in a.guest("g")["disks"]]
    equal("the guest's", got, [(files[0], "none", False), (files[1], "writeback", True)])
    equal("the second's name", a.guest("g")["disks"][1]["name"], "second")
    a.vmctl("stop", "g", "-f")
    a.vmctl("set", "g", "disks=" + files[2])
    refused(a, 2, "does not say what format", "start", "g")
    a.vmctl("set", "g", "disks=" + files[2] + ",format=raw")
    a.vmctl("start", "g")
    running(a)
    equal("disks after set", [d["source"] for d in a.guest("g")["disks"]], [files[2]])
    a.vmctl("stop", "g", "-f")
    os.unlink(files[2])
    refused(a, 2, "three", "start", "g")


def paths_of_files(pair):
    """Paths in a file are seen from its folder, those of options from where vmctl runs; the daemon gets absolute ones."""
    a = pair.alpha
    folder = os.path.join(pair.folder, "defs")
    os.mkdir(folder)
    os.symlink(os.path.join(pair.guests, "selfcheck.elf"), os.path.join(folder, "kernel"))
    path = os.path.join(folder, "w.yaml")
    with open(path, "w", encoding="utf-8") as f:
        f.write(f"name: w\nmemory: 64M\nkernel: kernel\nengine: {ENGINE}\nappend: {WORK}\n")
    a.vmctl("create", "-f", path)
    equal("kernel", a.json("export", "w")[0]["kernel"], os.path.join(os.path.realpath(folder), "kernel"))
    a.vmctl("start", "w")
    running(a, "w")
    r = subprocess.run([os.path.join(pair.bin, "vmctl"), "-H", os.path.join(a.root, "ferryd.sock"), "set", "w", "initrd=i"], cwd="/tmp",
                       check=True)
    equal("set", r.returncode, 0)
    equal("initrd", a.json("export", "w")[0]["initrd"], "/tmp/i")


def refusals(pair):
    a = pair.alpha
    path = os.path.join(pair.folder, "bad.yaml")
    for text, words in (("name: g\nmemry: 2G\n", "bad.yaml: line 2, column 1: there is no setting memry"),
                        ("name: g\ncpus: many\n", "bad.yaml: line 2, column 7: cpus: many is no whole number from 1 to 64"),
                        ("name: g\ndisks: x\n", "bad.yaml: line 2, column 8: disks wants a list"),
                        ("name: [g\n", "bad.yaml: line"), ("name: -g\n", "a name has 1 to 63"),
                        ("memory: 2G\n", "needs a name"), ("name: g\nengine: steam\n", "steam"),
                        ("name: g\nengine: soft,icount=5\ncpus: 2\n", "vCPU")):
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        refused(a, 2, words, "create", "-f", path)
    equal("nothing came of it", a.guest("g"), None)
    refused(a, 2, "has no definition", "start", "g")
    refused(a, 2, "no kernel is given", "start", "g", "-m", "64M")
    refused(a, 3, "no definition", "set", "g", "cpus=1")
    refused(a, 3, "no definition", "delete", "g")
    refused(a, 3, "no such guest", "logs", "g")
    refused(a, 2, "cannot open", "create", "-f", path + ".none")
    refused(a, 2, "in the file", "create", "g", "-f", path, "-m", "64M")
    refused(a, 2, "for `vmctl start`", "create", "g", "--paused")
    define(pair, a)
    refused(a, 14, "--replace", "create", "g", "-m", "64M")
    refused(a, 2, "there is no setting colour", "set", "g", "colour=red")
    refused(a, 2, "whole number from 1 to 64", "set", "g", "cpus=1", "cpus=0")
    refused(a, 2, "none of no.on-crash", "set", "g", "restart=always")
    equal("nothing was set", "cpus" in a.json("export", "g")[0], False)
    a.vmctl("set", "g", "kernel=" + path + ".none")
    refused(a, 2, "cannot open its kernel", "start", "g")
    os.mkfifo(path + ".fifo")
    a.vmctl("set", "g", "kernel=" + path + ".fifo")
    refused(a, 2, "no regular file", "start", "g")
    a.vmctl("set", "g", "kernel=")
    refused(a, 2, "kernel is needed", "start", "g")
    equal("state", a.state("g"), "defined")


def autostart(pair):
    a = pair.alpha
    define(pair, a, "--autostart")
    define(pair, a, name="h")
    equal("not before the daemon starts", a.state("g"), "defined")
    restart_daemon(a)
    pid = running(a)
    equal("the other", a.state("h"), "defined")
    # the daemon dies, the guest does not: it is not started again
    restart_daemon(a)
    equal("its process", running(a), pid)
    # both die
    a.stop_daemon(signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    a.start_daemon()
    pid = running(a, than=pid)
    # set to no
    a.vmctl("set", "g", "autostart=no")
    a.stop_daemon(signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    a.start_daemon()
    wait_for("its end to be noticed", 10, lambda: a.state("g") == "crashed")
    no_start_by_itself(a)
    equal("run twice", pair.check_one_runner() >= 2, True)
    # what cannot start does not keep the daemon from serving
    a.vmctl("set", "g", "autostart=yes", "kernel=/none")
    restart_daemon(a)
    wait_for("the failure to be told", 10, lambda: log_says(a, "guest g cannot be started by itself: cannot open its kernel"))


def after_crashes(pair):
    a = pair.alpha
    define(pair, a, "--debug-exit")
    a.vmctl("start", "g")
    pid = running(a)
    os.kill(pid, signal.SIGKILL)
    wait_for("its crash", 10, lambda: a.state("g") == "crashed")
    a.vmctl("set", "g", "restart=on-crash")
    a.vmctl("start", "g")
    pid = running(a)
    begun = time.monotonic()
    for wait in (1000, 2000, 4000):
        os.kill(pid, signal.SIGKILL)
        pid = running(a, than=pid)
        if not log_says(a, f"guest g: starts again in {wait} ms"):
            raise Failure(f"no wait of {wait} ms")
    if time.monotonic() - begun < 7:
        raise Failure("it came back sooner than it should")
    # over by an operator's will or by its own: not started again
    a.vmctl("stop", "g", "-f")
    wait_for("its end", 10, lambda: a.state("g") == "stopped")
    a.vmctl("start", "g")
    running(a)
    console = a.console("g")
    console.expect(rb"!filled", 60)
    console.send(b"q")
    equal("exit status", a.json("wait", "g")[0]["exit_status"], 1)
    console.close()
    # during the wait: stop takes the entry and the restart away
    a.vmctl("start", "g")
    pid = running(a)
    os.kill(pid, signal.SIGKILL)
    wait_for("its crash", 10, lambda: a.state("g") == "crashed")
    a.vmctl("stop", "g")
    equal("state", a.state("g"), "defined")
    # the daemon dies during the wait: its successor starts the guest
    a.vmctl("start", "g")
    pid = running(a)
    os.kill(pid, signal.SIGKILL)
    wait_for("its crash", 10, lambda: a.state("g") == "crashed")
    restart_daemon(a)
    running(a, than=pid)
    pair.check_one_runner()


def logs(pair):
    a = pair.alpha
    define(pair, a)
    refused(a, 3, "no log is kept", "logs", "g")
    a.vmctl("start", "g")
    running(a)
    path = os.path.join(a.root, "guests", a.guest("g")["uuid"], "log")
    with open(path, "a", encoding="utf-8") as f:
        f.write("first line\nhalf")
    equal("logs", "first line\nhalf" in a.vmctl("logs", "g").stdout, True)
    equal("logs --json", {"schema": 1, "name": "g", "line": "first line"} in a.json("logs", "g"), True)
    p = a.spawn("logs", "g", "-f")
    for line in p.stdout:
        if line == "first line\n":
            break
    with open(path, "a", encoding="utf-8") as f:
        f.write(" line\nanother\n")
    equal("followed", [p.stdout.readline(), p.stdout.readline()], ["half line\n", "another\n"])
    a.vmctl("stop", "g", "-f")
    a.vmctl("start", "g")
    equal("the end of following", p.wait(20), 0)
    p.stdout.close()
    p.stderr.close()
    equal("the run before", "half line\nanother\n" in a.vmctl("logs", "g", "--previous").stdout, True)
    equal("this run", "another" in a.vmctl("logs", "g").stdout, False)


def moved_away(pair):
    """The definition stays behind with a pointer: nothing but an operator's word starts it, whatever is removed or restarted."""
    a, b = pair.alpha, pair.beta
    define(pair, a, "--autostart", "--restart", "on-crash")
    a.vmctl("start", "g")
    running(a)
    a.vmctl("migrate", "g", "beta")
    refused(a, 4, "moved to beta", "start", "g")
    restart_daemon(a)
    no_start_by_itself(a)
    a.vmctl("stop", "g")  # clears the entry of the one that moved
    equal("state", a.state("g"), "defined")
    equal("pointer", a.guest("g")["moved_to"], "beta")
    refused(a, 4, "moved to beta", "start", "g")
    refused(a, 4, "moved to beta", "start", "g", "-k", os.path.join(pair.guests, "selfcheck.elf"), "-m", "64M")
    restart_daemon(a)
    no_start_by_itself(a)
    wait_for("it to be told", 10, lambda: log_says(a, "guest g is not started by itself: it has moved to beta"))
    # its end there is not a crash here
    os.kill(running(b), signal.SIGKILL)
    wait_for("its crash", 10, lambda: b.state("g") == "crashed")
    restart_daemon(a)
    no_start_by_itself(a)
    # an operator's word
    here = [os.path.join(pair.bin, "vmctl"), "-H", os.path.join(a.root, "ferryd.sock"), "start", "g", "--here"]
    r = subprocess.run(here, input="no\n", capture_output=True, text=True, check=False)
    equal("not confirmed", r.returncode, 9)
    r = subprocess.run(here, input="g\n", capture_output=True, text=True, check=False)
    equal("confirmed", (r.returncode, a.guest("g").get("moved_to")), (0, None))
    pid = running(a)
    os.kill(pid, signal.SIGKILL)
    running(a, than=pid)
    pair.check_one_runner()


def there_and_back(pair):
    a, b = pair.alpha, pair.beta
    define(pair, a, "--autostart", "--restart", "on-crash")
    a.vmctl("start", "g")
    running(a)
    a.vmctl("migrate", "g", "beta")
    b.vmctl("migrate", "g", "alpha")
    pid = running(a)
    restart_daemon(a)
    equal("its process", running(a), pid)
    os.kill(pid, signal.SIGKILL)
    running(a, than=pid)
    pair.check_one_runner()


def defined_on_both(pair):
    """Where the guest is, there its definition counts."""
    a, b = pair.alpha, pair.beta
    define(pair, a, "--autostart", "--restart", "on-crash")
    path = os.path.join(pair.folder, "g.yaml")
    with open(path, "w", encoding="utf-8") as f:
        f.write(a.vmctl("export", "g").stdout)
    b.vmctl("create", "-f", path)
    a.vmctl("start", "g")
    running(a)
    a.vmctl("migrate", "g", "beta")
    for h in pair.hosts:
        restart_daemon(h)
    pid = running(b)
    no_start_by_itself(a)
    b.stop_daemon(signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    restart_daemon(a)
    b.start_daemon()
    pid = running(b, than=pid)
    no_start_by_itself(a)
    pair.check_one_runner()


def death_in_a_move(point, side):
    """A daemon, worker or hypervisor dies at a point around COMMIT, with a definition that would start the guest by itself: it runs
    once, and the definitions know where."""
    def check(pair):
        a = pair.alpha
        define(pair, a, "--autostart", "--restart", "on-crash")
        carrier = a if side == "alpha" else pair.beta
        restart_daemon(carrier, signal.SIGTERM, f"{point}:kill")
        if side == "beta":
            a.vmctl("start", "g")
        running(a)
        a.vmctl("migrate", "g", "beta", check=False)

        def settled():
            for h in pair.hosts:
                if h.daemon is None or h.daemon.poll() is not None:
                    h.daemon = None
                    h.start_daemon()
            try:
                states = [h.state("g") for h in pair.hosts]
            except Failure:
                return None  # a daemon died just now
            return states if states in (["running", None], ["moved", "running"], ["moved", "crashed"]) else None
        states = wait_for("the end of the move", 40, settled, 0.05)
        for h in pair.hosts:  # and once more with new daemons
            restart_daemon(h)
        wait_for(f"the same after a restart, {states}", 20, lambda: [h.state("g") for h in pair.hosts] == states)
        if states[0] == "moved":
            refused(a, 4, "moved to beta", "start", "g")
        spans = pair.check_one_runner()
        say(f"died at {point}: alpha {states[0]}, beta {states[1]}, {spans} runs")
    check.__name__ = f"death_at_{point}"
    return check


DEATHS = [(13, "alpha"), (17, "alpha"), (18, "alpha"), (19, "alpha"), (37, "beta"), (50, "alpha"), (51, "alpha"), (52, "alpha"),
          (53, "alpha"), (62, "beta"), (63, "beta"), (64, "beta"), (80, "alpha"), (84, "beta")]
CHECKS = [kept_and_started, disks, paths_of_files, refusals, autostart, after_crashes, logs, moved_away, there_and_back, defined_on_both,
          *(death_in_a_move(point, side) for point, side in DEATHS)]


def main():
    why = need_kvm()
    if why:
        print(f"skipped: {why}")
        return 77
    only = [a for a in sys.argv[1:] if not a.startswith("-") and "/" not in a]
    bad = ran = 0
    for check in CHECKS:
        if only and check.__name__ not in only:
            continue
        ran += 1
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
    say(f"{bad} of {ran} checks failed")
    return 1 if bad or not ran else 0


sys.exit(main())
