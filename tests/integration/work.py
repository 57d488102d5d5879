#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A Debian guest at work while it moves between two hosts on shared storage: PostgreSQL with pgbench and with a client that counts what was
acknowledged, both from outside over a bridge, and fio with verification on its disk. Needs pgbench and psql here (postgresql-15).

    work.py [--build DIR] [--moves N] [--engine E]     N moves (10)
"""
import os
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ferry  # noqa: E402
from images import debian_image, description  # noqa: E402
from session import Session  # noqa: E402
from wire import Wire, run  # noqa: E402

ADDRESS = "10.88.0.2"
OPTIONS = ("--suite", "bookworm", "--size", "4G", "--hostname", "ferry-guest", "--packages", "postgresql,fio", "--extract-kernel")
FIO = ("fio --name=v --filename=/var/tmp/fio --size=32M --bs=16k --rw=randwrite --ioengine=libaio --iodepth=8 --direct=1 --verify=crc32c "
       "--verify_fatal=1 --do_verify=1 --rate=8m --output=/var/tmp/fio.$n")


def argument(name, default):
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else default


class Client:
    """One connection for all its life: inserts numbers one after the other and keeps which were acknowledged, and the longest wait."""

    def __init__(self, wire):
        self.p = subprocess.Popen(wire.command("psql", "-h", ADDRESS, "-U", "postgres", "-d", "bench", "-qAt", "-v", "ON_ERROR_STOP=1"),
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1)
        self.acknowledged = 0
        self.longest = 0.0
        self.stopped = False
        self.error = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        n = 0
        while not self.stopped:
            n += 1
            began = time.monotonic()
            try:
                self.p.stdin.write(f"insert into said values ({n}) returning n;\n")
                self.p.stdin.flush()
            except OSError as e:
                self.error = str(e)
                return
            line = self.p.stdout.readline()
            if line.strip() != str(n):
                self.error = f"insert {n}: {line!r} {self.p.stderr.read()!r}"
                return
            self.acknowledged = n
            self.longest = max(self.longest, time.monotonic() - began)

    def take_longest(self):
        longest, self.longest = self.longest, 0.0
        return longest

    def stop(self):
        self.stopped = True
        self.thread.join(60)
        self.p.stdin.close()
        self.p.wait(30)
        if self.error:
            raise ferry.Failure(f"the client's connection: {self.error}")


def set_up(session, wire):
    session.run("systemctl stop systemd-networkd systemd-networkd.socket; d=$(ls /sys/class/net | grep -v lo | head -1); "
                f"ip link set $d up; ip addr add {ADDRESS}/24 dev $d", 60)
    session.run("c=/etc/postgresql/15/main; echo \"listen_addresses = '*'\" >>$c/postgresql.conf; "
                "echo 'host all all 10.88.0.0/24 trust' >>$c/pg_hba.conf; systemctl restart postgresql", 200)
    ferry.wait_for("PostgreSQL answers", 120, lambda: run(*wire.command("psql", "-h", ADDRESS, "-U", "postgres", "-c", "select 1"),
                                                          check=False).returncode == 0)
    run(*wire.command("psql", "-h", ADDRESS, "-U", "postgres", "-c", "create database bench"))
    run(*wire.command("psql", "-h", ADDRESS, "-U", "postgres", "-d", "bench", "-c", "create table said (n int primary key)"))
    run(*wire.command("pgbench", "-h", ADDRESS, "-U", "postgres", "-i", "-q", "-s", "1", "bench"))
    session.run(f"rm -f /var/tmp/stop; (n=0; while [ ! -e /var/tmp/stop ]; do n=$((n+1)); {FIO} || {{ echo $n >/var/tmp/bad; break; }}; "
                "echo $n >/var/tmp/rounds; done; touch /var/tmp/ended) >/dev/null 2>&1 &")


def move(pair, session, client, moves):
    source, target = pair.alpha, pair.beta
    rows = []
    for i in range(moves):
        client.take_longest()
        r = source.json("migrate", "w", target.name, "--max-downtime", "1s")
        report = r[-1] if isinstance(r, list) else r
        ferry.wait_for("the end of the target's job", 30, lambda: not target.guest("w").get("job"))
        before = client.acknowledged
        ferry.wait_for("transactions after the move", 60, lambda: client.error or client.acknowledged > before + 3)
        if client.error:
            raise ferry.Failure(f"move {i + 1}: {client.error}")
        rows.append((client.take_longest() * 1000, report["downtime_ms"], report["total_ms"]))
        source, target = target, source
    return source, rows


def main():
    for tool in ("pgbench", "psql"):
        if not shutil.which(tool):
            sys.exit(f"work.py: {tool} is not here (apt-get install postgresql-15)")
    build = os.path.abspath(ferry.build_argument(sys.argv))
    moves = int(argument("--moves", "10"))
    image = debian_image(build, OPTIONS)
    d = description(image)
    pair = ferry.Pair(build, namespaces=True)
    wire = None
    try:
        wire = Wire(pair)
        os.makedirs(os.path.join(pair.folder, "disks"), exist_ok=True)
        disk = os.path.join(pair.folder, "disks", "w.img")
        subprocess.run(["cp", "--sparse=always", image, disk], check=True)
        pair.alpha.vmctl("start", "w", "-m", "768M", "-p", "2", "--engine", argument("--engine", "soft"), "-d", disk, "-n", "bridge=br0",
                         "-k", d["kernel"], "-r", d["initrd"], "-a", d["cmdline"])
        session = Session(pair.alpha.console("w"))
        set_up(session, wire)
        client = Client(wire)
        bench = subprocess.Popen(wire.command("pgbench", "-h", ADDRESS, "-U", "postgres", "-c", "2", "-R", "40", "-T", "100000", "bench"),
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        host, rows = move(pair, session, client, moves)
        client.stop()
        bench.send_signal(2)
        said = bench.communicate(timeout=60)[0]
        session.console = host.console("w", scrollback=False)
        session.run("touch /var/tmp/stop; while [ ! -e /var/tmp/ended ]; do sleep 1; done", 400)
        assert session.run("cat /var/tmp/bad 2>/dev/null || echo none").endswith("none"), session.run("cat /var/tmp/fio.*")
        rounds = session.run("cat /var/tmp/rounds")
        count = run(*wire.command("psql", "-h", ADDRESS, "-U", "postgres", "-d", "bench", "-qAtc", "select count(*), max(n) from said"))
        rows_there = int(count.stdout.split("|")[0])
        assert rows_there >= client.acknowledged, f"{client.acknowledged} rows were acknowledged, {rows_there} are there"
        assert not re.search("error|aborted|fatal", said, re.I), said
        silences, downtimes, totals = zip(*rows)
        ferry.say(f"{moves} moves; {client.acknowledged} transactions acknowledged, all there; fio's rounds {rounds}, no verify error; "
                  f"longest wait of a client at a move: median {statistics.median(silences):.0f} ms, worst {max(silences):.0f}; "
                  f"downtime median {statistics.median(downtimes):.1f} ms, worst {max(downtimes):.1f}; move median {statistics.median(totals):.0f} ms")
        pair.check_one_runner()
    finally:
        pair.close()
        if wire:
            wire.close()


main()
