#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""scripts/demo: a stock Debian guest at work moves between two hosts over TLS. Ends with one JSON line on stdout; exit 0 only when the
guest's own ledger is intact."""
import json
import subprocess
import sys

from ferry import Failure, Pair, build_argument, say, stock_kernel


def run(build):
    kernel, initramfs = stock_kernel()
    pair = Pair(build)
    try:
        where = "two network namespaces" if pair.namespaces else "two ports of loopback"
        say(f"two hosts, alpha and beta, each with its daemon, in {where}; paired by certificate")
        pair.alpha.vmctl("start", "traveller", "-m", "512M", "-p", "2", "-k", kernel, "-r", initramfs, "-a",
                         "console=ttyS0")
        engine = pair.alpha.guest("traveller")["engine"]
        say(f"guest `traveller` boots Debian's kernel on alpha: 2 vCPUs, 512 MiB, engine {engine}")
        console = pair.alpha.console("traveller")
        console.expect(rb"!filled \d+ pages", 300)
        console.expect(rb"#w [1-9]\d* [^\n]*\n", 60)
        say("it writes and checks its pages")
        plan = pair.alpha.vmctl("migrate", "traveller", "beta", "--plan")
        say("vmctl migrate traveller beta --plan")
        for line in plan.stdout.splitlines():
            say("   ", line)
        say("vmctl migrate traveller beta")
        out = subprocess.run([f"{pair.bin}/vmctl", "-H", f"{pair.alpha.root}/ferryd.sock", "migrate", "traveller", "beta", "--json"],
                             stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False)
        if out.returncode:
            raise Failure(f"vmctl migrate ended with {out.returncode}: {out.stderr.strip()}")
        report = json.loads(out.stdout.strip().splitlines()[-1])
        moved = pair.beta.console("traveller")
        moved.expect(rb"#w [1-9]\d* [^\n]*\n", 60)
        start = moved.length()
        moved.send(b"v\n")
        verdict = moved.expect(rb"!verdict (\w+) [^\n]*\n", 60, start)
        say("beta's console says:", verdict.group(0).decode().strip())
        pair.check_one_runner()
        guest = pair.beta.guest("traveller")
        ledger = verdict.group(1).decode()
        line = {"demo": "migrate", "guest": "debian", "engine": guest.get("engine"), "state": report["state"],
                "tls": report["tls"], "total_ms": report["total_ms"], "downtime_ms": report["downtime_ms"], "ledger": ledger,
                "rounds": report["rounds"], "ram_bytes": report["ram_bytes"], "wire_bytes": report["wire_bytes"],
                "channels": report["channels"], "codec": report["codec"], "from": "alpha", "to": "beta"}
        print(json.dumps(line), flush=True)
        return 0 if ledger == "intact" and report["state"] == "completed" else 1
    finally:
        pair.close()


def main():
    try:
        return run(build_argument(sys.argv))
    except (Failure, subprocess.SubprocessError) as e:
        say(f"the demo failed: {e}")
        print(json.dumps({"demo": "migrate", "guest": "debian", "engine": None, "state": "failed", "tls": True, "total_ms": None,
                          "downtime_ms": None, "ledger": "unknown", "error": str(e)}), flush=True)
        return 1


sys.exit(main())
