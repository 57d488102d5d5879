# SPDX-License-Identifier: Apache-2.0
"""A network that two hosts in namespaces share, with a third place on it for clients."""
import os
import subprocess

import ferry


def run(*argv, check=True, timeout=120, **kw):
    r = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=timeout, **kw)
    if check and r.returncode:
        raise ferry.Failure(f"{' '.join(argv)} ended with {r.returncode}: {r.stderr.strip()}")
    return r


class Wire:
    """A bridge br0 in both hosts' namespaces, joined by a third namespace with a bridge of its own that has 10.88.0.1."""

    def __init__(self, pair):
        self.net = f"fc{os.getpid() % 100000}"
        a, b = pair.net
        c = self.net
        run("ip", "netns", "add", c)
        run("ip", "-n", c, "link", "add", "hub", "type", "bridge")
        run("ip", "-n", c, "addr", "add", "10.88.0.1/24", "dev", "hub")
        for host, end in ((a, "ua"), (b, "ub")):
            run("ip", "-n", c, "link", "add", end, "type", "veth", "peer", "name", "up0", "netns", host)
            run("ip", "-n", host, "link", "add", "br0", "type", "bridge")
            run("ip", "-n", host, "link", "set", "up0", "master", "br0")
            run("ip", "-n", c, "link", "set", end, "master", "hub")
            for where, link in ((host, "up0"), (host, "br0"), (c, end)):
                run("ip", "-n", where, "link", "set", link, "up")
        run("ip", "-n", c, "link", "set", "hub", "up")
        run("ip", "-n", c, "link", "set", "lo", "up")

    def command(self, *argv):
        return ["ip", "netns", "exec", self.net, *argv]

    def close(self):
        subprocess.run(["ip", "netns", "del", self.net], check=False)
