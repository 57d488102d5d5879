# SPDX-License-Identifier: Apache-2.0
"""Two real hosts on one machine: a daemon each, in network namespaces joined by a veth pair, and vmctl to drive them.

Everything made here is taken away by Pair.close(), also after a failure."""
import glob
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

ENGINE = os.environ.get("FERRY_ENGINE", "kvm")  # what runs the tests' guests
TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class Failure(Exception):
    pass


def say(*words):
    print("ferry:", *words, file=sys.stderr, flush=True)


def wait_for(what, timeout, condition, interval=0.005):
    """Poll an outside condition until it holds; its value, or Failure naming `what`."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise Failure(f"timed out after {timeout} s waiting for {what}")
        time.sleep(interval)


class Console:
    """A console read from outside, each chunk with its arrival time. Attached to ferry-hv's control socket, so that an incoming
    guest's console can be watched before it runs. seq counts bytes."""

    # Request{id=1, console_attach{scrollback}} of proto/control.proto
    ATTACH = {False: b"\x08\x01\x9a\x01\x00", True: b"\x08\x01\x9a\x01\x02\x08\x01"}

    def __init__(self, path, scrollback=True):
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)
        self.text = b""
        self.chunks = []  # (monotonic ns, bytes)
        self.ended = False
        self.control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.settimeout(10)
        # sun_path is short: go through the folder.
        fd = os.open(os.path.dirname(path), os.O_PATH)
        try:
            self.control.connect(f"/proc/self/fd/{fd}/{os.path.basename(path)}")
        finally:
            os.close(fd)
        self.control.send(self.ATTACH[scrollback])
        reply, fds, _, _ = socket.recv_fds(self.control, 65536, 1)
        if not fds:
            raise Failure(f"ferry-hv gives no console: {reply!r}")
        self.sock = socket.socket(fileno=fds[0])
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        while True:
            try:
                data = self.sock.recv(65536)
            except OSError:
                data = b""
            now = time.monotonic_ns()
            with self.changed:
                if data:
                    self.text += data
                    self.chunks.append((now, data))
                else:
                    self.ended = True
                self.changed.notify_all()
            if not data:
                return

    def send(self, data):
        self.sock.sendall(data)

    def expect(self, pattern, timeout=30, start=0):
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
                    tail = self.text[-300:].decode("latin-1")
                    why = "the console ended" if self.ended else f"not within {timeout} s"
                    raise Failure(f"console: no {pattern!r} ({why}); it ends with {tail!r}")
                self.changed.wait(left)

    def length(self):
        with self.lock:
            return len(self.text)

    def close(self):
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.thread.join(5)
        self.sock.close()
        self.control.close()


