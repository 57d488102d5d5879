# SPDX-License-Identifier: Apache-2.0
"""Lab hosts: Debian's kernel under QEMU's emulation of an AMD processor with virtualisation, so with a real kvm-amd, on which
Ferry runs stock guests. Each host is one QEMU; hosts are joined by QEMU's stream sockets.

A command goes to a host over a connection of its own (tests/lab/agent), so several can run at once."""
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CACHE = os.environ.get("FERRY_CACHE", os.path.join(TOP, ".cache"))
QEMU = os.path.join(CACHE, "qemu", "qemu")
KERNEL = os.path.join(CACHE, "kernel-6.1", "vmlinuz")
GUEST = "-k /guest/vmlinuz -r /guest/initramfs.gz"
# More than one CPU is not emulated soundly: docs/lab.md, "One CPU a host".
CPUS = os.environ.get("FERRY_LAB_CPUS", "1")
BEGAN = time.monotonic()


class Failure(Exception):
    pass


def say(*words):
    print(f"lab: {time.monotonic() - BEGAN:6.1f}", *words, file=sys.stderr, flush=True)


def wait_for(what, timeout, condition, interval=0.05):
    """Poll an outside condition until it holds; its value, or Failure naming `what`."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise Failure(f"timed out after {timeout} s waiting for {what}")
        time.sleep(interval)


def contents(path):
    with open(path, "rb") as f:
        return f.read()


def kernel_module(path):
    """A module of the lab hosts' kernel, by its path below kernel/."""
    modules = os.path.join(CACHE, "kernel-6.1", "root", "lib", "modules")
    return contents(os.path.join(modules, os.listdir(modules)[0], "kernel", path))


def archive(files):
    """A cpio archive (newc) of {name: (mode, bytes)}; folders have no bytes but the mode of one. The kernel unpacks several, one behind
    the other."""
    out = b""
    for path, (mode, body) in [*files.items(), ("TRAILER!!!", (0, b""))]:
        head = "070701" + "".join(f"{v:08x}" for v in (0, mode, 0, 0, 1, 0, len(body), 0, 0, 0, 0, len(path) + 1, 0))
        out += head.encode() + path.encode() + b"\0"
        out += b"\0" * (-len(out) % 4) + body
        out += b"\0" * (-len(out) % 4)
    return out


class Result:
    def __init__(self, command, data):
        out, zero, tail = data.rpartition(b"\0")
        m = re.match(rb"(\d+)\n", tail)
        if not zero or not m:
            raise Failure(f"{command}: the connection ended early; last came {data[-200:]!r}")
        self.returncode = int(m.group(1))
        self.stdout = out.decode("utf-8", "replace")
        self.stderr = tail[m.end():].decode("utf-8", "replace")


class Console:
    """A guest's serial console through `vmctl console` on its host."""

    def __init__(self, daemon, name):
        self.sock = daemon.host.connect(daemon.command("console " + shlex.quote(name)))
        self.changed = threading.Condition()
        self.text = b""
        self.ended = False
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        while True:
            try:
                data = self.sock.recv(65536)
            except OSError:
                data = b""
            with self.changed:
                self.text += data
                self.ended = not data
                self.changed.notify_all()
            if not data:
                return

    def length(self):
        with self.changed:
            return len(self.text)

    def send(self, data):
        self.sock.sendall(data)

    def expect(self, pattern, timeout, start=0):
        """Wait for a regular expression in the output from byte `start`; the match."""
        rx = re.compile(pattern)
        end = time.monotonic() + timeout
        with self.changed:
            while True:
                m = rx.search(self.text, start)
                if m:
                    return m
                left = end - time.monotonic()
                if left <= 0 or self.ended:
                    why = "the console ended" if self.ended else f"not within {timeout} s"
                    raise Failure(f"console: no {pattern!r} ({why}); it ends with {self.text[-600:].decode('latin-1')!r}")
                self.changed.wait(left)

    def close(self):
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.thread.join(10)
        self.sock.close()


