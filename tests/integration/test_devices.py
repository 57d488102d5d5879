#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Virtio devices of a stock Linux guest (the devices guest of scripts/guest-kernel -d): they are found on PCI, they work, and they go on
working on the other host while the guest uses them."""
import os
import socket
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ferry  # noqa: E402
import hv  # noqa: E402
from shell import Shell, devices_guest  # noqa: E402

MIB = 1 << 20
MEMORY = 512 * MIB
HASH = b"[0-9a-f]{32}  -"


def balloon(host, target=None):
    control = hv.Control(host.control_socket("g"))
    reply, _ = control.call("balloon", (hv.field(1, 1) + hv.field(2, target)) if target is not None else b"")
    control.sock.close()
    names = {"target": 1, "actual": 2, "reported": 3}
    return {name: hv.one(reply, number) for name, number in names.items()} | {"stats": hv.packed(hv.one(reply, 4, b""))}


def resident(host):
    return host.guest("g")["memory_resident"]


def free_kib(shell):
    """MemTotal stays as it is: a balloon that deflates when memory is short leaves it alone."""
    return int(shell.run("grep MemFree /proc/meminfo").split()[1])


def settled_free_kib(shell):
    """Free page reporting takes free pages aside, up to 128 MiB at a time, while it reports them: MemFree counts again when it has
    stood still for longer than the 2 s between two reports."""
    seen = []

    def still():
        seen.append(free_kib(shell))
        return len(seen) > 6 and max(seen[-7:]) - min(seen[-7:]) < 2048

    ferry.wait_for("MemFree to settle", 60, still, 0.5)
    return seen[-1]


def check_rng(shell):
    assert "virtio_rng" in shell.run("cat /sys/class/misc/hw_random/rng_current"), "the guest does not use the entropy device"
    a, b = (shell.run("dd if=/dev/hwrng bs=4k count=16 2>/dev/null | md5sum").strip() for _ in range(2))
    assert len(a) == 35 and a != b, f"entropy of the device: {a!r}, {b!r}"


def check_console(shell):
    """The shell is on hvc0; before its driver was there, the serial port was shown."""
    assert "/dev/hvc0" in shell.run("tty"), "the shell is not on the virtio console"
    text = bytes(shell.console.text)
    assert b"Linux version" in text, "what the kernel said before hvc0 is not there"
    out = shell.run("i=0; while [ $i -lt 2000 ]; do echo line $i of many; i=$((i + 1)); done", 120)
    lines = out.split("\n")[:-1]
    assert lines == [f"line {i} of many" for i in range(2000)], f"{len(lines)} of 2000 lines came"
    shell.run("echo unseen > /dev/ttyS0")
    assert b"unseen\r\n" not in bytes(shell.console.text).split(b"ttyS0")[-1]


def check_log(host, shell):
    """What was said is on disk, and stays there when the hypervisor dies."""
    shell.run("echo for the lo''g")
    ferry.wait_for("the console's log", 10, lambda: "for the log" in host.vmctl("logs", "g", "--console").stdout)
    os.kill(host.guest("g")["pid"], 9)
    ferry.wait_for("the hypervisor's end", 10, lambda: host.state("g") == "crashed")
    text = host.vmctl("logs", "g", "--console").stdout
    assert "for the log" in text, text[-500:]


def check_balloon(host, shell):
    # Fill memory and free it: what the guest had touched becomes the balloon's.
    shell.run("dd if=/dev/zero of=/tmp/fill bs=1M count=200 2>/dev/null; rm /tmp/fill", 120)
    before = settled_free_kib(shell)
    balloon(host, 256 * MIB)
    ferry.wait_for("the guest gives up 256 MiB", 60, lambda: balloon(host)["actual"] == 256 * MIB)
    after = settled_free_kib(shell)
    assert abs(before - after - 256 * 1024) < 16 * 1024, f"MemFree went from {before} to {after} KiB"
    held = resident(host)
    assert held < MEMORY - 256 * MIB, f"the host still holds {held >> 20} MiB"
    balloon(host, 0)
    ferry.wait_for("the guest takes it back", 60, lambda: balloon(host)["actual"] == 0)
    again = settled_free_kib(shell)
    assert abs(again - before) < 16 * 1024, f"MemFree is {again} KiB, was {before}"
    ferry.wait_for("the guest's statistics", 30, lambda: balloon(host)["stats"])
    total = balloon(host)["stats"][5]
    known = int(shell.run("grep MemTotal /proc/meminfo").split()[1])
    assert total == known * 1024, f"the guest counts {known} KiB in all, the balloon's statistics {total} bytes"
    return held


def vsock_folder(host):
    return os.path.dirname(host.control_socket("g"))


def through_folder(folder, name, use):
    """A unix socket's name is short: go through the folder's descriptor."""
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(30)
    fd = os.open(folder, os.O_PATH)
    try:
        use(s, f"/proc/self/fd/{fd}/{name}")
    finally:
        os.close(fd)
    return s


def to_guest(host, port):
    s = through_folder(vsock_folder(host), "vsock.sock", lambda s, name: s.connect(name))
    s.sendall(f"CONNECT {port}\n".encode())
    line = b""
    while not line.endswith(b"\n"):
        byte = s.recv(1)
        if not byte:
            return None
        line += byte
    assert line.startswith(b"OK "), line
    return s


def check_echo(host, size):
    s = to_guest(host, 1234)
    assert s, "the guest's echo server cannot be reached"
    data = os.urandom(size)
    got = bytearray()

    def read():
        while len(got) < size:
            part = s.recv(65536)
            if not part:
                return
            got.extend(part)

    reader = threading.Thread(target=read)
    reader.start()
    s.sendall(data)
    reader.join(60)
    assert bytes(got) == data, f"{len(got)} of {size} bytes came back"
    return s


def check_vsock(host, shell):
    shell.run("{ vsocket echo 1234 > /tmp/echo 2>&1 & }")
    ferry.wait_for("the echo server", 20, lambda: "listening" in shell.run("cat /tmp/echo"))
    assert to_guest(host, 99) is None, "a port where nobody listens"
    check_echo(host, 3 << 20).close()
    check_echo(host, 10).close()
    # The other way: the guest connects to a port of the host.
    folder = vsock_folder(host)
    server = through_folder(folder, "vsock.sock_5000", lambda s, name: (s.bind(name), s.listen()))
    answer = []

    def serve():
        c, _ = server.accept()
        got = b""
        while part := c.recv(65536):
            got += part
        answer.append(len(got))
        c.sendall(b"host has %d\n" % len(got))
        c.close()

    thread = threading.Thread(target=serve)
    thread.start()
    out = shell.run("dd if=/dev/zero bs=1k count=500 2>/dev/null | vsocket send 5000", 60)
    thread.join(30)
    assert "host has 512000" in out, (out, answer)
    server.close()
    assert "vsocket:" in shell.run("vsocket send 5001 </dev/null")


def check_moves(pair, shell):
    source, target = pair.alpha, pair.beta
    held = check_echo(source, 1000)
    shell.console.send(b"{ while [ ! -e /tmp/stop ]; do dd if=/dev/hwrng bs=1k count=32 2>/dev/null | md5sum; done & } ; loop=$!\n")
    shell.console.expect(HASH, 30)
    for _ in range(4):
        source.vmctl("migrate", "g", target.name)
        shell.console = target.console("g", scrollback=False)
        shell.console.expect(b"(?s)" + HASH + b".*" + HASH, 30)
        source, target = target, source
    shell.run("touch /tmp/stop; wait $loop")  # busybox's shell takes a job's end for the end of its input
    assert held.recv(1) == b"", "a connection to the guest outlives its move"
    check_echo(source, 100000).close()
    balloon(source, 128 * MIB)
    ferry.wait_for("the balloon works after the moves", 60, lambda: balloon(source)["actual"] == 128 * MIB)
    source.vmctl("migrate", "g", target.name)
    shell.console = target.console("g", scrollback=False)
    assert balloon(target)["target"] == balloon(target)["actual"] == 128 * MIB
    assert free_kib(shell) > 0


def main():
    build = ferry.build_argument(sys.argv)
    kernel, initrd = devices_guest()
    pair = ferry.Pair(build)
    try:
        pair.alpha.vmctl("start", "g", "-k", kernel, "-r", initrd, "-m", "512M", "-p", "2", "--engine", "soft", "--vsock", "--virtio-console", "-a", "console=ttyS0 console=hvc0")
        console = pair.alpha.console("g")
        console.expect(b"devices ready", 120)
        shell = Shell(console)
        check_console(shell)
        ferry.say("virtio console: works; all below is typed and read there")
        check_rng(shell)
        ferry.say("entropy device: works")
        held = check_balloon(pair.alpha, shell)
        ferry.say(f"balloon: 256 MiB and back; {held >> 20} MiB resident with it")
        check_vsock(pair.alpha, shell)
        ferry.say("socket device: both ways")
        check_moves(pair, shell)
        ferry.say("5 moves with the entropy device and the balloon in use")
        check_log(pair.beta, shell)
        ferry.say("console's log: there after the hypervisor was killed")
        pair.check_one_runner()
    finally:
        pair.close()


main()
