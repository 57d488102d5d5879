#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The software CPU runs stock kernels with any number of vCPUs, and guests go to and fro between it and KVM.

FERRY_SOFT_MOVES: how often the guest changes engines (default 4, by there and back)."""
import json
import os
import sys

from ferry import Failure, Pair, build_argument, need_kvm, say, stock_kernel, wait_for

MOVES = int(os.environ.get("FERRY_SOFT_MOVES", "4"))


def stop(host, name):
    host.vmctl("stop", name, "-f")
    wait_for(f"the end of {name}", 20, lambda: host.state(name) in (None, "stopped"))


def boot(pair, version, vcpus, memory, pattern, timeout):
    """From its bzImage to user space."""
    kernel, initramfs = stock_kernel(version)
    pair.alpha.vmctl("start", "g", "-m", memory, "-p", str(vcpus), "-k", kernel, "-r", initramfs, "-a", "console=ttyS0",
                     "--engine", "soft")
    console = pair.alpha.console("g")
    try:
        console.expect(pattern, timeout)
        return console
    except Failure as why:
        raise Failure(f"{version} with {vcpus} vCPUs: {why}; {pair.alpha.guest('g')}") from None


def kernels(pair):
    for version in ("6.1", "6.12"):
        for vcpus in (1, 2, 4):
            console = boot(pair, version, vcpus, "512M", rb"!filled \d+ pages", 240)
            if b"!start ledger cpus=%d " % vcpus not in console.text:
                raise Failure(f"{version}: not {vcpus} vCPUs: {console.text[-300:]!r}")
            start = console.length()
            console.send(b"v\n")
            verdict = console.expect(rb"!verdict (\w+) [^\n]*\n", 90, start)
            if verdict.group(1) != b"intact":
                raise Failure(f"{version} with {vcpus} vCPUs: {verdict.group(0)!r}")
            console.close()
            stop(pair.alpha, "g")
            say(f"kernel {version}, {vcpus} vCPUs: user space, ledger intact")


def installer(pair):
    """Debian's own installer up to its first question: newt, debconf, udev, hundreds of processes."""
    console = boot(pair, "installer", 1, "1G", rb"Language:", 300)
    console.close()
    stop(pair.alpha, "g")
    say("the installer asks for a language")


def engines(pair):
    """kvm to soft to kvm, the self-checking guest at work."""
    reason = need_kvm()
    if reason:
        say("skipped: moves between engines:", reason)
        return
    for host, engine in ((pair.alpha, "kvm"), (pair.beta, "soft")):
        host.stop_daemon()
        host.engine = engine
        host.start_daemon()
    kernel = os.path.join(pair.guests, "selfcheck.elf")
    pair.alpha.vmctl("start", "g", "-m", "256M", "-p", "2", "-k", kernel, "-a", "mem=64 mode=random rate=40 fill=mixed",
                     "--engine", "kvm", "--cpu-model", "x86-64-v1")
    pair.alpha.console("g").expect(rb"!filled \d+ pages", 60)
    source, target = pair.alpha, pair.beta
    for i in range(MOVES):
        out = source.vmctl("migrate", "g", target.name, "--json", timeout=300).stdout
        if json.loads(out.strip().splitlines()[-1])["state"] != "completed":
            raise Failure(f"move {i}: {out}")
        if target.guest("g")["engine"] != target.engine:
            raise Failure(f"on {target.name} it runs on {target.guest('g')['engine']}")
        source, target = target, source
    console = source.console("g")
    start = console.length()
    console.send(b"v")
    verdict = console.expect(rb"!verdict (\w+) [^\n]*\n", 90, start)
    if verdict.group(1) != b"intact" or b"!clock" in console.text or b"!fault" in console.text:
        raise Failure(f"after {MOVES} changes of engine: {verdict.group(0)!r}")
    console.close()
    stop(source, "g")
    say(f"{MOVES} changes of engine, ledger intact")


def main():
    pair = Pair(build_argument(sys.argv))
    try:
        kernels(pair)
        installer(pair)
        engines(pair)
        pair.check_one_runner()
    except Failure as why:
        say(f"test_soft: {why}")
        return 1
    finally:
        pair.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
