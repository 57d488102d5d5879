# SPDX-License-Identifier: Apache-2.0
"""A TCP proxy on loopback between two hosts that does harm to chosen channels: flips a bit, cuts, delays, limits the rate. It reads the
clear preface (docs/spec/stream.md, section 1) to tell the channels apart."""
import socket
import threading
import time


class Proxy:
    def __init__(self, target):
        host, port = target.rsplit(":", 1)
        self.target = (host, int(port))
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        self.harm = {}  # channel -> function(data, offset) -> data, or None to cut
        self.socks = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        preface = b""
        while len(preface) < 32:
            part = client.recv(32 - len(preface))
            if not part:
                client.close()
                return
            preface += part
        channel = int.from_bytes(preface[10:12], "little")
        try:
            server = socket.create_connection(self.target, 5)
            server.settimeout(None)
            server.sendall(preface)
        except OSError:
            client.close()
            return
        self.socks += [client, server]
        threading.Thread(target=self._pump, args=(server, client, None), daemon=True).start()
        self._pump(client, server, self.harm.get(channel))

    @staticmethod
    def _pump(source, target, harm):
        offset = 0
        try:
            while True:
                data = source.recv(65536)
                if not data:
                    break
                if harm:
                    changed = harm(data, offset)
                    offset += len(data)
                    if changed is None:
                        break
                    data = changed
                target.sendall(data)
        except OSError:
            pass
        for s in (source, target):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self):
        self.listener.close()
        for s in self.socks:
            s.close()


def flip_at(position, bit=0):
    def harm(data, offset):
        if offset <= position < offset + len(data):
            data = bytearray(data)
            data[position - offset] ^= 1 << bit
            return bytes(data)
        return data
    return harm


def cut_at(position):
    def harm(data, offset):
        return None if offset + len(data) > position else data
    return harm


def overwrite_at(position, value):
    def harm(data, offset):
        if offset <= position and position + len(value) <= offset + len(data):
            data = bytearray(data)
            data[position - offset:position - offset + len(value)] = value
            return bytes(data)
        return data
    return harm


def delay(seconds):
    """Every piece late: a slow path for this channel alone."""
    def harm(data, _offset):
        time.sleep(seconds)
        return data
    return harm
