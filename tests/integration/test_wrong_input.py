#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Wrong input: each a clear error with its exit code, the guest unharmed, the daemons still there."""
import os
import socket
import subprocess
import sys
import tempfile
import time

from ferry import Failure, Pair, build_argument, need_kvm, say, wait_for
from proxy import Proxy, cut_at, flip_at, overwrite_at

GUEST = "mem=32 mode=seq rate=20 fill=random"


def guest(pair, memory="64M"):
    pair.start(pair.alpha, "g", GUEST, memory, 1).expect(rb"!filled", 60)


def unharmed(pair):
    if pair.alpha.state("g") != "running":
        raise Failure(f"the guest is {pair.alpha.state('g')}")
    console = pair.alpha.console("g")
    start = console.length()
    console.send(b"v")
    if console.expect(rb"!verdict (\w+) ", 60, start).group(1) != b"intact":
        raise Failure("the guest's ledger is not intact")
    console.close()
    wait_for("the remains to go", 5, lambda: [e for h in pair.hosts for _, e in h.children()] == ["ferry-hv"], 0.05)


def refused(host, codes, words, *args):
    r = host.vmctl(*args, check=False)
    if r.returncode not in codes:
        raise Failure(f"vmctl {' '.join(args)}: exit {r.returncode}, expected {codes}: {r.stderr}")
    if not r.stderr.startswith("vmctl: ") or not any(w in r.stderr for w in words):
        raise Failure(f"vmctl {' '.join(args)}: unclear: {r.stderr!r}")


def rejoin_through(pair, proxy):
    """Let alpha reach beta through the proxy."""
    pair.beta.vmctl("host", "init", "--name", "beta", "--address", proxy.address, check=False)
    pair.alpha.vmctl("host", "remove", "beta", check=False)
    token = pair.beta.vmctl("host", "invite", "--address", proxy.address).stdout.split()[-1]
    pair.alpha.vmctl("host", "join", token)


def damaged_streams(build):
    """Flipped, cut and oversized records on a data channel in clear, where TLS does not catch them first."""
    for name, harm, codes in (("flip", flip_at(100000, 3), (12,)), ("flip a length", flip_at(64 + 32 + 32 + 7, 7), (12,)),
                              ("oversized", overwrite_at(64 + 4, b"\xff\xff\xff\x7f"), (12,)), ("cut", cut_at(200000), (6, 12))):
        pair = Pair(build, namespaces=False)
        proxy = Proxy(pair.beta.address)
        try:
            rejoin_through(pair, proxy)
            guest(pair)
            proxy.harm[1] = harm
            refused(pair.alpha, codes, ("record", "checksum", "connection", "peer"), "migrate", "g", "beta", "--plaintext")
            unharmed(pair)
            say(f"   {name}: refused")
        finally:
            proxy.close()
            pair.close()
    pair = Pair(build, namespaces=False)
    proxy = Proxy(pair.beta.address)
    try:
        rejoin_through(pair, proxy)
        guest(pair)
        proxy.harm[1] = flip_at(100000, 3)
        refused(pair.alpha, (12, 6), ("TLS", "record", "connection", "peer"), "migrate", "g", "beta")
        unharmed(pair)
        proxy.harm = {0: flip_at(3000, 1)}
        r = pair.alpha.vmctl("migrate", "g", "beta", check=False)
        if r.returncode and r.returncode not in (6, 12):
            raise Failure(f"damage on the control channel: {r.returncode} {r.stderr}")
        if r.returncode:
            unharmed(pair)
    finally:
        proxy.close()
        pair.close()


def strangers(build):
    pair = Pair(build, namespaces=False)
    other = Pair(build, namespaces=False)
    try:
        guest(pair)
        # bytes that are no preface, a preface and silence, many at once
        host, port = pair.beta.address.rsplit(":", 1)
        for junk in (b"GET / HTTP/1.1\r\n\r\n" * 4, b"FERRY\x01\r\n" + b"\xff" * 24, b"FERRY\x01\r\n\x01\x00\x00\x00" + bytes(20) + b"\x16\x03\x01" + b"\xff" * 200):
            with socket.create_connection((host, int(port)), 5) as s:
                s.settimeout(8)
                s.sendall(junk)
                try:
                    while s.recv(4096):
                        pass
                except OSError:
                    pass
        idle = [socket.create_connection((host, int(port)), 5) for _ in range(40)]
        pair.alpha.vmctl("migrate", "g", "beta", "--plan", check=False)
        for s in idle:
            s.close()
        # another host's certificate: alpha's address book says beta, but somebody else answers there
        proxy = Proxy(other.beta.address)
        proxy2 = Proxy(pair.beta.address)
        rejoin_through(pair, proxy2)
        proxy2.target = proxy.target
        refused(pair.alpha, (7,), ("certificate", "paired", "trust"), "migrate", "g", "beta")
        unharmed(pair)
        proxy2.target = (host, int(port))
        # no certificate at all
        r = subprocess.run(["openssl", "s_client", "-tls1_3", "-connect", pair.beta.address], input=b"", capture_output=True, timeout=20,
                           check=False)
        if b"BEGIN CERTIFICATE" in r.stdout:
            raise Failure("a client without preface and certificate was served")
        pair.alpha.vmctl("migrate", "g", "beta")
        proxy.close()
        proxy2.close()
    finally:
        pair.close()
        other.close()


