# SPDX-License-Identifier: Apache-2.0
"""Where scripts/bench devices runs its guests: this machine (the software CPU against TCG) or a lab host (KVM on both sides)."""
import gzip
import os
import shlex
import subprocess
import sys
import tempfile

import lab
import qemu
from ferry import TOP, Failure, Pair, free_port, wait_for
from shell import devices_guest

QEMU_CPU = "qemu64,-svm,-pni,-cx16,-lahf-lm"  # x86-64-v1
CMDLINE = "console=ttyS0 quiet"
TAPS = {"ferry": "tf", "qemu": "tq"}
GUEST_ADDRESS, GATE_ADDRESS = {"ferry": "10.89.0.2", "qemu": "10.89.1.2"}, {"ferry": "10.89.0.1", "qemu": "10.89.1.1"}
# argv: address, port, MiB, "rx" (the guest receives) or "tx"; prints MiB/s from the first byte to the end of the connection.
MOVE = """
import socket, sys, time
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 60)
s.settimeout(300)
mib, chunk, got = int(sys.argv[3]), b"\\xa5" * (1 << 20), 0
begin = time.monotonic()
if sys.argv[4] == "rx":
    for _ in range(mib):
        s.sendall(chunk)
    s.shutdown(socket.SHUT_WR)
    while s.recv(1 << 16):
        pass
else:
    while part := s.recv(1 << 18):
        got += len(part)
    assert got == mib << 20, got
print(mib / (time.monotonic() - begin))
"""


def guest_initrd(build):
    """The devices guest's, with the program that reads and writes the disk."""
    return lab.contents(devices_guest()[1]) + gzip.compress(
        lab.archive({"bin/diskio": (0o100755, lab.contents(os.path.join(build, "tests", "guests", "diskio")))}), 1, mtime=0)


def qemu_words(accel, cpu, memory, image, aio, kernel, initrd, serial, netdev):
    """QEMU's command line after its name."""
    return ["-accel", accel, "-machine", "q35", "-cpu", cpu, "-m", str(memory), "-nodefaults", "-display", "none", "-no-reboot", "-name",
            "peer,debug-threads=on", "-object", "iothread,id=io", "-drive", f"if=none,id=d,file={image},format=raw,cache=writeback,aio={aio}",
            "-device", "virtio-blk-pci,drive=d,iothread=io,num-queues=1", *serial, "-kernel", kernel, "-initrd", initrd, "-append", CMDLINE,
            "-netdev", netdev + ",id=n", "-device", "virtio-net-pci,netdev=n,romfile="]