class Host:
    """One lab host. `links` are (unix socket, is server) of the wires to its peers, in the order of `peers`; `fds` are open in its QEMU, for
    `devices` that name them."""

    def __init__(self, lab, name, number, peers, links, cpu="EPYC", memory=1536, append="", devices=(), fds=()):
        self.lab = lab
        self.name = name
        self.address = f"10.77.0.{number}"
        self.log = os.path.join(lab.folder, name + ".console")
        self.port = free_port()
        self.daemons = []
        self.began = time.monotonic()
        command = [QEMU, "-accel", "tcg,thread=multi", "-machine", "q35,hpet=on", "-cpu", cpu, "-smp", CPUS, "-m", str(memory),
                   "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "file:" + self.log,
                   "-kernel", KERNEL, "-initrd", lab.image,
                   "-append", f"console=ttyS0 quiet panic=-1 tsc=reliable mitigations=off lab.name={name} lab.ip={self.address} "
                              f"lab.peers={','.join(peers)} {append}",
                   "-netdev", f"user,id=n0,restrict=on,hostfwd=tcp:127.0.0.1:{self.port}-10.0.2.15:7",
                   "-device", "virtio-net-pci,netdev=n0,romfile="]
        command += devices
        for i, (path, server) in enumerate(links, 1):
            # Whoever connects may be there before the one that listens.
            side = "server=on" if server else "server=off,reconnect-ms=100"
            command += ["-netdev", f"stream,id=n{i},{side},addr.type=unix,addr.path={path}",
                        "-device", f"virtio-net-pci,netdev=n{i},romfile=,mac=52:54:00:77:{number:02x}:{i:02x}"]
        with open(self.log + ".qemu", "wb") as err:
            self.qemu = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=err, stderr=err, pass_fds=fds)

    def console_log(self):
        try:
            with open(self.log, "rb") as f:
                return f.read()
        except OSError:
            return b""

    def alive(self):
        if self.qemu.poll() is not None:
            with open(self.log + ".qemu", encoding="utf-8", errors="replace") as f:
                raise Failure(f"{self.name}: QEMU ended with {self.qemu.returncode}: {f.read()[-800:]}")
        return True

    def await_ready(self, timeout=180):
        wait_for(f"{self.name} to boot", timeout, lambda: self.alive() and b"is ready" in self.console_log())
        if b"no /dev/kvm" in self.console_log() or b"does not load" in self.console_log():
            raise Failure(f"{self.name}: {self.console_log()[-600:].decode('latin-1')}")
        wait_for(f"{self.name} to take commands", 30, self.takes_commands)
        say(f"{self.name} is up after {time.monotonic() - self.began:.1f} s")

    def takes_commands(self):
        try:
            return self.run("true", timeout=20).returncode == 0
        except (OSError, Failure):
            return False

    def connect(self, command):
        assert "\n" not in command
        s = socket.create_connection(("127.0.0.1", self.port), 30)
        s.settimeout(None)
        s.sendall(command.encode() + b"\n")
        return s

    def run(self, command, check=True, timeout=180):
        """Run a line of shell on the host."""
        self.alive()
        data = b""
        end = time.monotonic() + timeout
        with self.connect(command) as s:
            s.shutdown(socket.SHUT_WR)
            while True:
                s.settimeout(max(0.1, end - time.monotonic()))
                try:
                    chunk = s.recv(65536)
                except TimeoutError:
                    raise Failure(f"{self.name}: {command!r} has not ended after {timeout} s; so far {data[-300:]!r}") from None
                if not chunk:
                    break
                data += chunk
        r = Result(command, data)
        if check and r.returncode:
            raise Failure(f"{self.name}: {command!r} ended with {r.returncode}: {r.stderr.strip()} {r.stdout[-300:].strip()}")
        return r

    def daemon(self, name=None, port=4747, options=""):
        """Start a ferryd and give it an identity; several on a host have names and ports of their own."""
        return Daemon(self, name or self.name, port, options)


