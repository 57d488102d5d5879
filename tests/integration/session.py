# SPDX-License-Identifier: Apache-2.0
"""root's shell on the serial console of a Debian guest that `images.py` made."""
import ferry
from images import PASSWORD

LOGIN = rb"ferry-guest login: "


class Session:
    """root's shell on the serial console."""

    def __init__(self, console, start=0):
        self.console = console
        console.expect(LOGIN, 500, start)
        at = console.length()
        console.send(b"root\n")
        console.expect(rb"Password: ", 120, at)
        at = console.length()
        console.send(PASSWORD.encode() + b"\n")
        console.expect(rb"# ", 200, at)
        self.marks = 0
        self.run("export TERM=dumb PS1= PS2=; bind 'set enable-bracketed-paste off'; dmesg -n 1; stty -echo")

    def run(self, command, timeout=200):
        self.marks += 1
        at = self.console.length()
        self.console.send(f"{command}\necho \"<{self.marks}:$?\"\">\"\n".encode())
        m = self.console.expect(rb"(?s)(.*)<%d:(\d+)>\r?\n" % self.marks, timeout, at)
        out = m.group(1).decode("utf-8", "replace").replace("\r", "").strip()
        if m.group(2) != b"0":
            raise ferry.Failure(f"in the guest {command!r} ended with {m.group(2)}: {out!r}")
        return out
