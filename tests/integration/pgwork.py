# SPDX-License-Identifier: Apache-2.0
"""A Debian guest's work while it moves: PostgreSQL with pgbench and with a client that counts what was acknowledged, both from outside over a
wire (something with a `command` as wire.Wire has), and fio with verification on its disk. Needs pgbench and psql here (postgresql-15)."""
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time

import ferry
from wire import run

ADDRESS = "10.88.0.2"
OPTIONS = ("--suite", "bookworm", "--size", "4G", "--hostname", "ferry-guest", "--packages", "postgresql,fio", "--extract-kernel")


def need_tools(program):
    for tool in ("pgbench", "psql"):
        if not shutil.which(tool):
            sys.exit(f"{program}: {tool} is not here (apt-get install postgresql-15)")


class Client:
    """One connection for all its life: inserts numbers one after the other and keeps which were acknowledged, and the longest wait."""

    def __init__(self, wire):
        self.p = subprocess.Popen(wire.command("psql", "-h", ADDRESS, "-U", "postgres", "-d", "bench", "-qAt", "-v", "ON_ERROR_STOP=1"),
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1)
        self.acknowledged = 0
        self.longest = 0.0
        self.longest_began = 0.0
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
            took = time.monotonic() - began
            if took > self.longest:
                self.longest, self.longest_began = took, began

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

    def kill(self):
        """After a failure, which may have left it waiting for ever."""
        self.stopped = True
        self.p.kill()
        self.thread.join(60)


class Work:
    """What the guest does. `rate` is pgbench's transactions a second of all its clients, `fio_size` and `fio_rate` are fio's options, `slow`
    stretches the time that each step may take."""

    def __init__(self, session, wire, clients=2, rate=40, fio_size="32M", fio_rate="8m", slow=1):
        self.session, self.wire, self.slow = session, wire, slow
        self.client = self.bench = None
        self.rows = []  # of each move: the client's longest wait, downtime and duration, in ms
        self._network()
        self._database()
        self._fio(fio_size, fio_rate)
        self.client = Client(wire)
        self.bench = subprocess.Popen(wire.command("pgbench", "-h", ADDRESS, "-U", "postgres", "-c", str(clients), "-R", str(rate), "-T",
                                                   "100000", "bench"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def psql(self, command, database="postgres", check=True):
        return run(*self.wire.command("psql", "-h", ADDRESS, "-U", "postgres", "-d", database, "-qAtc", command), check=check,
                   timeout=120 * self.slow)

    def _network(self):
        self.session.run("systemctl stop systemd-networkd systemd-networkd.socket; d=$(ls /sys/class/net | grep -v lo | head -1); "
                         f"ip link set $d up; ip addr add {ADDRESS}/24 dev $d", 60 * self.slow)

    def _database(self):
        self.session.run("c=/etc/postgresql/15/main; echo \"listen_addresses = '*'\" >>$c/postgresql.conf; "
                         "echo 'host all all 10.88.0.0/24 trust' >>$c/pg_hba.conf; systemctl restart postgresql", 200 * self.slow)
        ferry.wait_for("PostgreSQL answers", 120 * self.slow, lambda: self.psql("select 1", check=False).returncode == 0)
        self.psql("create database bench")
        self.psql("create table said (n int primary key)", "bench")
        run(*self.wire.command("pgbench", "-h", ADDRESS, "-U", "postgres", "-i", "-q", "-s", "1", "bench"), timeout=120 * self.slow)

    def _fio(self, size, rate):
        fio = (f"fio --name=v --filename=/var/tmp/fio --size={size} --bs=16k --rw=randwrite --ioengine=libaio --iodepth=8 --direct=1 "
               f"--verify=crc32c --verify_fatal=1 --do_verify=1 --rate={rate} --output=/var/tmp/fio.$n")
        self.session.run(f"rm -f /var/tmp/stop; (n=0; while [ ! -e /var/tmp/stop ]; do n=$((n+1)); {fio} || {{ echo $n >/var/tmp/bad; break; }}; "
                         "echo $n >/var/tmp/rounds; done; touch /var/tmp/ended) >/dev/null 2>&1 &")

    def moved(self, migrate):
        """A move by `migrate`, which gives vmctl's report, and transactions after it; the row."""
        self.client.take_longest()
        report = migrate()
        before = self.client.acknowledged
        ferry.wait_for("transactions after the move", 60 * self.slow, lambda: self.client.error or self.client.acknowledged > before + 3)
        if self.client.error:
            raise ferry.Failure(f"move {len(self.rows) + 1}: {self.client.error}")
        if self.bench.poll() is not None:
            raise ferry.Failure(f"move {len(self.rows) + 1}: pgbench ended: {self.bench.communicate()[0]}")
        self.rows.append((self.client.take_longest() * 1000, report["downtime_ms"], report["total_ms"]))
        return self.rows[-1]

    def finish(self, console):
        """Stop everything, the guest's console being `console` now, and compare; the verdict in words."""
        self.client.stop()
        self.bench.send_signal(signal.SIGINT)
        said = self.bench.communicate(timeout=60 * self.slow)[0]
        self.session.console = console
        self.session.run("true", 200 * self.slow)
        self.session.run("touch /var/tmp/stop; while [ ! -e /var/tmp/ended ]; do sleep 1; done", 400 * self.slow)
        if not self.session.run("cat /var/tmp/bad 2>/dev/null || echo none").endswith("none"):
            raise ferry.Failure(self.session.run("cat /var/tmp/fio.*"))
        rounds = int(self.session.run("cat /var/tmp/rounds").split()[-1])
        there = int(self.psql("select count(*) from said", "bench").stdout)
        if there < self.client.acknowledged:
            raise ferry.Failure(f"{self.client.acknowledged} rows were acknowledged, {there} are there")
        if re.search("error|aborted|fatal", said, re.I):
            raise ferry.Failure(f"pgbench: {said}")
        silences, downtimes, totals = zip(*self.rows)
        return (f"{len(self.rows)} moves; {self.client.acknowledged} transactions acknowledged, all there; fio's rounds {rounds}, no verify error; "
                f"longest wait of a client at a move: median {statistics.median(silences):.0f} ms, worst {max(silences):.0f}; "
                f"downtime median {statistics.median(downtimes):.1f} ms, worst {max(downtimes):.1f}; move median "
                f"{statistics.median(totals):.0f} ms, worst {max(totals):.0f}")

    def close(self):
        """Whatever has not ended."""
        if self.client and self.client.p.poll() is None:
            self.client.kill()
        if self.bench and self.bench.poll() is None:
            self.bench.kill()
            self.bench.wait(30)