class HereGuest:
    """A guest on this machine, of Ferry or of QEMU."""

    def __init__(self, site, side, user):
        self.site, self.side, self.user, self.process, self.folder = site, side, user, None, None
        self.port = free_port() if user else 5001
        host, args = site.host, site.args
        if side == "ferry":
            net = f"user,forward=tcp:{self.port}:5001" if user else f"tap={TAPS[side]}"
            host.vmctl("start", "g", "-m", f"{site.memory}M", "-p", "1", "-k", site.kernel, "-r", site.initrd, "-a", CMDLINE, "--engine",
                       "soft", "--cpu-model", "x86-64-v1", "-d", site.image, "-n", net)
            self.console = host.console("g")
            return
        self.folder = tempfile.TemporaryDirectory(prefix="ferry-tcg-")
        path = os.path.join(self.folder.name, "serial")
        net = f"user,hostfwd=tcp:127.0.0.1:{self.port}-:5001" if user else f"tap,ifname={TAPS[side]},script=no,downscript=no,vhost=off"
        words = qemu_words("tcg,thread=multi", QEMU_CPU, site.memory, site.image, args.aio, site.kernel, site.initrd,
                           ["-chardev", f"socket,id=s,path={path},server=on,wait=off", "-serial", "chardev:s"], net)
        self.process = subprocess.Popen(host.command(site.qemu, *words), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        self.console = qemu.Serial(path)

    def pids(self):
        if self.process:
            return [self.process.pid]
        pid = self.site.host.guest("g")["pid"]
        # The user network is a process of its own.
        net = subprocess.run(["pgrep", "-x", "ferry-net"], capture_output=True, text=True, check=False).stdout.split() if self.user else []
        return [pid, *net]

    def connected(self, shell):
        address = "10.0.2.15" if self.user else GUEST_ADDRESS[self.side]
        shell.run(f"ip addr add {address}/24 dev eth0; ip link set eth0 up")

    def transfer(self, direction, mib):
        address = "127.0.0.1" if self.user else GUEST_ADDRESS[self.side]
        r = subprocess.run(self.site.host.command(sys.executable, "-c", MOVE, address, str(self.port), str(mib), direction),
                           capture_output=True, text=True, check=False, timeout=600)
        if r.returncode:
            raise Failure(r.stderr.strip())
        return float(r.stdout)

    def close(self):
        self.console.close()
        if self.process:
            self.process.kill()
            self.process.wait()
            self.folder.cleanup()
            return
        host = self.site.host
        host.vmctl("stop", "g", "-f", check=False)
        wait_for("the guest's end", 30, lambda: host.state("g") in (None, "stopped"))


class Here:
    memory = 512
    mib = None  # as asked
    ticks_a_second = os.sysconf("SC_CLK_TCK")

    def __init__(self, args):
        self.args = args
        self.qemu = os.path.join(subprocess.run([os.path.join(TOP, "scripts", "qemu-peer")], check=True, capture_output=True,
                                                text=True).stdout.strip(), "qemu")
        self.version = qemu.version(self.qemu)
        self.pair = Pair(args.build, paired=False)
        self.host = self.pair.alpha
        if not self.host.netns:
            self.pair.close()
            raise Failure("network namespaces are needed")
        self.kernel = devices_guest()[0]
        self.initrd = os.path.join(self.pair.folder, "initrd.gz")
        with open(self.initrd, "wb") as f:
            f.write(guest_initrd(args.build))
        self.image = os.path.join(self.pair.disks, "bench.img")
        with open(self.image, "wb") as f:
            for _ in range(256):
                f.write(os.urandom(1 << 20))
        for side, name in TAPS.items():
            for command in (f"tuntap add {name} mode tap vnet_hdr", f"addr add {GATE_ADDRESS[side]}/24 dev {name}", f"link set {name} up"):
                subprocess.run(["ip", "-n", self.host.netns, *command.split()], check=True)

    def start(self, side, user):
        return HereGuest(self, side, user)

    def sh(self, command):
        return subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False).stdout

    def close(self):
        self.pair.close()


class QemuOnHost:
    """What lab.Console wants of a daemon: its `console` is the standard input and output of a QEMU that it starts."""

    def __init__(self, host, words):
        self.host, self.words = host, words

    def command(self, _):
        return "exec /qemu/qemu " + " ".join(shlex.quote(w) for w in self.words)


class LabGuest:
    def __init__(self, site, side):
        self.site, self.side = site, side
        if side == "ferry":
            site.daemon.vmctl(f"start g -m {site.memory}M -p 1 -k /guest/vmlinuz -r /guest/bench.gz -a {shlex.quote(CMDLINE)} --engine kvm "
                              f"--cpu-model host -d {site.image} -n tap={TAPS[side]}")
            self.console = lab.Console(site.daemon, "g")
        else:
            words = qemu_words("kvm", "host", site.memory, site.image, site.args.aio, "/guest/vmlinuz", "/guest/bench.gz",
                               ["-serial", "stdio"], f"tap,ifname={TAPS[side]},script=no,downscript=no,vhost=off")
            self.console = lab.Console(QemuOnHost(site.host, words), "g")

    def pids(self):
        if self.side == "ferry":
            return [self.site.daemon.guest("g")["pid"]]
        return self.site.host.run("pidof qemu-system-x86_64").stdout.split()

    def connected(self, shell):
        shell.run(f"ip addr add {GUEST_ADDRESS[self.side]}/24 dev eth0; ip link set eth0 up")

    def transfer(self, direction, mib):
        """Timed by the lab host's clock, which counts hundredths. Its nc ends with the guest's, so its input stays open."""
        address = GUEST_ADDRESS[self.side]
        move = (f"dd if=/dev/zero bs=64k count={16 * mib} 2>/dev/null | nc {address} 5001" if direction == "rx" else
                f"nc {address} 5001 <>/tmp/open | wc -c")
        out = self.site.host.run(f"cat /proc/uptime; {move}; cat /proc/uptime", timeout=600).stdout.split()
        if direction == "tx" and int(out[2]) != mib << 20:
            raise Failure(f"{out[2]} bytes of {mib} MiB came")
        return mib / (float(out[-2]) - float(out[0]))

    def close(self):
        if self.side == "ferry":
            self.site.daemon.vmctl("stop g -f", check=False)
            lab.wait_for("the guest's end", 60, lambda: self.site.daemon.state("g") in (None, "stopped"))
        else:
            self.site.host.run("kill $(pidof qemu-system-x86_64)", check=False)
            lab.wait_for("QEMU's end", 60, lambda: self.site.host.run("pidof qemu-system-x86_64", check=False).returncode)
        self.console.close()


