#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Disks with a server: an export by NBD over TCP, one by a unix socket, and a qcow2 image. A stock Linux guest reads, writes, flushes,
discards, moves between two hosts while it writes, and goes on when a server dies and comes back."""
import os
import re
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ferry  # noqa: E402
from shell import Shell, devices_guest  # noqa: E402
from test_disk import MIB, SIZE, check_file, guest_md5, holes, make_image, md5, read_at  # noqa: E402

PORT = "10809"
# Writes slot after slot, each with its number in every word, flushed, and says so.
WRITER = (r"(n=0; while [ ! -e /tmp/stop ]; do n=$((n+1)); printf '%065536d' $n | dd of=/dev/vda bs=64k seek=$((n%256)) conv=notrunc,fsync 2>/dev/null "
          r"&& printf '%065536d' $n | dd of=/dev/vdb bs=64k seek=$((n%256)) conv=notrunc,fsync 2>/dev/null "
          r"&& echo w$n. || { echo FAI''LED; sleep 1; }; done; echo stop''ped) &")


class Server:
    """An nbdkit that serves a file, at alpha's addresses or a unix socket."""

    def __init__(self, pair, file, *options, unix=None, read_only=False):
        self.at = ["--unix", unix] if unix else ["--port", PORT]
        self.unix = unix
        self.file = file
        self.argv = pair.alpha.command("nbdkit", "--foreground", "--exit-with-parent", "--exportname", "x", *(["--readonly"] if read_only else []),
                                       *self.at, "--pidfile", file + ".pid", *options, "file", file)
        self.pidfile = file + ".pid"
        self.start()

    def start(self):
        for path in [self.pidfile] + ([self.unix] if self.unix else []):
            if os.path.exists(path):
                os.unlink(path)
        self.process = subprocess.Popen(self.argv)
        ferry.wait_for("the server", 10, lambda: os.path.exists(self.pidfile))

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def qcow2(path, raw):
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, path], check=True)


def image_bytes(path, at, size):
    """What a qcow2 image that nobody has open holds."""
    raw = path + ".raw"
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, raw], check=True)
    data = read_at(raw, at, size)
    os.unlink(raw)
    return data


def refused(host, code, words, *args):
    r = host.vmctl("start", "other", "-k", devices_guest()[0], "--engine", "soft", *args, check=False)
    assert r.returncode == code and all(w in r.stderr for w in words), f"{args}: {r.returncode} {r.stderr!r}"
    assert host.guest("other") is None or host.guest("other")["state"] != "running", "a refused start left a guest"


def check_refusals(pair, uri, image, raw):
    refused(pair.alpha, 2, ["port"], "-d", f"nbd://{pair.alpha.ip}:0/x")
    refused(pair.alpha, 13, ["not spoken"], "-d", f"nbds://{pair.alpha.ip}/x")
    refused(pair.alpha, 2, ["socket"], "-d", "nbd+unix:///x")
    refused(pair.alpha, 2, ["raw"], "-d", uri + ",format=qcow2")
    refused(pair.alpha, 3, ["No such file"], "-d", f"nbd+unix:///x?socket={pair.folder}/none")
    r = pair.alpha.vmctl("start", "other", "-k", devices_guest()[0], "-d", f"nbd://{pair.alpha.ip}:1/x", check=False)
    assert r.returncode == 6 and "refused" in r.stderr, f"{r.returncode} {r.stderr!r}"
    refused(pair.alpha, 5, ["lock"], "-d", image)
    # A raw file is raw, whatever it holds.
    fake = os.path.join(pair.disks, "fake.img")
    qcow2(fake, raw)
    pair.alpha.vmctl("start", "other", "-k", devices_guest()[0], "--engine", "soft", "-d", fake)
    assert pair.alpha.guest("other")["disks"][0]["bytes"] == os.path.getsize(fake), "a raw file was looked into"
    pair.alpha.vmctl("stop", "-f", "other")
    refused(pair.alpha, 2, ["no qcow2"], "-d", raw + ",format=qcow2")
    child = os.path.join(pair.disks, "child.qcow2")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", raw, child], check=True)
    refused(pair.alpha, 2, ["backing file"], "-d", child)
    only = os.path.join(pair.disks, "only.img")
    make_image(only, MIB, 5)
    sock = os.path.join(pair.folder, "ro.sock")
    s = Server(pair, only, unix=sock, read_only=True)
    refused(pair.alpha, 5, ["read-only"], "-d", f"nbd+unix:///x?socket={sock}")
    # Read by two guests, one from a definition.
    pair.alpha.vmctl("start", "other", "-k", devices_guest()[0], "--engine", "soft", "-d", f"nbd+unix:///x?socket={sock},ro")
    pair.alpha.vmctl("create", "kept", "-k", devices_guest()[0], "--engine", "soft", "-d", f"nbd+unix:///x?socket={sock},ro,hold=9")
    pair.alpha.vmctl("start", "kept")
    assert pair.alpha.guest("kept")["state"] == "running" and f"{sock},ro,hold=9" in pair.alpha.vmctl("export", "kept").stdout
    # It lies under no folder that a peer's guests may have disks in.
    r = pair.alpha.vmctl("migrate", "other", "beta", check=False)
    assert r.returncode and "lies in no folder" in r.stderr and pair.alpha.state("other") == "running", f"{r.returncode} {r.stderr!r}"
    for name in ("other", "kept"):
        pair.alpha.vmctl("stop", "-f", name)
    # Elsewhere than at the servers that beta was told of.
    pair.alpha.vmctl("start", "other", "-k", devices_guest()[0], "--engine", "soft", "-d", f"nbd://127.0.0.2:{PORT}/x")
    r = pair.alpha.vmctl("migrate", "--plan", "other", "beta", check=False)
    assert r.returncode == 5 and "at no server here" in r.stderr, f"{r.returncode} {r.stderr!r}"
    pair.alpha.vmctl("stop", "-f", "other")
    s.kill()


