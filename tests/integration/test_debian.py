#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A Debian disk image that `vmctl image create` made, as it is: by its kernel, by SeaBIOS and by OVMF, to a log-in on the serial console, with an
address of the user network and a file from the host's web server; it reboots, moves to another host and back, and powers off."""
import hashlib
import http.server
import os
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ferry  # noqa: E402
from images import debian_image, description  # noqa: E402
from session import LOGIN, Session  # noqa: E402

FILE = os.urandom(3 << 20)
WAYS = ["kernel", "bios", "uefi"]


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(FILE)))
        self.end_headers()
        self.wfile.write(FILE)

    def log_message(self, *_):
        pass


def fetch(session, address, port):
    """A file from the host by HTTP, with nothing but bash."""
    out = session.run(f"exec 3<>/dev/tcp/{address}/{port}; printf 'GET /f HTTP/1.0\\r\\n\\r\\n' >&3; sed '1,/^\\r$/d' <&3 | sha256sum; exec 3<&-")
    assert hashlib.sha256(FILE).hexdigest() in out, f"what came is not what was sent: {out!r}"


def check_guest(session, way, port):
    efi = session.run("test -d /sys/firmware/efi && echo efi || echo none")
    assert efi.endswith("efi" if way == "uefi" else "none"), efi
    address = session.run("for i in $(seq 120); do a=$(ip -4 -o addr show scope global); [ -n \"$a\" ] && break; sleep 1; done; echo \"$a\"", 300)
    assert "inet 10.0.2." in address and "dynamic" in address, address
    fetch(session, "10.0.2.2", port)
    assert session.run("systemctl --failed --no-legend --plain; findmnt -n -o FSTYPE /").endswith("ext4")


def options(way, image):
    if way != "kernel":
        return ["--firmware", way]
    d = description(image)
    return ["-k", d["kernel"], "-r", d["initrd"], "-a", d["cmdline"]]


def reboot(session, port, way):
    place = session.console.length()
    session.console.send(b"systemctl reboot\n")
    session = Session(session.console, place)
    session.run("sha256sum -c /var/tmp/sum")
    check_guest(session, way, port)
    return session


def check_way(pair, way, image, port):
    disks = os.path.join(pair.folder, "disks")
    os.makedirs(disks, exist_ok=True)
    disk = os.path.join(disks, f"{way}.img")
    subprocess.run(["cp", "--sparse=always", image, disk], check=True)
    began = time.monotonic()
    pair.alpha.vmctl("start", way, "-m", "640M", "-p", "2", "--engine", "soft", "-d", disk, "-n", *options(way, image))
    console = pair.alpha.console(way)
    console.expect(LOGIN, 500)
    first = time.monotonic() - began
    session = Session(console)
    check_guest(session, way, port)
    session.run("head -c 8M /dev/urandom > /var/tmp/f; sha256sum /var/tmp/f > /var/tmp/sum")
    session = reboot(session, port, way)
    # To the other host and back, with something to lose in memory and on disk.
    for source, target in ((pair.alpha, pair.beta), (pair.beta, pair.alpha)):
        source.vmctl("migrate", way, target.name, "--max-downtime", "5s")
        ferry.wait_for("the end of the target's job", 20, lambda: not target.guest(way).get("job"))
        session.console = target.console(way, scrollback=False)
        session.run("sync; echo 3 > /proc/sys/vm/drop_caches; sha256sum -c /var/tmp/sum")
    # What it boots from, firmware or kernel, has moved with it. One way of each: a boot takes half a minute.
    if way != "uefi":
        session = reboot(session, port, way)
    console = session.console
    console.send(b"poweroff\n")
    try:
        ferry.wait_for("the guest's end", 200, lambda: pair.alpha.state(way) == "stopped")
    except ferry.Failure as why:
        raise ferry.Failure(f"{way}: {why}; its console ends with {console.text[-600:]!r}") from None
    ferry.say(f"{way}: log-in after {first:.1f} s; address, file, reboot, two moves, power-off")
    os.unlink(disk)


def main():
    build = os.path.abspath(ferry.build_argument(sys.argv))
    image = debian_image(build)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    # The user network of each guest is its host's: without namespaces both see this server.
    pair = ferry.Pair(build, namespaces=False)
    try:
        for way in [w for w in sys.argv[1:] if w in WAYS] or WAYS:
            check_way(pair, way, image, server.server_address[1])
    finally:
        pair.close()
        server.shutdown()


main()
