# SPDX-License-Identifier: Apache-2.0
"""A ferry-hv process driven directly, over its control socket: proto/control.proto by hand, as docs/spec/control.md has it."""
import fcntl
import os
import socket
import subprocess
import tempfile

MSG_MAX = 128 << 10

# Request.op, Response.op and the fields that are used
REQUEST = {"describe": 4, "pause": 6, "save_state": 14, "load_state": 15, "run": 18, "quit": 22, "run_to": 24, "count": 25, "digest": 26, "balloon": 27, "stats": 28, "nic": 41, "generation": 43}


class Refused(Exception):
    def __init__(self, code, text):
        super().__init__(text)
        self.code = code


def varint(n):
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)
    return bytes(out)


def field(number, value):
    """A varint (int) or bytes field."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value) if value else b""
    return varint(number << 3 | 2) + varint(len(value)) + value


def parse(data):
    """{number: [values]}: ints, or bytes of what has a length."""
    out, at = {}, 0

    def number():
        nonlocal at
        n = shift = 0
        while True:
            byte = data[at]
            at += 1
            n |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return n

    while at < len(data):
        key = number()
        kind = key & 7
        if kind == 0:
            value = number()
        elif kind == 2:
            size = number()
            value = data[at:at + size]
            at += size
        else:
            size = 8 if kind == 1 else 4
            value = int.from_bytes(data[at:at + size], "little")
            at += size
        out.setdefault(key >> 3, []).append(value)
    return out


def packed(data):
    """The numbers of a packed repeated field."""
    out, n, shift = [], 0, 0
    for byte in data:
        n |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            out.append(n)
            n = shift = 0
    return out


def one(message, number, default=0):
    return message.get(number, [default])[-1]


class Control:
    """A connection to a control socket."""

    def __init__(self, path, timeout=300):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(timeout)
        # sun_path is short: go through the folder.
        fd = os.open(os.path.dirname(path), os.O_PATH)
        try:
            self.sock.connect(f"/proc/self/fd/{fd}/{os.path.basename(path)}")
        finally:
            os.close(fd)
        self.id = 0

    def send(self, op, body=b"", fds=()):
        self.id += 1
        message = field(1, self.id) + varint(REQUEST[op] << 3 | 2) + varint(len(body)) + body
        socket.send_fds(self.sock, [message], list(fds))

    def answer(self):
        """The fields of the answer to what was sent last, and descriptors."""
        data, fds, _, _ = socket.recv_fds(self.sock, MSG_MAX, 4)
        if not data:
            raise Refused(0, "ferry-hv closed its control socket")
        response = parse(one(parse(data), 1, b""))
        error = one(response, 2, None)
        if error is not None:
            e = parse(error)
            raise Refused(one(e, 1), one(e, 2, b"").decode())
        reply = [v for k, v in response.items() if k > 2]
        return parse(reply[0][0]) if reply else {}, fds

    def call(self, op, body=b"", fds=()):
        self.send(op, body, fds)
        return self.answer()

    @staticmethod
    def place(reply):
        return {"count": one(reply, 1), "now_ns": one(reply, 2), "rip": one(reply, 3), "halted": bool(one(reply, 4)), "shadow": one(reply, 5)}

    def count(self):
        return self.place(self.call("count")[0])

    def run_to(self, count):
        return self.place(self.call("run_to", field(1, count))[0])

    def digest(self):
        return one(self.call("digest")[0], 2)

    def pause(self):
        self.call("pause", field(1, 1))

    def save(self):
        """The StateFile's bytes."""
        _, fds = self.call("save_state")
        with os.fdopen(fds[0], "rb") as f:
            return f.read()

    def load(self, state):
        fd = os.memfd_create("state")
        try:
            os.write(fd, state)
            self.call("load_state", field(1, len(state)), [fd])
        finally:
            os.close(fd)

    def run(self, handover, paused):
        self.call("run", field(1, handover) + field(2, int(paused)))

    def machine(self):
        return one(self.call("describe")[0], 1, b"")

    def close(self):
        self.sock.close()