def check_contents(shell, data):
    for disk in ("vda", "vdb", "vdc"):
        assert guest_md5(shell, disk, 0, 8) == md5(data[disk][:8 * MIB]), f"{disk} reads wrong"
        out = shell.run(f"dd if=/dev/urandom of=/dev/{disk} bs=1M seek=24 count=8 conv=fsync 2>&1; "
                        f"dd if=/dev/urandom of=/dev/{disk} bs=512 seek=65001 count=7 conv=notrunc,fsync 2>&1", 120)
        assert "error" not in out and "FAILED" not in out, out


def blk_pids(host):
    """The ferry-blk and qemu-nbd processes of a host."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat", encoding="latin-1") as f:
                name, rest = f.read().split("(", 1)[1].rsplit(")", 1)
        except OSError:
            continue
        if name in ("ferry-blk", "qemu-nbd") and int(rest.split()[1]) == host.daemon.pid and rest.split()[0] != "Z":
            found.append((name, int(pid)))
    return found


def check_moves(pair, shell, moves):
    source, target = pair.alpha, pair.beta
    start = shell.console.length()
    shell.console.send(WRITER.encode() + b"\n")
    shell.console.expect(rb"w3\.", 60, start)
    last = 0
    downtimes = []
    for _ in range(moves):
        downtimes.append(source.json("migrate", "g", target.name, "--max-downtime", "5s")[-1]["downtime_ms"])
        console = target.console("g", scrollback=False)
        m = console.expect(rb"w(\d+)\.(?s:.*)w(\d+)\.", 60)
        assert int(m.group(2)) > int(m.group(1)) > last, f"{m.group(0)!r} after {last}"
        last = int(m.group(1))
        assert b"FAILED" not in shell.console.text, "a write failed"
        shell.console.close()
        shell.console = console
        ferry.wait_for("the source's servers to end", 10, lambda h=source: not blk_pids(h), 0.05)
        source, target = target, source
    ferry.say("downtimes, ms:", *(f"{d:.0f}" for d in sorted(downtimes)))
    return source


def written(shell):
    return [int(n) for n in re.findall(rb"w(\d+)\.", shell.console.text)]


def goes_on(shell, what):
    start = shell.console.length()
    shell.console.expect(rb"w\d+\.(?s:.*)w\d+\.", 60, start)
    assert b"FAILED" not in shell.console.text, f"a write failed: {what}"


def check_fall_back(pair, shell, host):
    """The target's hypervisor has opened the disks and cannot run: the source has them back and goes on."""
    other = pair.other(host)
    other.stop_daemon()
    other.start_daemon(fault="87:fail")
    r = host.vmctl("migrate", "g", other.name, "--max-downtime", "5s", check=False)
    assert r.returncode, "it moved all the same"
    ferry.wait_for("the guest to run at the source", 20, lambda: host.state("g") == "running")
    goes_on(shell, "falling back")
    ferry.wait_for("the target's servers to end", 10, lambda: not blk_pids(other), 0.05)
    other.stop_daemon()
    other.start_daemon()


def check_daemon(shell, host):
    """The daemon starts anew: what its predecessor started goes on, and is replaced when it ends."""
    pids = blk_pids(host)
    assert len(pids) == 4, pids  # three disks, and the image's server
    host.stop_daemon(signal.SIGKILL)
    goes_on(shell, "without a daemon")
    host.start_daemon()
    ferry.wait_for("the guest to be found", 10, lambda: host.state("g") == "running")
    assert not blk_pids(host), "servers were started needlessly"
    for _, pid in pids:
        os.kill(pid, signal.SIGKILL)
    goes_on(shell, "its servers were killed after the daemon")
    ferry.wait_for("others in their place", 10, lambda: len(blk_pids(host)) == 4, 0.05)