class Host:
    def __init__(self, pair, name, address, netns):
        self.pair = pair
        self.name = name
        self.address = address
        self.netns = netns
        self.ip = address.split(":")[0]
        self.root = os.path.join(pair.folder, name)
        os.makedirs(self.root, mode=0o700)
        self.daemon = None
        self.engine = "auto"  # for guests that arrive
        self.wrapper = []  # a command that runs the daemon
        self.options = []  # of its own
        self.log = os.path.join(pair.folder, name + ".log")

    def command(self, *argv):
        prefix = ["ip", "netns", "exec", self.netns] if self.netns else []
        return prefix + list(argv)

    def start_daemon(self, fault=None, wait=True):
        env = dict(os.environ)
        env.pop("FERRY_FAULT", None)
        env.setdefault("FERRY_LOG", "info")
        if fault:
            env["FERRY_FAULT"] = fault
        with open(self.log, "ab") as log:
            self.daemon = subprocess.Popen(
                self.command(*self.wrapper, os.path.join(self.pair.bin, "ferryd"), "--root", self.root, "--listen", self.listen(),
                              "--engine", self.engine, "--disks", self.pair.disks, *self.pair.more_disks, *self.options, "--foreground"),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, start_new_session=True)
        if wait:
            wait_for(f"{self.name}'s daemon", 10, self.answers)

    def listen(self):
        return self.address

    def answers(self):
        if self.daemon and self.daemon.poll() is not None:
            raise Failure(f"{self.name}: ferryd ended with {self.daemon.returncode}; see {self.log}")
        return self.vmctl("version", "--json", check=False).returncode == 0

    def stop_daemon(self, sig=signal.SIGTERM):
        if self.daemon:
            if self.daemon.poll() is None:
                self.daemon.send_signal(sig)
            self.daemon.wait(15)
            self.daemon = None

    def vmctl(self, *args, check=True, timeout=120):
        r = subprocess.run([os.path.join(self.pair.bin, "vmctl"), "-H", os.path.join(self.root, "ferryd.sock"), *args],
                           stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout)
        if check and r.returncode:
            raise Failure(f"{self.name}: vmctl {' '.join(args)} ended with {r.returncode}: {r.stderr.strip()}")
        return r

    def spawn(self, *args):
        return subprocess.Popen([os.path.join(self.pair.bin, "vmctl"), "-H", os.path.join(self.root, "ferryd.sock"), *args],
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def json(self, *args, **kw):
        """The objects that vmctl --json printed, one a line."""
        r = self.vmctl(*args, "--json", **kw)
        return [json.loads(line) for line in r.stdout.splitlines() if line.strip()]

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

    def control_socket(self, name):
        return os.path.join(self.root, "guests", self.guest(name)["uuid"], "control.sock")

    def console(self, name, scrollback=True):
        return Console(self.control_socket(name), scrollback)

    def run_intervals(self):
        """[(run id, enter ns, leave ns or None, guest's UUID)] from run.log."""
        out = []
        path = os.path.join(self.root, "run.log")
        if not os.path.exists(path):
            return out
        with open(path, encoding="ascii") as f:
            for line in f:
                run, what, ns, uuid, *_ = line.split()
                if what == "enter":
                    out.append([run, int(ns), None, uuid])
                else:
                    for entry in reversed(out):
                        if entry[0] == run and entry[2] is None:
                            entry[2] = int(ns)
                            break
        return out

    def children(self):
        """pids of ferry-hv and ferry-migrate that belong to this root, by their parent or their open files."""
        pids = []
        for path in glob.glob("/proc/[0-9]*"):
            try:
                exe = os.path.basename(os.readlink(path + "/exe"))
                if exe in ("ferry-hv", "ferry-migrate") and self.owns(path):
                    pids.append((int(os.path.basename(path)), exe))
            except OSError:
                continue
        return pids

    def owns(self, path):
        with open(path + "/stat", encoding="latin-1") as f:
            parent = int(f.read().rsplit(")", 1)[1].split()[1])
        if self.daemon and parent == self.daemon.pid:
            return True
        for fd in glob.glob(path + "/fd/*"):
            try:
                if os.readlink(fd).startswith(self.root + "/"):
                    return True
            except OSError:
                continue
        return False


class Pair:
    """Two paired hosts, "alpha" and "beta"."""

    def __init__(self, build, paired=True, namespaces=None, disks=()):
        self.bin = os.path.join(os.path.abspath(build), "bin")
        self.guests = os.path.join(os.path.abspath(build), "tests", "guests")
        self.folder = tempfile.mkdtemp(prefix="ferry-")
        self.consoles = []
        self.disks = os.path.join(self.folder, "disks")  # shared storage, at the same path on both hosts
        os.makedirs(self.disks)
        self.more_disks = [w for uri in disks for w in ("--disks", uri)]  # servers that incoming guests' disks may be at
        self.namespaces = namespaces_work() if namespaces is None else namespaces
        tag = str(os.getpid() % 100000)
        self.net = [f"fa{tag}", f"fb{tag}"] if self.namespaces else [None, None]
        try:
            if self.namespaces:
                self._make_network()
            names = [("alpha", "10.77.0.1:4747" if self.namespaces else "127.0.0.1:" + str(free_port())),
                     ("beta", "10.77.0.2:4747" if self.namespaces else "127.0.0.1:" + str(free_port()))]
            self.hosts = [Host(self, name, address, net) for (name, address), net in zip(names, self.net)]
            self.alpha, self.beta = self.hosts
            for h in self.hosts:
                h.start_daemon()
                h.vmctl("host", "init", "--name", h.name, "--address", h.address)
            if paired:
                self.join()
        except BaseException:
            self.close()
            raise

    def join(self):
        token = self.alpha.vmctl("host", "invite").stdout.split()[-1]
        self.beta.vmctl("host", "join", token)

    def _make_network(self):
        a, b = self.net
        for command in (f"ip netns add {a}", f"ip netns add {b}",
                        f"ip link add {a}v type veth peer name {b}v",
                        f"ip link set {a}v netns {a}", f"ip link set {b}v netns {b}",
                        f"ip netns exec {a} ip addr add 10.77.0.1/24 dev {a}v",
                        f"ip netns exec {b} ip addr add 10.77.0.2/24 dev {b}v",
                        f"ip netns exec {a} ip link set {a}v up", f"ip netns exec {b} ip link set {b}v up",
                        f"ip netns exec {a} ip link set lo up", f"ip netns exec {b} ip link set lo up"):
            subprocess.run(command.split(), check=True)

    def link(self, up):
        """Cut the wire between the hosts, or join it again."""
        subprocess.run(["ip", "netns", "exec", self.net[0], "ip", "link", "set", self.net[0] + "v", "up" if up else "down"],
                       check=True)

    def start(self, host, name, cmdline, memory="256M", vcpus=1, *options, kernel=None):
        host.vmctl("start", name, "-m", memory, "-p", str(vcpus), "-k", kernel or os.path.join(self.guests, "selfcheck.elf"),
                   "-a", cmdline, "--engine", ENGINE, *options)
        return host.console(name)

    def other(self, host):
        return self.beta if host is self.alpha else self.alpha

    def check_one_runner(self):
        """No two intervals of running of one guest overlap, over both hosts: CLOCK_MONOTONIC is one clock here."""
        spans = sorted((uuid, enter, leave if leave is not None else float("inf"), run, h.name)
                       for h in self.hosts for run, enter, leave, uuid in h.run_intervals())
        for (uuid, _, leave, run, host), (uuid2, enter, _, run2, host2) in zip(spans, spans[1:]):
            if uuid == uuid2 and enter < leave and run != run2 and leave != float("inf"):
                raise Failure(f"two runners: {run2} entered on {host2} before {run} left on {host}")
        return len(spans)

    def close(self):
        for h in getattr(self, "hosts", []):
            for pid, _ in h.children():
                try:
                    os.kill(pid, signal.SIGKILL)
                except OSError:
                    pass
            try:
                h.stop_daemon(signal.SIGKILL)
            except (OSError, subprocess.TimeoutExpired):
                pass
        for net in self.net:
            if net:
                subprocess.run(["ip", "netns", "del", net], stderr=subprocess.DEVNULL, check=False)
        if os.environ.get("FERRY_KEEP"):
            say("kept", self.folder)
        else:
            shutil.rmtree(self.folder, ignore_errors=True)


def namespaces_work():
    """Network namespaces can be made and entered; in some containers they cannot, and two ports of loopback must do."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = f"fx{os.getpid() % 100000}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode == 0
    ok = made and subprocess.run(["ip", "netns", "exec", name, "ip", "link", "set", "lo", "up"], capture_output=True,
                                 check=False).returncode == 0
    if made:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return ok


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def build_argument(argv):
    for i, a in enumerate(argv):
        if a == "--build" and i + 1 < len(argv):
            return argv[i + 1]
    return os.path.join(TOP, "build", "release")


def stock_kernel(version="6.1"):
    """(vmlinuz, initramfs or the installer's initrd) in the cache; fetched and packed by scripts/guest-kernel."""
    folder = os.path.join(os.environ.get("FERRY_CACHE") or os.path.join(TOP, ".cache"), "kernel-" + version)
    files = [os.path.join(folder, "vmlinuz"), os.path.join(folder, "initrd.gz" if version == "installer" else "initramfs.gz")]
    for f in files:
        if not os.path.exists(f):
            raise Failure(f"no {f}: run scripts/guest-kernel -l build/release/tests/guests/ledger {version}")
    return files


def need_kvm():
    """A reason why guests cannot run here, or None."""
    if ENGINE == "soft":
        return None
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR))
    except OSError as e:
        return f"/dev/kvm: {e.strerror}"
    return None
