#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Network cards of a stock Linux guest (the devices guest of scripts/guest-kernel -d): the user network both ways and after the death of its
process, taps and bridges, what is refused, limits, and a move under an open TCP connection."""
import hashlib
import os
import re
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ferry  # noqa: E402
from shell import Shell, devices_guest  # noqa: E402
from wire import Wire, run  # noqa: E402

ENGINE = os.environ.get("FERRY_ENGINE", "soft")
MIB = 1 << 20
DHCP = """#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add $ip/24 dev $interface
ip route add default via $router
echo nameserver $dns >/etc/resolv.conf
echo leased $ip $router $dns
"""
SERVER = """
import http.server, sys
class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words):
        pass
http.server.ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
"""
CAT = """
import socket, sys, hashlib
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 60)
data = b""
while True:
    part = s.recv(1 << 16)
    if not part:
        break
    data += part
print(len(data), hashlib.md5(data).hexdigest())
"""
SEND = """
import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 60)
s.sendall(open(sys.argv[3], "rb").read())
s.shutdown(socket.SHUT_WR)
while s.recv(1 << 16):
    pass
"""
# An open connection: numbered lines, each echoed by the guest; prints the longest silence in ms when its input ends.
ECHO = """
import select, socket, sys, time
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 60)
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
sent = got = 0
last = time.monotonic()
worst = 0
data = b""
print("open", flush=True)
while True:
    if sent == got:
        sent += 1
        s.sendall(b"%d\\n" % sent)
    r, _, _ = select.select([s, sys.stdin], [], [], 60)
    if s in r:
        part = s.recv(65536)
        if not part:
            sys.exit("the connection ended")
        data += part
        while b"\\n" in data:
            line, data = data.split(b"\\n", 1)
            got += 1
            assert int(line) == got, (line, got)
        worst = max(worst, time.monotonic() - last)
        last = time.monotonic()
    if sys.stdin in r:
        word = sys.stdin.readline()
        print(got, round(worst * 1000), flush=True)
        worst = 0
        if not word:
            break
    if not r:
        sys.exit("no echo within 60 s")