def parts(state):
    """{part id: body} of a StateFile."""
    out = {}
    for part in parse(state)[2]:
        p = parse(part)
        out[one(p, 1, b"").decode()] = one(p, 4, b"")
    return out


def varints(data):
    """A packed repeated field."""
    out, n, shift = [], 0, 0
    for byte in data:
        n |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            out.append(n)
            n = shift = 0
    return out


def registers(state):
    """What tests look at of vCPU 0."""
    v = parse(parts(state)["vcpu0"])
    return {"gpr": varints(one(v, 2, b"")), "rip": one(v, 3), "rflags": one(v, 4), "cr3": one(v, 13), "shadow": one(v, 35), "run_state": one(v, 45)}


def describe(memory, cmdline="", initrd=False, icount=None, seed=0, engine="soft", vcpus=1, model="x86-64-v1"):
    """A fresh Machine."""
    return (field(2, os.urandom(16)) + field(3, b"icount") + field(4, memory) + field(5, vcpus) + field(6, field(1, model.encode())) +
            field(12, engine.encode()) + field(13, cmdline.encode()) + field(14, int(initrd)) + field(15, icount or 0) + field(16, seed))


def memory_of(machine):
    return one(parse(machine), 4)


class Hypervisor:
    """One ferry-hv and the memory it was given."""

    def __init__(self, build, machine, kernel=None, initrd=None, incoming=False, paused=True):
        self.folder = tempfile.mkdtemp(prefix="ferry-hv-")
        self.path = os.path.join(self.folder, "c")
        self.bytes = memory_of(machine)
        self.process = self.control = None
        listen = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listen.bind(self.path)
        listen.listen(8)
        self.memory = os.memfd_create("ram", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.memory, self.bytes)
        ro = os.open(f"/proc/self/fd/{self.memory}", os.O_RDONLY)
        config = os.memfd_create("config")
        os.write(config, machine)
        self.runlog = os.memfd_create("runlog")
        ready, ready_out = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        fcntl.fcntl(self.memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        fds = {"config": config, "control": listen.fileno(), "mem": self.memory, "mem-ro": ro, "runlog": self.runlog, "ready": ready_out.fileno()}
        for name, path in (("kernel", kernel), ("initrd", initrd)):
            if path:
                fds[name] = os.open(path, os.O_RDONLY)
        argv = [os.path.join(build, "bin", "ferry-hv")]
        for name, fd in fds.items():
            argv += [f"--{name}-fd", str(fd)]
        argv += (["--incoming"] if incoming else []) + (["--paused"] if paused else [])
        self.process = subprocess.Popen(argv, pass_fds=list(fds.values()), stdin=subprocess.DEVNULL)
        ready_out.close()
        listen.close()
        for name, fd in fds.items():
            if name not in ("control", "mem", "runlog", "ready"):
                os.close(fd)
        data = ready.recv(MSG_MAX)
        ready.close()
        answer = parse(data)
        if one(answer, 1):
            code, text = one(answer, 1), one(answer, 2, b"").decode()
            self.close()
            raise Refused(code, text)
        self.control = Control(self.path)

    def copy_memory(self, other):
        """Give an incoming guest what the other's memory holds."""
        at = 0
        while at < other.bytes:
            try:
                at = os.lseek(other.memory, at, os.SEEK_DATA)
            except OSError:
                return
            end = os.lseek(other.memory, at, os.SEEK_HOLE)
            while at < end:
                os.lseek(self.memory, at, os.SEEK_SET)
                at += os.sendfile(self.memory, other.memory, at, min(end - at, 1 << 24))

    def read(self, offset, size):
        return os.pread(self.memory, size, offset)

    def close(self):
        if self.control:
            self.control.close()
        if self.process:
            self.process.kill()
            self.process.wait()
        for fd in (self.memory, self.runlog):
            os.close(fd)
        for name in os.listdir(self.folder):
            os.unlink(os.path.join(self.folder, name))
        os.rmdir(self.folder)