class Daemon:
    """One ferryd on a lab host, driven by vmctl there."""

    def __init__(self, host, name, port, options):
        self.host = host
        self.name = name
        self.address = f"{host.address}:{port}"
        self.root = f"/run/{name}"
        host.run(f"mkdir -p {self.root} && FERRY_LOG=info setsid ferryd --root {self.root} --listen {self.address} --foreground "
                 f"{options} >>{self.root}.log 2>&1 </dev/null & echo $! >{self.root}.pid")
        host.daemons.append(self)
        wait_for(f"{name}'s daemon", 60, self.answers, 0.2)
        self.vmctl(f"host init --name {name} --address {self.address}")

    def answers(self):
        r = self.host.run(f"kill -0 $(cat {self.root}.pid) || exit 99; FERRY_SOCKET={self.root}/ferryd.sock vmctl version", check=False)
        if r.returncode == 99:
            raise Failure(f"{self.name}: ferryd has ended: {self.log()}")
        return r.returncode == 0

    def command(self, args):
        return f"vmctl -H {self.root}/ferryd.sock {args}"

    def vmctl(self, args, check=True, timeout=180):
        return self.host.run(self.command(args), check, timeout)

    def json(self, args, **kw):
        """The objects that vmctl --json printed, one a line."""
        r = self.vmctl(args + " --json", **kw)
        return [json.loads(line) for line in r.stdout.splitlines() if line.strip()]

    def start(self, name, options, cmdline=""):
        """Start a stock guest with the checker in it; its console."""
        self.vmctl(f"start {name} {options} {GUEST} -a {shlex.quote('console=ttyS0 quiet ' + cmdline)}")
        return Console(self, name)

    def guest(self, name):
        """The guest's entry in `vmctl status`, or None."""
        for entry in self.json("status"):
            for g in entry.get("guests", [entry]) if isinstance(entry, dict) else entry:
                if g.get("name") == name:
                    return g
        return None

    def state(self, name):
        g = self.guest(name)
        return g["state"] if g else None

    def log(self):
        return self.host.run(f"tail -c 6000 {self.root}.log", check=False).stdout


class Lab:
    """Hosts by name, all joined to all. Everything made here is taken away by close()."""

    def __init__(self, build):
        self.folder = tempfile.mkdtemp(prefix="ferry-lab-")
        self.image = os.path.join(self.folder, "host.cpio")
        self.hosts = {}
        self.numbers = {}
        subprocess.run([os.path.join(TOP, "tests", "lab", "mklab"), build, self.image], check=True)

    def add(self, files):
        """Put files into what hosts boot from (see archive)."""
        with open(self.image, "ab") as f:
            f.write(archive(files))

    def plan(self, *names):
        """Say which hosts there will be, for the wires between them."""
        self.numbers = {name: i for i, name in enumerate(names, 1)}

    def boot(self, name, **options):
        """Start a host; hosts are booted in the order of plan()."""
        me = self.numbers[name]
        peers, links = [], []
        for other, number in self.numbers.items():
            if other == name:
                continue
            low, high = min(me, number), max(me, number)
            peers.append(f"10.77.0.{number}")
            links.append((os.path.join(self.folder, f"wire{low}{high}"), me == low))
        host = Host(self, name, me, peers, links, **options)
        self.hosts[name] = host
        return host

    def close(self):
        for h in self.hosts.values():
            if h.qemu.poll() is None:
                h.qemu.kill()
            h.qemu.wait(30)
        if os.environ.get("FERRY_KEEP"):
            say("kept", self.folder)
        else:
            shutil.rmtree(self.folder, ignore_errors=True)


def pair(a, b):
    """Two daemons get to trust each other."""
    token = a.vmctl("host invite").stdout.split()[-1]
    b.vmctl(f"host join {token}")


STATUS = re.compile(rb"#w (\d+) \d+ (\d+) (\d+)\r?\n")