def bad_tokens(build):
    pair = Pair(build, namespaces=False, paired=False)
    try:
        token = pair.alpha.vmctl("host", "invite").stdout.split()[-1]
        wrong = token[:-3] + ("aaa" if token[-3:] != "aaa" else "bbb")
        for t in ("nonsense", wrong, token[: len(token) // 2]):
            r = pair.beta.vmctl("host", "join", t, check=False)
            if r.returncode == 0:
                raise Failure("a wrong token was accepted")
        token = pair.alpha.vmctl("host", "invite").stdout.split()[-1]
        pair.beta.vmctl("host", "join", token)
        refused(pair.beta, (7,), ("invite", "token", "used"), "host", "join", token)
    finally:
        pair.close()


def target_short_of_memory(build):
    pair = Pair(build, namespaces=False)
    try:
        # The source has been told that its guests will not all use what they have.
        pair.alpha.stop_daemon()
        pair.alpha.options = ["--memory-overcommit", "100"]
        pair.alpha.start_daemon()
        guest(pair, "200G")
        refused(pair.alpha, (5, 11), ("MiB",), "migrate", "g", "beta")
        unharmed(pair)
    finally:
        pair.close()


def full_disk(build):
    """The target daemon's folder is on a full file system."""
    if os.geteuid() != 0:
        say("   skipped full_disk: mounting needs root")
        return
    small = tempfile.mkdtemp(prefix="ferry-full-")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", small], check=True)
    pair = None
    try:
        pair = Pair(build, namespaces=False)
        pair.beta.stop_daemon()
        subprocess.run(["cp", "-a", pair.beta.root + "/.", small], check=True)
        subprocess.run(["mount", "--bind", small, pair.beta.root], check=True)
        pair.beta.start_daemon()
        guest(pair)
        fd = os.open(os.path.join(small, "filler"), os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            while os.write(fd, bytes(4096)) > 0:
                pass
        except OSError:
            pass
        os.close(fd)
        refused(pair.alpha, (5, 11), ("disk", "space", "full"), "migrate", "g", "beta")
        unharmed(pair)
        os.unlink(os.path.join(small, "filler"))
        pair.alpha.vmctl("migrate", "g", "beta")
    finally:
        if pair:
            for pid, _ in pair.beta.children():
                os.kill(pid, 9)
            pair.beta.stop_daemon(9)
            subprocess.run(["umount", "-l", pair.beta.root], check=False)
            pair.close()
        subprocess.run(["umount", "-l", small], check=False)
        os.rmdir(small)


def arguments(build):
    pair = Pair(build, namespaces=False)
    try:
        guest(pair)
        for code, args in ((2, ("migrate",)), (2, ("migrate", "g", "beta", "--compress", "gzip")), (2, ("migrate", "g", "beta", "--channels", "0x")),
                           (2, ("migrate", "g", "beta", "--max-downtime", "-1")), (2, ("start", "x", "-m", "12Q", "-k", "/dev/null")),
                           (3, ("show", "nobody")), (2, ("nonsense",))):
            r = pair.alpha.vmctl(*args, check=False)
            if r.returncode != code or not r.stderr.startswith("vmctl:"):
                raise Failure(f"vmctl {' '.join(args)}: exit {r.returncode}, expected {code}: {r.stderr!r}")
        for kernel in ("/dev/null", "/etc/passwd", os.path.join(pair.bin, "vmctl")):
            r = pair.alpha.vmctl("start", "x", "-k", kernel, "-m", "64M", check=False)
            if r.returncode in (0, 1) or not r.stderr.startswith("vmctl:"):
                raise Failure(f"start -k {kernel}: exit {r.returncode}: {r.stderr!r}")
        unharmed(pair)
    finally:
        pair.close()


CHECKS = [damaged_streams, strangers, bad_tokens, target_short_of_memory, full_disk, arguments]


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
        try:
            check(build_argument(sys.argv))
            say(f"ok {check.__name__} ({time.monotonic() - start:.1f} s)")
        except Exception as e:  # noqa: BLE001 - one check's failure must not hide the others
            bad += 1
            say(f"FAILED {check.__name__}: {type(e).__name__}: {e}")
    return 1 if bad else 0


sys.exit(main())
