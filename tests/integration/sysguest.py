# SPDX-License-Identifier: Apache-2.0
"""What sysguest printed, against what the manuals say (tests/guests/sysguest/expected.txt) with known differences."""
import os
import re

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "guests", "sysguest")


def dialogue(console, timeout=120):
    """Read a guest to its end; it waits for a byte after each `!more` and after `!done`."""
    start = 0
    while True:
        m = console.expect(rb"!(more|done \d+)\r?\n", timeout, start)
        start = m.end()
        if m.group(1) != b"more":
            return console.text.replace(b"\r", b"").decode("latin-1")
        console.send(b"m")


def lines_of(text):
    """{name: line} and the features that are absent. Duplicate names are kept apart by a mark, so that they differ."""
    lines, absent = {}, set()
    for line in text.splitlines():
        m = re.match(r"\?(\w+) absent$", line)
        if m:
            absent.add(m.group(1))
        elif line and line[0] not in "#!":
            name = line.split(":")[0]
            lines[name + "#twice" if name in lines else name] = line
    return lines, absent


def read(name):
    with open(os.path.join(FOLDER, name), encoding="ascii") as f:
        return f.read()


def known(side):
    """Lines that this side is known to print."""
    return {line.split(" ", 1)[1] for line in read("known_differences.txt").splitlines() if side in line.split(" ")[0].split("+")}


def complaints(text, side):
    """Every difference between a complete output and what is expected, as lines of text."""
    out = []
    m = re.search(r"^!done (\d+)$", text, re.M)
    if not m:
        return [f"{side}: the guest has not come to its end; the last of it is {text[-300:]!r}"]
    body = text[: m.start()].replace("!more\n", "")
    if int(m.group(1)) != body.count("\n"):
        out.append(f"{side}: the guest says it printed {m.group(1)} lines, there are {body.count(chr(10))}")
    got, absent = lines_of(body)
    expected, _ = lines_of(read("expected.txt"))
    may = known(side)
    for name, line in expected.items():
        feature = re.match(r"\?(\w+) ", name)
        if feature and feature.group(1) in absent:
            continue
        if name not in got:
            out.append(f"{side}: nothing of {name}")
        elif got[name] != line and got[name] not in may:
            out.append(f"{side}: {got[name]}\n{' ' * len(side)}  expected {line}")
    out += [f"{side}: unexpected: {line}" for name, line in got.items() if name not in expected]
    return out