"""


def md5(data):
    return hashlib.md5(data).hexdigest()


def boot(host, name, *options, memory="256M"):
    kernel, initrd = devices_guest()
    host.vmctl("start", name, "-k", kernel, "-r", initrd, "-m", memory, "--engine", ENGINE, "-a", "console=ttyS0 quiet", *options)
    console = host.console(name)
    console.expect(b"devices ready", 180)
    return Shell(console)


def processes(host, program):
    found = []
    for pid in os.listdir("/proc"):
        try:
            if os.path.basename(os.readlink(f"/proc/{pid}/exe")) == program and host.owns(f"/proc/{pid}"):
                found.append(int(pid))
        except (OSError, ValueError):
            continue
    return found


def get_lease(shell):
    for number, line in enumerate(DHCP.splitlines()):
        shell.run(f"echo '{line}' >{'>' if number else ''} /tmp/dhcp")
    shell.run("mkdir -p /etc; chmod +x /tmp/dhcp; ip link set eth0 up")
    said = shell.run("udhcpc -i eth0 -n -q -t 10 -s /tmp/dhcp", 60)
    assert "leased 10.0.2.15 10.0.2.2 10.0.2.3" in said, said


def check_user(pair):
    """DHCP, a file from the host's HTTP server, one from the guest's, the network's death, a limit."""
    host = pair.alpha
    folder = os.path.join(pair.folder, "www")
    os.makedirs(folder)
    data = os.urandom(2 * MIB)
    with open(os.path.join(folder, "file"), "wb") as f:
        f.write(data)
    inside, outside = ferry.free_port(), ferry.free_port()
    server = subprocess.Popen(host.command(sys.executable, "-c", SERVER, "127.0.0.1", str(inside)), cwd=folder,
                              stdin=subprocess.DEVNULL)
    try:
        shell = boot(host, "u", "-n", f"user,forward=tcp:{outside}:80")
        get_lease(shell)
        said = shell.run(f"wget -q -O - http://10.0.2.2:{inside}/file | md5sum", 120)
        assert md5(data) in said, f"fetched from the host: {said!r}"
        shell.run("mkdir -p /tmp/w; dd if=/dev/urandom of=/tmp/w/f bs=64k count=16 2>/dev/null; httpd -p 80 -h /tmp/w")
        sum_there = shell.run("md5sum /tmp/w/f").split()[0]
        fetch = host.command(sys.executable, "-c",
                             f"import hashlib, urllib.request as u; print(hashlib.md5(u.urlopen('http://127.0.0.1:{outside}/f').read()).hexdigest())")
        assert run(*fetch).stdout.strip() == sum_there, "fetched from the guest: it differs"
        taken = host.vmctl("start", "u2", "-k", devices_guest()[0], "--engine", ENGINE, "-n", f"user,forward=tcp:{outside}:80", check=False)
        assert taken.returncode == 5 and "cannot be forwarded" in taken.stderr, taken.stderr
        # Its process dies: the guest lives, its link goes down and comes up, forwards are there again.
        old = processes(host, "ferry-net")
        assert len(old) == 1, old
        os.kill(old[0], signal.SIGKILL)
        ferry.wait_for("another ferry-net", 30, lambda: len(new := processes(host, "ferry-net")) == 1 and new != old)
        ferry.wait_for("the link", 30, lambda: host.guest("u")["nics"][0]["link"])
        assert run(*fetch).stdout.strip() == sum_there, "after its network's death the guest serves something else"
        # A daemon that is another one by now starts it anew as well.
        host.stop_daemon()
        os.kill(processes(host, "ferry-net")[0], signal.SIGKILL)
        host.start_daemon()
        ferry.wait_for("a ferry-net after the daemon's restart", 30, lambda: len(processes(host, "ferry-net")) == 1)
        ferry.wait_for("the link", 30, lambda: host.guest("u")["nics"][0]["link"])
        assert run(*fetch).stdout.strip() == sum_there
        # A limit while it runs: 1 MiB at 256 KiB/s, less the burst of 64 KiB.
        assert host.vmctl("set", "u", "net0.rate=1", check=False).returncode == 2
        assert host.vmctl("set", "u", "net1.rate=1M", check=False).returncode == 3
        host.vmctl("set", "u", "net0.rate=256K")
        begin = time.monotonic()
        assert run(*fetch).stdout.strip() == sum_there
        slow = time.monotonic() - begin
        assert slow > 3.0, f"1 MiB at 256 KiB/s took {slow:.2f} s"
        counted = host.guest("u")["nics"][0]
        assert counted["rx_bytes"] > 2 * MIB and counted["tx_bytes"] > 3 * MIB and counted["rate"] == 256 << 10, counted
        host.vmctl("stop", "u", "-f")
        ferry.wait_for("ferry-net ends with its guest", 10, lambda: not processes(host, "ferry-net"))
    finally:
        server.kill()
        server.wait()
    ferry.say(f"user network: DHCP, HTTP both ways, its process killed twice; 1 MiB at 256 KiB/s in {slow:.1f} s")


def set_address(shell, address, wire):
    shell.run(f"ip addr add {address}/24 dev eth0; ip link set eth0 up")
    # The bridge's port learns for a moment first.
    ferry.wait_for("the guest answers a ping", 60, lambda: run(*wire.command(
        sys.executable, "-c", PING, address), check=False).returncode == 0)
    said = shell.run("ping -c 2 -w 20 10.88.0.1 | grep received", 40)
    assert "2 packets received" in said, said


# An echo request (RFC 792) by a datagram socket of ICMP's, answered within a second.
PING = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
s.settimeout(1)
head = b"\\x08\\0\\0\\0\\x12\\x34\\0\\1" + b"ferryferry"
total = sum(int.from_bytes(head[i:i + 2], "big") for i in range(0, len(head), 2))
total = (total & 0xffff) + (total >> 16)
s.sendto(head[:2] + (0xffff - total).to_bytes(2, "big") + head[4:], (sys.argv[1], 0))
while True:
    data, _ = s.recvfrom(2048)
    if data[20] == 0 and data[24:28] == b"\\x12\\x34\\0\\1":
        break
