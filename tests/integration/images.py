# SPDX-License-Identifier: Apache-2.0
"""Debian disk images for tests, made by vmctl once and kept in the cache by what they are made from, and QEMU to boot one."""
import fcntl
import glob
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from ferry import Failure, TOP, say, wait_for  # noqa: E402

CACHE = os.environ.get("FERRY_CACHE") or os.path.join(TOP, ".cache")
PASSWORD = "ferry"
PLAIN = ("--suite", "bookworm", "--size", "2G", "--hostname", "ferry-guest", "--packages", "cloud-init", "--extract-kernel")


def _code():
    """A digest of the code that makes images."""
    h = hashlib.sha256()
    for path in sorted(glob.glob(os.path.join(TOP, "cli", "image*"))):
        with open(path, "rb") as f:
            h.update(f.read())
    return h.hexdigest()[:12]


def debian_image(build, options=PLAIN):
    """Path of an image with root's password PASSWORD; beside it .vmlinuz, .initrd and .cmdline. Use it read-only or copy it. It is made
    anew when the options or the code that makes it change; the archive's state does not count."""
    folder = os.path.join(CACHE, "images")
    os.makedirs(folder, exist_ok=True)
    wanted = "test-" + hashlib.sha256(repr((options, PASSWORD)).encode()).hexdigest()[:12]
    path = os.path.join(folder, f"{wanted}-{_code()}.img")
    with open(os.path.join(folder, "lock"), "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(path):
            for old in glob.glob(os.path.join(folder, wanted + "-*")):
                os.unlink(old)
            say("making a Debian image (some minutes, once)")
            r = subprocess.run([os.path.join(build, "bin", "vmctl"), "image", "create", path, *options, "--password-stdin", "--json"],
                               input=PASSWORD + "\n", capture_output=True, text=True, timeout=1000, check=False)
            if r.returncode:
                raise Failure(f"vmctl image create ended with {r.returncode}: {r.stderr}")
            with open(path + ".json", "w", encoding="utf-8") as f:
                f.write(r.stdout)
    return path


def description(path):
    with open(path + ".json", encoding="utf-8") as f:
        return json.load(f)


def qemu_binary():
    r = subprocess.run([os.path.join(TOP, "scripts", "qemu-peer")], stdout=subprocess.PIPE, text=True, check=True)
    return os.path.join(r.stdout.split()[-1], "qemu")


class Boot:
    """One boot of an image under QEMU without KVM, with its serial port at hand. The image is not written to."""

    def __init__(self, image, *args, firmware=None):
        self.folder = tempfile.mkdtemp(prefix="ferry-boot-")
        self.sock = self.process = self.log = None
        try:
            self._start(image, args, firmware)
        except BaseException:
            self.close()
            raise

    def _start(self, image, args, firmware):
        serial = os.path.join(self.folder, "serial")
        command = [qemu_binary(), "-accel", "tcg,thread=multi", "-machine", "q35", "-cpu", "qemu64", "-smp", "2", "-m", "1024",
                   "-nodefaults", "-display", "none", "-snapshot", "-drive", f"file={image},format=raw,if=virtio",
                   "-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n,romfile=",
                   "-chardev", f"socket,id=s,path={serial},server=on,wait=off", "-serial", "chardev:s", *args]
        if firmware == "ovmf":
            variables = os.path.join(self.folder, "vars.fd")
            shutil.copy("/usr/share/OVMF/OVMF_VARS_4M.fd", variables)
            command += ["-drive", "if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd",
                        "-drive", f"if=pflash,format=raw,file={variables}"]
        self.log = open(os.path.join(self.folder, "log"), "w+b")
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        self.sock = socket.socket(socket.AF_UNIX)
        wait_for("QEMU's serial port", 30, lambda: self._connect(serial))
        self.text = b""
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _connect(self, path):
        if self.process.poll() is not None:
            self.log.seek(0)
            raise Failure(f"QEMU ended: {self.log.read()[-500:]!r}")
        try:
            self.sock.connect(path)
            return True
        except OSError:
            return False

    def _read(self):
        while True:
            try:
                data = self.sock.recv(65536)
            except OSError:
                data = b""
            with self.changed:
                self.text += data
                self.changed.notify_all()
            if not data:
                return

    def length(self):
        with self.changed:
            return len(self.text)

    def expect(self, pattern, timeout, start=0):
        rx = re.compile(pattern)
        end = time.monotonic() + timeout
        with self.changed:
            while True:
                m = rx.search(self.text, start)
                if m:
                    return m
                left = end - time.monotonic()
                if left <= 0 or self.process.poll() is not None:
                    raise Failure(f"no {pattern!r} on the serial port within {timeout} s; it ends with {self.text[-600:]!r}")
                self.changed.wait(min(left, 1))

    def send(self, text):
        self.sock.sendall(text.encode())

    def login(self, timeout=400):
        self.expect(rb"login: ", timeout)
        at = self.length()
        self.send("root\n")
        self.expect(rb"Password: ", 60, at)
        at = self.length()
        self.send(PASSWORD + "\n")
        self.expect(rb"# ", 120, at)
        # A terminal that answers no questions, and messages of the kernel kept out of answers.
        self.run("export TERM=dumb PS1= PS2=; bind 'set enable-bracketed-paste off'; dmesg -n 1; stty -echo")

    def run(self, command, timeout=120):
        """The command's output and status."""
        at = self.length()
        self.send(f"{command}\necho \"<$?\"\">\"\n")
        m = self.expect(rb"<(\d+)>\r?\n", timeout, at)
        out = self.text[at:m.start()].decode("utf-8", "replace").replace("\r", "")
        return out, int(m.group(1))

    def ask(self, command, timeout=120):
        out, status = self.run(command, timeout)
        if status:
            raise Failure(f"in the guest {command!r} ended with {status}: {out!r}")
        return out.strip()

    def address(self):
        """The address that DHCP gave."""
        return self.ask("for i in $(seq 120); do a=$(ip -4 -o addr show scope global); [ -n \"$a\" ] && break; sleep 1; done; "
                        "echo \"$a\"", 180)

    def close(self):
        if self.process:
            self.process.kill()
            self.process.wait()
        if self.sock:
            self.sock.close()
        if self.log:
            self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()
