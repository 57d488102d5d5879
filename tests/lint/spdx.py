#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every tracked source, script and build file names its licence in its first lines; no registry's host stands in the tree."""
import os
import re
import subprocess
import sys

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
KINDS = (".c", ".h", ".S", ".ld", ".py", ".sh", ".cmake", ".proto", ".asl", "CMakeLists.txt", ".clang-format", ".clang-tidy")
HOSTS = re.compile(r"\b(deb|security|snapshot|ftp)\.debian\.org\b|registry\.npmjs\.org|proxy\.golang\.org")


def main():
    names = subprocess.run(["git", "ls-files", "-z"], cwd=TOP, check=True, capture_output=True).stdout.decode().split("\0")
    bad = []
    for name in filter(None, names):
        path = os.path.join(TOP, name)
        if not os.path.isfile(path):
            continue
        with open(path, "rb") as f:
            data = f.read(1 << 20)
        text = data.decode("utf-8", "replace")
        script = text.startswith("#!")
        if (name.endswith(KINDS) or script) and "SPDX-License-Identifier: Apache-2.0" not in "\n".join(text.splitlines()[:3]):
            bad.append(f"{name}: no SPDX line")
        if name != "tests/lint/spdx.py" and b"\0" not in data and HOSTS.search(text):
            bad.append(f"{name}: names a package registry's host")
    print("\n".join(bad) if bad else f"spdx.py: {len(names)} files")
    sys.exit(1 if bad else 0)


main()