"""


def listen(shell, port, command):
    """Have the guest serve one connection in the background; returns once it listens."""
    shell.run(f"{command} & true")
    ferry.wait_for(f"the guest listens at {port}", 30,
                   lambda: shell.run(f"cat /proc/net/tcp /proc/net/tcp6 | grep -c ':{port:04X} .* 0A '").strip() != "0")


def transfers(shell, wire, address, folder, mib=8):
    """A file each way over TCP; MiB/s in and out."""
    path = os.path.join(folder, "in")
    with open(path, "wb") as f:
        f.write(os.urandom(mib * MIB))
    with open(path, "rb") as f:
        want = md5(f.read())
    listen(shell, 5001, "nc -l -p 5001 >/tmp/in")
    begin = time.monotonic()
    run(*wire.command(sys.executable, "-c", SEND, address, "5001", path))
    there = time.monotonic() - begin
    assert want in shell.run("wait; md5sum /tmp/in", 60), "the guest got something else"
    listen(shell, 5002, "nc -l -p 5002 </tmp/in")
    begin = time.monotonic()
    said = run(*wire.command(sys.executable, "-c", CAT, address, "5002")).stdout.split()
    assert said == [str(mib * MIB), want], f"from the guest: {said}"
    return mib / there, mib / (time.monotonic() - begin)


def migrate(shell, source, target, name, *options):
    report = source.json("migrate", name, target.name, "--max-downtime", "1s", *options)[-1]
    shell.console.close()
    shell.console = target.console(name, scrollback=False)
    return report


def check_bridge(pair, wire):
    """Ping, TCP both ways, moves there and back under an open connection, by the bridge; the same by a tap."""
    shell = boot(pair.alpha, "b", "-n", "bridge=br0")
    nic = pair.alpha.guest("b")["nics"][0]
    assert re.fullmatch("02(:[0-9a-f]{2}){5}", nic["mac"]) and nic["mac"] in shell.run("ip link show eth0"), nic
    set_address(shell, "10.88.0.2", wire)
    rates = transfers(shell, wire, "10.88.0.2", pair.folder)
    ferry.say(f"bridge: ping, TCP both ways; {rates[0]:.1f} MiB/s in, {rates[1]:.1f} MiB/s out, with their checksums")
    listen(shell, 7, "nc -ll -p 7 -e cat")
    echo = subprocess.Popen(wire.command(sys.executable, "-c", ECHO, "10.88.0.2", "7"), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, bufsize=1)

    def look():
        echo.stdin.write("\n")
        echo.stdin.flush()
        line = echo.stdout.readline().split()
        if len(line) != 2:
            raise ferry.Failure(f"the open connection: {echo.stderr.read().strip()}")
        return int(line[0]), int(line[1])

    assert echo.stdout.readline() == "open\n", echo.stderr.read()
    ferry.wait_for("echoes", 30, lambda: look()[0] > 20)
    source, target = pair.alpha, pair.beta
    silences = []
    for _ in range(4):
        count, _ = look()
        report = migrate(shell, source, target, "b")
        ferry.wait_for("echoes after the move", 60, lambda: look_more(look, count + 20, silences))
        silences[-1] = (silences[-1], report["downtime_ms"])
        source, target = target, source
    look()
    echo.stdin.close()
    echo.wait(30)
    ferry.say("silence of an open TCP connection over a move, and the downtime, ms: " +
              ", ".join(f"{s:.0f}/{d:.0f}" for s, d in silences))
    link = shell.run("cat /sys/class/net/eth0/operstate")
    assert link.split()[-1:] == ["up"], f"the link is {link!r}"
    pair.alpha.vmctl("stop", "b", "-f")
    ferry.wait_for("the tap goes with its guest", 10, lambda: "fy" not in run("ip", "-n", pair.net[0], "-o", "link").stdout)


def look_more(look, count, silences):
    """True once `count` echoes have come; the longest silence seen since the last one goes to silences."""
    now, worst = look()
    if look_more.open:
        silences[-1] = max(silences[-1], worst)
    else:
        silences.append(worst)
    look_more.open = now < count
    return now >= count


look_more.open = False


def check_tap(pair, wire):
    a = pair.net[0]
    run("ip", "-n", a, "tuntap", "add", "t0", "mode", "tap", "multi_queue")
    run("ip", "-n", a, "link", "set", "t0", "master", "br0", "up")
    shell = boot(pair.alpha, "t", "-p", "2", "-n", "tap=t0,queues=2,mac=02:00:00:00:00:77,mtu=1400")
    set_address(shell, "10.88.0.3", wire)
    said = shell.run("ip link show eth0; ls /sys/class/net/eth0/queues; cat /sys/class/net/eth0/speed")
    assert "02:00:00:00:00:77" in said and "mtu 1400" in said and "rx-1" in said and "10000" in said, said
    rates = transfers(shell, wire, "10.88.0.3", pair.folder)
    busy = pair.alpha.vmctl("start", "t2", "-k", devices_guest()[0], "--engine", ENGINE, "-n", "tap=t0", check=False)
    assert busy.returncode and "t0" in busy.stderr, busy.stderr
    pair.alpha.vmctl("stop", "t", "-f")
    ferry.say(f"tap of two queues: ping, TCP both ways; {rates[0]:.1f} MiB/s in, {rates[1]:.1f} MiB/s out")


def check_refusals(pair):
    kernel = devices_guest()[0]
    for spec, code, words in (("tap=nope", 5, "there is no tap nope here"), ("bridge=nope", 5, "there is no bridge nope here"),
                              ("bridge=lo", 5, "lo is no bridge here"), ("tap=br0", 5, "br0 is no tap here"),
                              ("user,queues=2", 2, "queues is 1 to 8"), ("user,mac=01:00:00:00:00:01", 2, "mac is like"),
                              ("user,forward=tcp:0:1", 2, "forward is like"), ("user,rate=1", 2, "rate is")):
        r = pair.alpha.vmctl("start", "r", "-k", kernel, "--engine", ENGINE, "-n", spec, check=False)
        assert r.returncode == code and words in r.stderr, (spec, r.returncode, r.stderr)
    run("ip", "-n", pair.net[0], "link", "add", "br1", "type", "bridge")
    run("ip", "-n", pair.net[0], "link", "set", "br1", "up")
    pair.alpha.vmctl("start", "r", "-k", kernel, "-r", devices_guest()[1], "--engine", ENGINE, "-n", "bridge=br1", "-n", "-a", "console=ttyS0")
    for option in ([], ["--plan"]):
        r = pair.alpha.vmctl("migrate", "r", "beta", *option, check=False)
        assert r.returncode == 5 and "net0: there is no bridge br1 here" in r.stderr + r.stdout, (r.returncode, r.stderr)
    assert pair.alpha.state("r") == "running"
    pair.alpha.vmctl("stop", "r", "-f")
    ferry.say("what cannot be joined is refused, at the start and at a move")


def check_definition(pair):
    """A definition keeps the words of -n."""
    kernel, initrd = devices_guest()
    host = pair.alpha
    host.vmctl("create", "d", "-k", kernel, "-r", initrd, "--engine", ENGINE, "-n", "-n", "user,mac=02:00:00:00:00:09")
    exported = host.vmctl("export", "d").stdout
    assert "user,mac=02:00:00:00:00:09" in exported, exported
    host.vmctl("start", "d")
    nics = host.guest("d")["nics"]
    assert [n["network"] for n in nics] == ["user", "user"] and nics[1]["mac"] == "02:00:00:00:00:09", nics
    assert len(processes(host, "ferry-net")) == 2
    host.vmctl("stop", "d", "-f")
    host.vmctl("delete", "d")
    ferry.say("a definition with two networks")


def check_user_move(pair):
    """Forwards follow the guest; on one machine the port is free only once the source has let go."""
    port = ferry.free_port()
    shell = boot(pair.alpha, "m", "-n", f"user,forward=tcp:{port}:80")
    get_lease(shell)
    shell.run("mkdir -p /tmp/w; echo here it is >/tmp/w/f; httpd -p 80 -h /tmp/w")
    r = pair.alpha.vmctl("migrate", "m", "beta", "--max-downtime", "1s")
    assert "connections over its user network end" in r.stdout + r.stderr, (r.stdout, r.stderr)

    def there():
        got = run(*pair.beta.command(sys.executable, "-c",
                                     f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:{port}/f', timeout=10).read())"), check=False)
        return "here it is" in got.stdout
    ferry.wait_for("the forward at the target", 60, there)
    assert not processes(pair.alpha, "ferry-net")
    pair.beta.vmctl("stop", "m", "-f")
    ferry.say("a forward follows its guest")


def main():
    build = ferry.build_argument(sys.argv)
    pair = ferry.Pair(build)
    wire = None
    try:
        if pair.namespaces:
            wire = Wire(pair)
            check_refusals(pair)
        check_user(pair)
        check_definition(pair)
        check_user_move(pair)
        if wire:
            check_bridge(pair, wire)
            check_tap(pair, wire)
        else:
            ferry.say("no network namespaces here: taps and bridges are not tried")
        pair.check_one_runner()
    finally:
        pair.close()
        if wire:
            wire.close()


main()
