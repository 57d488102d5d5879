#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A Debian disk image that `vmctl image create` made, on a real KVM: by its kernel, by SeaBIOS and by OVMF, to a log-in on the serial console,
with an address of the user network and a file from the host's web server; it reboots and powers off. Arguments: the build folder, ways."""
import hashlib
import os
import sys
import time

from lab import Console, Failure, Lab, build_argument, contents, kernel_module, run_checks, say, wait_for

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))
from images import debian_image, description  # noqa: E402
from session import LOGIN, Session  # noqa: E402

WAYS = ["kernel", "bios", "uefi"]
FILE = os.urandom(1 << 20)
PORT = 8080
SLOW = 900  # the guest's processor is emulated


def check_guest(session, way):
    efi = session.run("test -d /sys/firmware/efi && echo efi || echo none", SLOW)
    if not efi.endswith("efi" if way == "uefi" else "none"):
        raise Failure(f"{way}: {efi}")
    address = session.run("for i in $(seq 300); do a=$(ip -4 -o addr show scope global); [ -n \"$a\" ] && break; sleep 1; done; echo \"$a\"", SLOW)
    if "inet 10.0.2." not in address or "dynamic" not in address:
        raise Failure(f"{way}: address {address!r}")
    out = session.run(f"exec 3<>/dev/tcp/10.0.2.2/{PORT}; printf 'GET /f HTTP/1.0\\r\\n\\r\\n' >&3; sed '1,/^\\r$/d' <&3 | sha256sum; exec 3<&-", SLOW)
    if hashlib.sha256(FILE).hexdigest() not in out:
        raise Failure(f"{way}: what came is not what was sent: {out!r}")


def check_way(lab, way, image):
    began = time.monotonic()
    options = f"-m 640M -p 1 --engine kvm -d /dev/{lab.disks[way]} -n user"
    if way == "kernel":
        options += f" -k /guest/debian.vmlinuz -r /guest/debian.initrd -a '{description(image)['cmdline']}'"
    else:
        options += f" --firmware {way}"
    lab.alpha.vmctl(f"start {way} {options}")
    console = Console(lab.alpha, way)
    console.expect(LOGIN, SLOW)
    first = time.monotonic() - began
    session = Session(console)
    check_guest(session, way)
    place = console.length()
    console.send(b"systemctl reboot\n")
    session = Session(console, place)
    check_guest(session, way)
    console.send(b"poweroff\n")
    wait_for(f"the end of {way}", SLOW, lambda: lab.alpha.state(way) == "stopped", 0.5)
    console.close()
    say(f"{way}: log-in after {first:.0f} s; address, file, reboot, power-off")


def main():
    build = build_argument(sys.argv)
    image = debian_image(build)
    ways = [w for w in sys.argv[2:] if w in WAYS] or WAYS
    lab = Lab(build)
    try:
        files = {"modules/virtio_blk.ko": (0o100644, kernel_module("drivers/block/virtio_blk.ko")), "www": (0o040755, b""), "www/f": (0o100644, FILE)}
        files |= {f"guest/debian.{what}": (0o100644, contents(description(image)[key])) for what, key in
                  (("vmlinuz", "kernel"), ("initrd", "initrd"))}
        lab.add(files)
        lab.plan("alpha")
        devices, lab.disks = [], {}
        for i, way in enumerate(ways):
            # What a guest writes is forgotten with its host.
            devices += ["-drive", f"if=none,id=d{i},file={image},format=raw,snapshot=on", "-device", f"virtio-blk-pci,drive=d{i}"]
            lab.disks[way] = f"vd{'abc'[i]}"
        host = lab.boot("alpha", memory=2048, devices=devices)
        host.await_ready()
        host.run(f"insmod /modules/virtio_blk.ko; httpd -p {PORT} -h /www")
        # As in firmware.py.
        host.run("echo 500000 >/sys/module/kvm/parameters/min_timer_period_us")
        lab.alpha = host.daemon()

        def named(way):
            def check(lab):
                check_way(lab, way, image)
            check.__name__ = way
            return check

        bad = run_checks(lab, [named(w) for w in ways])
        say(f"{bad} of {len(ways)} failed")
        return 1 if bad else 0
    finally:
        lab.close()


sys.exit(main())