class Ledger:
    """What a guest's checker has said so far, over all the consoles that it was read from. A console begins with scrollback, so
    what is new is told by the guest's own count and clock, which only grow."""

    def __init__(self, console, begin=0):
        self.console = console
        self.begin = begin  # in this console; what was before is another boot's
        self.pages = 0
        self.ms = 0

    def rows(self):
        """(pages written, guest's ms) of the status lines since the last mark; Failure when the guest says that anything is wrong."""
        text = self.console.text[self.begin:]
        found = [tuple(map(int, m.groups())) for m in STATUS.finditer(text)]
        if any(bad for _, _, bad in found) or re.search(rb"!bad|!corrupt|!clock backwards", text):
            raise Failure(f"the guest says {text[-1500:].decode('latin-1')!r}")
        return [(written, ms) for written, ms, _ in found if ms > self.ms]

    def mark(self):
        """Count from the last line so far on."""
        rows = self.rows()
        if rows:
            self.ms = rows[-1][1]

    def rate(self, timeout=60, lines=2):
        """MiB/s rewritten since the mark, by the guest's own clock, once there are that many status lines."""
        wait_for(f"{lines} status lines", timeout, lambda: len(self.rows()) >= lines)
        rows = self.rows()
        return (rows[-1][0] - rows[0][0]) / 256 / ((rows[-1][1] - rows[0][1]) / 1000)

    def verdict(self, timeout=180):
        """Have the guest check everything once more; its verdict, which must be a good one and a new one."""
        rx = re.compile(rb"!verdict (\w+) passes=\d+ pages=(\d+) [^\n]*\n")
        self.console.send(b"v")

        def new():
            return next((m for m in rx.finditer(self.console.text, self.begin) if int(m.group(2)) > self.pages), None)

        m = wait_for("a verdict", timeout, new)
        self.pages = int(m.group(2))
        self.rows()
        if m.group(1) != b"intact":
            raise Failure(m.group(0).decode())
        return m.group(0).decode().strip()


def move(source, target, name, options=""):
    """Move a guest; vmctl's last object."""
    r = source.vmctl(f"migrate {name} {target.name} --json {options}", timeout=300)
    report = json.loads(r.stdout.strip().splitlines()[-1])
    if report["state"] != "completed" or not report["tls"]:
        raise Failure(f"move to {target.name}: {report}")
    if source.state(name) not in ("moved", None) or target.state(name) != "running":
        raise Failure(f"after the move: {source.state(name)} and {target.state(name)}")
    return report


def at_work(console):
    """The guest booted and its checker works."""
    console.expect(rb"!init\r?\n", 180)
    console.expect(rb"!filled \d+ pages", 180)


def power_off(daemon, name, console):
    """The power button reaches the guest's ACPI driver, and its power-off ends the guest."""
    start = console.length()
    daemon.vmctl(f"stop -w {name}")
    console.expect(rb"!power-button", 10, start)
    console.close()
    if daemon.state(name) not in ("stopped", "off", None):
        raise Failure(f"after its power-off {name} is {daemon.state(name)}")


def doctor(daemon):
    """Rows of `vmctl doctor` as {what: (state, words)}."""
    return {m.group(1).strip(): (m.group(2), m.group(3))
            for m in re.finditer(r"^(.+?)  *(yes|no|limited)  +(.*)$", daemon.vmctl("doctor").stdout, re.M)}


def expect_error(daemon, code, words, args):
    """vmctl must fail with this exit code and say all of these words; what it said."""
    r = daemon.vmctl(args, check=False)
    if r.returncode != code or not all(w in r.stderr for w in words):
        raise Failure(f"vmctl {args}: exit {r.returncode}, {r.stderr!r}; expected {code} and {words}")
    return r.stderr


def build_argument(argv):
    """The build folder."""
    return os.path.abspath(argv[1] if len(argv) > 1 else os.path.join(TOP, "build", "release"))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def run_checks(lab, checks):
    """Run (name, function) pairs in order, go on after a failure; how many failed."""
    bad = 0
    for check in checks:
        start = time.monotonic()
        try:
            check(lab)
            say(f"ok {check.__name__} ({time.monotonic() - start:.1f} s)")
        except Exception as e:  # noqa: BLE001 - one check's failure must not hide the others
            bad += 1
            say(f"FAILED {check.__name__}: {type(e).__name__}: {e}")
            for h in lab.hosts.values():
                try:
                    for d in h.daemons:
                        say(f"{d.name}: {d.log()[-3000:]}")
                except Exception as log_error:  # noqa: BLE001
                    say(f"{h.name}: no log: {log_error}; console: {h.console_log()[-2000:].decode('latin-1')}")
    return bad