def check_restart(pair, shell, server, host):
    """The server is killed while the guest writes; its requests wait, and nothing is lost."""
    server.kill()
    ferry.wait_for("the host to say so", 10, lambda: "its server is gone" in host.guest("g").get("warning", ""))
    seen = len(written(shell))
    r = host.vmctl("migrate", "g", pair.other(host).name, "--max-downtime", "5s", check=False)
    assert r.returncode and "disk" in r.stderr, f"{r.returncode} {r.stderr!r}"
    ferry.wait_for("the guest to run at the source", 10, lambda: host.state("g") == "running")
    assert len(written(shell)) <= seen + 1 and b"FAILED" not in shell.console.text, "writes went on without a server"
    server.start()
    start = shell.console.length()
    shell.console.expect(rb"w\d+\.(?s:.*)w\d+\.", 30, start)
    assert b"FAILED" not in shell.console.text, "a write failed though the server came back in time"
    ferry.wait_for("the warning to go", 10, lambda: not host.guest("g").get("warning"))


def check_isolation(host):
    """What a ferry-blk has given up (docs/isolation.md)."""
    pids = [p for n, p in blk_pids(host) if n == "ferry-blk"]
    assert len(pids) == 3, pids
    for pid in pids:
        with open(f"/proc/{pid}/status", encoding="ascii") as f:
            status = dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)
        assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2", status
        if os.geteuid() == 0:
            assert int(status["Uid"].split()[0]) >> 24 == 0x69 and int(status["CapEff"], 16) == 0 and not status["Groups"].strip(), status


def check_reset(pair, unix):
    """A machine is reset while requests wait for a server: they are forgotten, and its next driver finds the disk."""
    kernel, initrd = devices_guest()
    pair.alpha.vmctl("start", "r", "-k", kernel, "-r", initrd, "-m", "256M", "--engine", "soft", "-a", "console=ttyS0 quiet",
                     "-d", f"nbd+unix:///x?socket={unix.unix},ro,hold=600")
    console = pair.alpha.console("r")
    console.expect(b"devices ready", 120)
    shell = Shell(console)
    unix.kill()
    start = console.length()
    console.send(b"cat /dev/vda >/dev/null & echo ask''ed\n")
    console.expect(b"asked", 20, start)
    ferry.wait_for("the host to say so", 10, lambda: "its server is gone" in pair.alpha.guest("r").get("warning", ""))
    start = console.length()
    pair.alpha.vmctl("reset", "r")
    # Its boot reads the disk's partitions, which waits; the server comes back meanwhile.
    unix.start()
    console.expect(b"devices ready", 120, start)
    shell = Shell(console)
    assert guest_md5(shell, "vda", 0, 8) == md5(read_at(unix.file, 0, 8 * MIB))
    console.close()
    pair.alpha.vmctl("stop", "-f", "r")


def check_stall(pair, shell, server, host):
    """The server is there and does not answer: a move is refused in bounded time, and nothing is lost."""
    server.process.send_signal(signal.SIGSTOP)
    seen = [-1]

    def stands():
        before, seen[0] = seen[0], len(written(shell))
        return before == seen[0]
    ferry.wait_for("the writer to stand", 20, stands, 0.7)
    begun = time.monotonic()
    r = host.vmctl("migrate", "g", pair.other(host).name, "--max-downtime", "5s", check=False)
    took = time.monotonic() - begun
    assert r.returncode and "disk" in r.stderr, f"{r.returncode} {r.stderr!r}"
    ferry.wait_for("the guest to run at the source", 10, lambda: host.state("g") == "running")
    server.kill()
    server.start()
    goes_on(shell, "the server stood still")
    return took


def check_process(shell, host):
    """A ferry-blk and a qemu-nbd are killed: others take their place."""
    for name in ("ferry-blk", "qemu-nbd"):
        pids = [p for n, p in blk_pids(host) if n == name]
        assert pids, f"no {name} runs"
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        start = shell.console.length()
        shell.console.expect(rb"w\d+\.(?s:.*)w\d+\.", 60, start)
        assert b"FAILED" not in shell.console.text, f"a write failed when {name} was killed"
        assert not set(pids) & {p for _, p in blk_pids(host)}


def check_hold(pair, shell, server):
    """Requests fail when the server stays away for longer than hold=."""
    server.kill()
    out = shell.run("dd if=/dev/vdc of=/dev/null bs=4k count=1 iflag=direct 2>&1; echo over", 60)
    assert "error" in out, out
    server.start()

    def reads():
        return "records" in shell.run("dd if=/dev/vdc of=/dev/null bs=4k count=1 iflag=direct 2>&1") and "error" not in \
            shell.run("dd if=/dev/vdc of=/dev/null bs=4k count=1 iflag=direct 2>&1")
    ferry.wait_for("the disk to work again", 30, reads, 0.2)