class Lab:
    memory = 192
    mib = 8
    ticks_a_second = 100

    def __init__(self, args):
        self.args = args
        folder = subprocess.run([os.path.join(TOP, "scripts", "qemu-peer")], check=True, capture_output=True, text=True).stdout.strip()
        self.version = qemu.version(os.path.join(folder, "qemu"))
        self.lab = lab.Lab(args.build)
        self.pack(os.path.join(folder, "root"))
        try:
            self.lab.plan("alpha")
            self.host = self.lab.boot("alpha", memory=2048)
            self.host.await_ready()
            self.host.run("insmod /modules/tun.ko; mkdir -p /tmp/disks; mkfifo /tmp/open")
            for side, name in TAPS.items():
                self.host.run(f"tunctl -t {name}; ip addr add {GATE_ADDRESS[side]}/24 dev {name}; ip link set {name} up")
            self.daemon = self.host.daemon(options="--engine kvm --disks /tmp/disks")
            self.image = "/tmp/disks/bench.img"
            self.host.run(f"dd if=/dev/urandom of={self.image} bs=1M count=64", timeout=300)
        except BaseException:
            self.lab.close()
            raise

    def pack(self, root):
        """QEMU with its libraries, tun.ko and the guest's initramfs, behind the lab host's own image."""
        binary = os.path.join(root, "usr/bin/qemu-system-x86_64")
        libs = ":".join(os.path.join(root, d, "x86_64-linux-gnu") for d in ("usr/lib", "lib"))
        ldd = subprocess.run(["ldd", binary], capture_output=True, text=True, check=True, env=dict(os.environ, LD_LIBRARY_PATH=libs)).stdout
        files = {"qemu": (0o040755, b""), "qemu/lib": (0o040755, b""), "qemu/share": (0o040755, b"")}
        for line in ldd.splitlines():
            words = line.split()
            if len(words) > 2 and words[2].startswith("/"):
                files["qemu/lib/" + words[0]] = (0o100755, lab.contents(words[2]))
            elif "not found" in line:
                raise Failure(f"QEMU in the cache lacks a library: {line.strip()}")
        for name in ("bios-256k.bin", "linuxboot_dma.bin", "kvmvapic.bin"):
            path = next((p for p in (os.path.join(root, "usr/share", d, name) for d in ("qemu", "seabios")) if os.path.exists(p)), None)
            if path:
                files["qemu/share/" + name] = (0o100644, lab.contents(path))
        files["qemu/qemu-system-x86_64"] = (0o100755, lab.contents(binary))
        files["qemu/qemu"] = (0o100755, b'#!/bin/sh\nLD_LIBRARY_PATH=/qemu/lib exec /qemu/qemu-system-x86_64 -L /qemu/share "$@"\n')
        files["modules/tun.ko"] = (0o100644, lab.kernel_module("drivers/net/tun.ko"))
        files["guest/bench.gz"] = (0o100644, guest_initrd(self.args.build))
        self.lab.add(files)

    def start(self, side, user):
        assert not user
        return LabGuest(self, side)

    def sh(self, command):
        return self.host.run(command).stdout

    def close(self):
        self.lab.close()
