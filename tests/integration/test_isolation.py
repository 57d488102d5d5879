#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a running guest's hypervisor has given up, read from outside: /proc/PID of the process and of each thread."""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ferry  # noqa: E402


def status(path):
    with open(path, encoding="utf-8") as f:
        return dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)


def main():
    build = ferry.build_argument(sys.argv)
    kernel, initrd = ferry.stock_kernel()
    pair = ferry.Pair(build)
    try:
        for name in ("one", "two"):
            pair.alpha.vmctl("start", name, "-k", kernel, "-r", initrd, "-m", "256M", "-p", "2", "--engine", "soft", "-a", "console=ttyS0 quiet")
        users = set()
        for name in ("one", "two"):
            guest = pair.alpha.guest(name)
            layers = guest["isolation"].split(", ")
            pid = guest["pid"]
            whole = status(f"/proc/{pid}/status")
            assert whole["NoNewPrivs"].strip() == "1", whole
            if os.geteuid() == 0:
                assert "user" in layers and "root" in layers, layers
                uids = set(whole["Uid"].split())
                assert uids.isdisjoint({"0"}) and len(uids) == 1, uids
                assert int(whole["CapEff"], 16) == 0 and int(whole["CapPrm"], 16) == 0, whole["CapEff"]
                users |= uids
                assert os.listdir(f"/proc/{pid}/root") == [], "its root folder is not empty"
            names = {}
            for tid in os.listdir(f"/proc/{pid}/task"):
                t = status(f"/proc/{pid}/task/{tid}/status")
                names[t["Name"]] = t["Seccomp"].strip(), int(t.get("Seccomp_filters", "0"))
            assert "calls" in layers and all(mode == "2" for mode, _ in names.values()), names
            assert {"vcpu0", "vcpu1", "timers", "devices"} <= set(names), names
            sockets = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
            assert not any(s.startswith("/") and not s.startswith(("/memfd:", "/dev/", pair.folder, kernel, initrd)) for s in sockets), sockets
            ferry.say(f"{name}: {guest['isolation']}; threads {', '.join(sorted(names))}")
        if os.geteuid() == 0:
            assert len(users) == 2, f"two guests share the user {users}"
        # A move with all of it on.
        pair.alpha.vmctl("migrate", "one", "beta")
        assert pair.beta.guest("one")["isolation"] == guest["isolation"]
    finally:
        pair.close()


main()