def main():
    build = ferry.build_argument(sys.argv)
    moves = int(sys.argv[sys.argv.index("--moves") + 1]) if "--moves" in sys.argv else 4
    kernel, initrd = devices_guest()
    pair = ferry.Pair(build, disks=["nbd://10.77.0.1", "nbd://127.0.0.1"])
    servers = []
    try:
        paths = {d: os.path.join(pair.disks, n) for d, n in (("vda", "a.bin"), ("vdb", "b.bin"), ("vdc", "c.bin"))}
        data = {d: make_image(p, SIZE, seed) for seed, (d, p) in enumerate(paths.items())}
        image = os.path.join(pair.disks, "b.qcow2")
        qcow2(image, paths["vdb"])
        sock = os.path.join(pair.disks, "c.sock")
        tcp = Server(pair, paths["vda"])
        unix = Server(pair, paths["vdc"], unix=sock)
        servers += [tcp, unix]
        uri = f"nbd://{pair.alpha.ip}:{PORT}/x"
        pair.alpha.vmctl("start", "g", "-k", kernel, "-r", initrd, "-m", "512M", "-p", "2", "--engine", "soft", "-a", "console=ttyS0 quiet",
                         "-d", uri + ",name=data", "-d", image + ",cache=none", "-d", f"nbd+unix:///x?socket={sock},hold=2")
        console = pair.alpha.console("g")
        console.expect(b"devices ready", 120)
        shell = Shell(console)
        for disk in paths:
            assert int(shell.run(f"cat /sys/block/{disk}/size")) * 512 == SIZE
        show = pair.alpha.vmctl("show", "g").stdout
        assert uri in show and "qcow2" in show, show
        check_isolation(pair.alpha)
        check_contents(shell, data)
        assert guest_md5(shell, "vda", 0, 40) == md5(read_at(paths["vda"], 0, 40 * MIB)), "guest and export differ"
        assert guest_md5(shell, "vdc", 0, 40) == md5(read_at(paths["vdc"], 0, 40 * MIB)), "guest and export differ"
        assert holes(paths["vda"], 40 * MIB, 8 * MIB) == 0
        for disk in paths:
            out = shell.run(f"blkdiscard -o {40 * MIB} -l {8 * MIB} /dev/{disk} && echo discarded")
            assert "discarded" in out, out
            assert guest_md5(shell, disk, 40, 8) == md5(bytes(8 * MIB)), f"{disk}: discarded blocks read as something"
        assert holes(paths["vda"], 40 * MIB, 8 * MIB) == 8 * MIB, "the discarded range still takes space"
        ferry.say("contents, flush, discard: right, by TCP, unix socket and in a qcow2 image")
        check_refusals(pair, uri, image, paths["vda"])
        ferry.say("what cannot be is refused")
        host = check_moves(pair, shell, moves)
        check_fall_back(pair, shell, host)
        ferry.say("a move that the target could not end: the source has its disks back and the guest went on")
        check_restart(pair, shell, tcp, host)
        ferry.say("a server was killed and came back: nothing failed, a move meanwhile did and the guest went on")
        took = check_stall(pair, shell, tcp, host)
        ferry.say(f"a server stood still: a move was refused after {took:.1f} s, and nothing failed")
        check_process(shell, host)
        ferry.say("a ferry-blk and a qemu-nbd were killed: others took their place")
        check_daemon(shell, host)
        ferry.say("a daemon started anew, and its predecessor's servers were killed: the guest went on")
        check_hold(pair, shell, unix)
        host = check_moves_back(pair, shell, host)
        check_reset(pair, unix)
        ferry.say("a machine was reset while its disk had no server")
        shell.run("touch /tmp/stop")
        shell.console.expect(b"stopped", 60)
        n = written(shell)[-1]
        host.vmctl("stop", "-f", "g")
        ferry.wait_for("its servers to end", 10, lambda: not blk_pids(host), 0.05)
        check_file(paths["vda"], n)
        copy = os.path.join(pair.folder, "b.raw")
        subprocess.run(["qemu-img", "check", "-q", image], check=True)
        subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, copy], check=True)
        check_file(copy, n)
        ferry.say(f"{moves + 1} moves while the guest wrote {n} blocks of 64 KiB to each of two disks, each in its place")
        pair.check_one_runner()
    finally:
        for s in servers:
            s.kill()
        pair.close()


def check_moves_back(pair, shell, host):
    target = pair.other(host)
    host.vmctl("migrate", "g", target.name, "--max-downtime", "5s")
    console = target.console("g", scrollback=False)
    console.expect(rb"w(\d+)\.(?s:.*)w(\d+)\.", 60)
    shell.console.close()
    shell.console = console
    return target


main()
