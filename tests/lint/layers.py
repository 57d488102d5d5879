#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Who may include whom (docs/architecture.md, "Rooms"). Fails on a forbidden include and on an outside library used
beyond its door."""
import os
import re
import sys

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# room -> rooms it may include, besides itself
ROOMS = {
    "hv/base": [],
    "proto": [],
    "hv/sandbox": ["hv/base"],
    "hv/mem": ["hv/base"],
    "hv/cpu": ["hv/base", "hv/mem", "proto"],
    "hv/cpu/kvm": ["hv/base", "hv/mem", "hv/cpu", "proto"],
    "hv/cpu/soft": ["hv/base", "hv/mem", "hv/cpu", "hv/sandbox", "proto"],
    "hv/dev": ["hv/base", "hv/mem", "hv/sandbox", "proto"],
    "hv/backend": ["hv/base", "hv/sandbox", "hv/mem", "hv/dev", "proto"],
    "hv/vm": ["hv/base", "hv/sandbox", "hv/mem", "hv/cpu", "hv/cpu/kvm", "hv/cpu/soft", "hv/dev", "hv/backend", "proto"],
    "hv/control": ["hv/base", "hv/mem", "hv/cpu", "hv/dev", "hv/vm", "proto"],
    "hv": ["hv/base", "hv/sandbox", "hv/mem", "hv/cpu", "hv/cpu/kvm", "hv/cpu/soft", "hv/dev", "hv/vm", "hv/control", "proto"],
    "hv/define": ["hv/base", "proto"],
    "hv/host": ["hv/base", "hv/sandbox", "hv/define", "proto", "hv/control/client.h"],
    "migrate": ["hv/base", "hv/sandbox", "proto", "hv/control/client.h"],
    "replicate": ["hv/base", "proto", "hv/control/client.h", "migrate"],
    "cli": ["hv/base", "hv/define", "proto"],
}
# The client library is a room of its own inside hv/control.
CLIENT = {"hv/control/client.c", "hv/control/client.h"}
CLIENT_MAY = ["hv/base", "proto"]

# outside library's header -> files or folders that may use it
DOORS = {
    r"linux/kvm\.h": ["hv/cpu/kvm/"],
    r"event2?/.*|event\.h": ["hv/base/loop.c"],
    r"sqlite3\.h": ["hv/host/inventory"],
    r"openssl/.*": ["migrate/chan_tls.c", "migrate/tls_gcm.c", "migrate/identity.c", "migrate/pair.c", "migrate/receiver.c", "hv/host/digest.c", "tests/unit/test_tls_gcm.c"],
    r"intel-ipsec-mb\.h": ["migrate/tls_gcm.c"],
    r"seccomp\.h": ["hv/sandbox/syscalls.c"],
    r"lz4.*\.h": ["migrate/codec_lz4.c"],
    r"zstd.*\.h": ["migrate/codec_zstd.c"],
    r"slirp/.*": ["hv/backend/net_slirp.c"],
    r"libnbd\.h": ["hv/backend/blk_nbd.c"],
    r"liburing\.h": ["hv/backend/file_uring.c"],
    r"cmocka\.h": ["tests/"],
}

INCLUDE = re.compile(r'^\s*#\s*include\s+([<"])([^>"]+)[>"]')


def room_of(path):
    best = None
    for room in ROOMS:
        if path.startswith(room + "/") and (best is None or len(room) > len(best)):
            best = room
    return best


def allowed(path, target):
    own = room_of(path)
    if own is None:
        return True  # tests may include anything
    if path in CLIENT:
        return target in CLIENT or room_of(target) in CLIENT_MAY
    theirs = room_of(target)
    if theirs == own:
        return True
    return any(target == may if may.endswith(".h") else theirs == may for may in ROOMS[own])


def check(path):
    with open(os.path.join(TOP, path), encoding="utf-8") as f:
        for number, line in enumerate(f, 1):
            m = INCLUDE.match(line)
            if not m:
                continue
            target = m.group(2)
            if m.group(1) == '"' and room_of(target) is not None and not allowed(path, target):
                yield f"{path}:{number}: {room_of(path)} may not include {target}"
            for pattern, doors in DOORS.items():
                if re.fullmatch(pattern, target) and not any(path.startswith(d) for d in doors):
                    yield f"{path}:{number}: {target} has its door at {', '.join(doors)}"


def main():
    bad = []
    files = 0
    for folder in ("hv", "proto", "migrate", "replicate", "cli", "tests"):
        for at, _, names in os.walk(os.path.join(TOP, folder)):
            for name in sorted(names):
                if name.endswith((".c", ".h")):
                    files += 1
                    bad += check(os.path.relpath(os.path.join(at, name), TOP))
    if not files:
        sys.exit("layers.py: no source found")
    print("\n".join(bad) if bad else f"layers.py: {files} files, every include allowed")
    sys.exit(1 if bad else 0)


main()
