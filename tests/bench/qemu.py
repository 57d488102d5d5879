# SPDX-License-Identifier: Apache-2.0
"""The peer: two QEMU processes and a migration between them, driven by QMP."""
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

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))
from ferry import Failure, wait_for, free_port  # noqa: E402


def make_certificates(folder):
    """A CA and one certificate for both ends, as QEMU's tls-creds-x509 wants them."""
    def openssl(*args):
        subprocess.run(["openssl", *args], cwd=folder, check=True, capture_output=True)
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=bench-ca",
            "-keyout", "ca-key.pem", "-out", "ca-cert.pem", "-addext", "keyUsage=critical,keyCertSign")
    for role in ("server", "client"):
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=127.0.0.1",
                "-keyout", f"{role}-key.pem", "-out", f"{role}.csr")
        with open(os.path.join(folder, f"{role}.ext"), "w", encoding="ascii") as f:
            f.write("subjectAltName=IP:127.0.0.1\nkeyUsage=critical,digitalSignature,keyEncipherment\n"
                    f"extendedKeyUsage={role}Auth\n")
        openssl("x509", "-req", "-in", f"{role}.csr", "-CA", "ca-cert.pem", "-CAkey", "ca-key.pem", "-CAcreateserial",
                "-days", "2", "-extfile", f"{role}.ext", "-out", f"{role}-cert.pem")


class Serial:
    """Console bytes with arrival times from a unix socket that QEMU listens on."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        wait_for("QEMU's console", 10, lambda: self._connect(path))
        self.cond = threading.Condition()
        self.text = b""
        self.chunks = []
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _connect(self, path):
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
                return
            if not data:
                return
            now = time.monotonic_ns()
            with self.cond:
                self.text += data
                self.chunks.append((now, data))
                self.cond.notify_all()

    def send(self, data):
        self.sock.sendall(data)

    def expect(self, pattern, timeout=60, start=0):
        rx = re.compile(pattern)
        end = time.monotonic() + timeout
        with self.cond:
            while True:
                m = rx.search(self.text, start)
                if m:
                    return m
                if time.monotonic() > end:
                    raise Failure(f"QEMU's console: no {pattern!r}; it ends with {self.text[-200:]!r}")
                self.cond.wait(0.5)

    def length(self):
        with self.cond:
            return len(self.text)

    def close(self):
        self.sock.close()


class Qemu:
    def __init__(self, binary, folder, name, kernel, cmdline, memory_mib, prealloc, incoming, tls):
        self.folder = folder
        self.name = name
        self.qmp_path = os.path.join(folder, name + ".qmp")
        self.serial_path = os.path.join(folder, name + ".serial")
        args = [binary, "-accel", "kvm", "-machine", "pc,memory-backend=m", "-cpu", "qemu64", "-m", str(memory_mib), "-object",
                f"memory-backend-memfd,id=m,size={memory_mib}M,share=on" + (",prealloc=on" if prealloc else ""),
                "-nodefaults", "-display", "none", "-chardev", f"socket,id=s,path={self.serial_path},server=on,wait=off",
                "-serial", "chardev:s", "-qmp", f"unix:{self.qmp_path},server=on,wait=off", "-kernel", kernel, "-append", cmdline]
        if tls:
            args += ["-object", f"tls-creds-x509,id=tls0,dir={folder},endpoint={'server' if incoming else 'client'},verify-peer=yes"]
        if incoming:
            args += ["-incoming", "defer"]
        self.log = open(os.path.join(folder, name + ".log"), "wb")
        self.started = time.monotonic()
        self.process = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        self.sock = socket.socket(socket.AF_UNIX)
        wait_for(f"QEMU {name}", 60, self._connect)
        self.file = self.sock.makefile("rwb")
        self.file.readline()
        self.qmp("qmp_capabilities")
        self.serial = Serial(self.serial_path)

    def _connect(self):
        if self.process.poll() is not None:
            with open(self.log.name, encoding="utf-8", errors="replace") as f:
                raise Failure(f"QEMU {self.name} ended: {f.read()[-500:]}")
        try:
            self.sock.connect(self.qmp_path)
            return True
        except OSError:
            return False

    def qmp(self, command, **arguments):
        self.file.write(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        self.file.flush()
        while True:
            line = self.file.readline()
            if not line:
                raise Failure(f"QEMU {self.name} closed its monitor")
            m = json.loads(line)
            if "error" in m:
                raise Failure(f"QEMU {command}: {m['error']['desc']}")
            if "return" in m:
                return m["return"]

    def cpu_s(self):
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self):
        self.process.kill()
        self.process.wait()
        self.serial.close()
        self.sock.close()
        self.log.close()


class QemuMove:
    """One guest and one migration of it. Use: with QemuMove(...) as q: q.wait_filled(); r = q.migrate()."""

    def __init__(self, binary, kernel, cmdline, memory_mib, prealloc=True, tls=False, channels=1, zstd=False, downtime_ms=None):
        self.folder = tempfile.mkdtemp(prefix="ferry-peer-")
        self.tls, self.channels, self.zstd, self.downtime_ms = tls, channels, zstd, downtime_ms
        self.args = (binary, self.folder)
        self.rest = (kernel, cmdline, memory_mib, prealloc)
        if tls:
            make_certificates(self.folder)
        self.src = self.dst = None
        try:
            self.src = Qemu(*self.args, "src", *self.rest, False, tls)
        except BaseException:
            self.close()
            raise

    def start_target(self):
        self.dst = Qemu(*self.args, "dst", *self.rest, True, self.tls)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def close(self):
        for q in (self.src, self.dst):
            if q:
                q.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _set(self, q):
        caps = [{"capability": "multifd", "state": self.channels > 1}]
        q.qmp("migrate-set-capabilities", capabilities=caps)
        params = {"max-bandwidth": 100 << 30}
        if self.channels > 1:
            params["multifd-channels"] = self.channels
            params["multifd-compression"] = "zstd" if self.zstd else "none"
        if self.tls:
            params["tls-creds"] = "tls0"
            params["tls-hostname"] = "127.0.0.1"
        if self.downtime_ms:
            params["downtime-limit"] = self.downtime_ms
        q.qmp("migrate-set-parameters", **params)

    def migrate(self, timeout=120):
        """{'total_ms', 'downtime_ms', 'cpu_s'}; None where it did not converge within the timeout."""
        self._set(self.src)
        self._set(self.dst)
        port = free_port()
        self.dst.qmp("migrate-incoming", uri=f"tcp:127.0.0.1:{port}")
        cpu = self.src.cpu_s() + self.dst.cpu_s()
        start = time.monotonic()
        self.src.qmp("migrate", uri=f"tcp:127.0.0.1:{port}")
        while True:
            info = self.src.qmp("query-migrate")
            status = info.get("status")
            if status == "completed":
                return {"total_ms": info["total-time"], "downtime_ms": info["downtime"],
                        "cpu_s": self.src.cpu_s() + self.dst.cpu_s() - cpu, "wall_ms": (time.monotonic() - start) * 1000}
            if status == "failed":
                raise Failure(f"QEMU's migration failed: {info.get('error-desc')}")
            if time.monotonic() - start > timeout:
                self.src.qmp("migrate_cancel")
                return None
            time.sleep(0.01)  # QEMU offers no blocking wait without parsing its events


def version(binary):
    out = subprocess.run([binary, "--version"], check=True, capture_output=True, text=True).stdout
    return out.split("version ")[1].split()[0]
