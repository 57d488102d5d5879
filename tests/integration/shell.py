# SPDX-License-Identifier: Apache-2.0
"""The devices guest (scripts/guest-kernel -d) and the shell on its console."""
import os

import ferry


def devices_guest(version="6.1"):
    folder = os.path.dirname(ferry.stock_kernel()[0]).replace("kernel-6.1", "kernel-" + version)
    initrd = os.path.join(folder, "devices.gz")
    if not os.path.exists(initrd):
        raise ferry.Failure(f"no {initrd}: run scripts/guest-kernel -d")
    return os.path.join(folder, "vmlinuz"), initrd


class Shell:
    """The guest's shell on its console."""

    def __init__(self, console):
        self.console = console
        self.marks = 0
        start = console.length()
        console.send(b"stty -echo; PS1=; echo qui''et\n")
        console.expect(b"quiet\r?\n", 30, start)

    def run(self, command, timeout=30):
        """Its output, once it has ended."""
        self.marks += 1
        start = self.console.length()
        self.console.send(f"{command}; echo ma''rk{self.marks}\n".encode())
        m = self.console.expect(b"(?s)(.*)mark%d\r?\n" % self.marks, timeout, start)
        return m.group(1).decode("latin-1").replace("\r", "")
