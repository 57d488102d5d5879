#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""An independent reader of Ferry's stream, written from docs/spec/stream.md alone.

Usage: parse_stream.py FILE...          print the records of a captured direction of a channel
       parse_stream.py --self-check DIR read the golden files in DIR and check what they must hold
"""
import os
import struct
import sys

BODY_MAX = 2 * 1024 * 1024
OPTIONAL = 1
SEALED = 2
NAMES = {1: "HELLO", 2: "HELLO_REPLY", 3: "DESCRIPTION", 4: "VERDICT", 5: "STATE", 6: "STATE_END", 7: "READY",
         8: "COMMIT", 9: "RUNNING", 10: "ERROR", 11: "RATE", 12: "TICKET", 13: "FRAMES", 32: "PAGES", 33: "ZERO", 34: "BARRIER",
         112: "QUERY", 113: "ANSWER", 114: "PAIR", 115: "PAIR_REPLY", 116: "CONSOLE_OPEN", 117: "CONSOLE_OPENED", 118: "CONSOLE_BYTES"}


class Broken(Exception):
    pass


def make_table():
    table = []
    for n in range(256):
        c = n
        for _ in range(8):
            c = (c >> 1) ^ 0x82F63B78 if c & 1 else c >> 1
        table.append(c)
    return table


TABLE = make_table()


def crc32c(data, crc=0):
    crc ^= 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def fnv1a64(data, digest=0xCBF29CE484222325):
    for byte in data:
        digest = (digest ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return digest


def records(data):
    """Yield (type name, header dict, body) of every record; raise Broken where the bytes break the format."""
    at = 0
    count = 0
    digest = 0xCBF29CE484222325
    while at < len(data):
        if len(data) - at < 32:
            raise Broken(f"record {count}: {len(data) - at} bytes where a header has 32")
        header = data[at:at + 32]
        kind, flags, length, crc, generation, sequence, reserved = struct.unpack("<HHIIIQQ", header)
        if length > BODY_MAX:
            raise Broken(f"record {count}: length {length}")
        if flags & ~(OPTIONAL | SEALED) or reserved or (flags & SEALED and kind != 32):
            raise Broken(f"record {count}: reserved bits")
        if sequence != count:
            raise Broken(f"record {count}: sequence {sequence}")
        body = data[at + 32:at + 32 + length]
        if len(body) != length:
            raise Broken(f"record {count}: body cut")
        covered = body
        if flags & SEALED:
            codec, runs = struct.unpack_from("<HH", body)
            if codec:
                raise Broken(f"record {count}: sealed but packed")
            covered = body[:8 + 16 * runs]
        if crc32c(header[:8] + bytes(4) + header[12:] + covered) != crc:
            raise Broken(f"record {count}: checksum")
        if kind not in NAMES and not flags & OPTIONAL:
            raise Broken(f"record {count}: unknown type {kind}")
        digest = fnv1a64(header, digest)
        yield NAMES.get(kind, f"unknown {kind}"), {"sequence": sequence, "generation": generation, "digest": digest}, body
        at += 32 + length
        count += 1


def pages(body):
    """(codec, [(first, count)], packed bytes) of a PAGES body."""
    codec, runs, raw = struct.unpack_from("<HHI", body)
    out = []
    for i in range(runs):
        first, count, reserved = struct.unpack_from("<QII", body, 8 + 16 * i)
        if reserved or not count:
            raise Broken("run")
        out.append((first, count))
    if sum(c for _, c in out) * 4096 != raw:
        raise Broken("raw length")
    packed = body[8 + 16 * runs:]
    if codec == 0 and len(packed) != raw:
        raise Broken("raw batch length")
    return codec, out, packed


def zeros(body):
    if not body or len(body) % 16:
        raise Broken("ZERO length")
    return [struct.unpack_from("<QQ", body, i) for i in range(0, len(body), 16)]


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value, at


def proto(data):
    """Field number -> list of values of a protobuf message: enough to look into structured records."""
    fields = {}
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        if key & 7 == 0:
            value, at = varint(data, at)
        elif key & 7 == 1:
            value, at = struct.unpack_from("<Q", data, at)[0], at + 8
        elif key & 7 == 2:
            length, at = varint(data, at)
            value, at = data[at:at + length], at + length
        elif key & 7 == 5:
            value, at = struct.unpack_from("<I", data, at)[0], at + 4
        else:
            raise Broken(f"protobuf wire type {key & 7}")
        fields.setdefault(key >> 3, []).append(value)
    return fields


def describe(name, body):
    if name == "PAGES":
        codec, runs, packed = pages(body)
        return f"codec {codec} runs {runs} packed {len(packed)}"
    if name == "ZERO":
        return f"runs {zeros(body)}"
    if name == "BARRIER":
        return f"round {struct.unpack('<Q', body)[0]}"
    if name in ("STATE", "TICKET", "CONSOLE_BYTES"):
        return f"{len(body)} bytes"
    return str(proto(body)) if name in NAMES.values() else f"{len(body)} bytes"


def read(path):
    with open(path, "rb") as f:
        return f.read()


def must_break(data, what):
    try:
        list(records(data))
    except Broken:
        return
    raise SystemExit(f"parse_stream.py: {what} was not noticed")


def self_check(folder):
    data = read(os.path.join(folder, "data.ferry"))
    got = list(records(data))
    assert [g[0] for g in got] == ["PAGES", "ZERO", "BARRIER", "unknown 32767", "BARRIER"], got
    codec, runs, packed = pages(got[0][2])
    assert (codec, runs) == (0, [(5, 2), (100, 1)])
    assert packed == bytes((i * 7 + i // 4096) & 0xFF for i in range(3 * 4096))
    assert zeros(got[1][2]) == [(0, 5), (7, 93)]
    assert struct.unpack("<Q", got[4][2])[0] == 2
    sealed = read(os.path.join(folder, "sealed.ferry"))
    got = list(records(sealed))
    assert [g[0] for g in got] == ["PAGES", "BARRIER"], got
    assert pages(got[0][2]) == (0, [(3, 1)], bytes([0x5A]) * 4096)
    must_break(sealed[:40] + bytes([sealed[40] ^ 1]) + sealed[41:], "a flip in a sealed record's runs")
    control = read(os.path.join(folder, "control.ferry"))
    got = list(records(control))
    assert [g[0] for g in got] == ["HELLO", "STATE", "STATE_END", "COMMIT"], got
    assert proto(got[0][2])[10] == [b"alpha"]
    assert proto(proto(got[2][2])[1][0])[3] == [0x1122334455667788]
    assert proto(got[3][2])[1] == [bytes(i * 17 for i in range(16))]
    for n in range(1, len(control)):
        if n in [sum(32 + len(g[2]) for g in got[:k]) for k in range(5)]:
            continue
        must_break(control[:n], f"truncation to {n}")
    for bit in range(len(control) * 8):
        flipped = bytearray(control)
        flipped[bit // 8] ^= 1 << bit % 8
        must_break(bytes(flipped), f"flip of bit {bit}")
    print(f"parse_stream.py: golden streams read, {len(control) * 8} bit flips noticed")


def main():
    if len(sys.argv) == 3 and sys.argv[1] == "--self-check":
        self_check(sys.argv[2])
        return
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    for path in sys.argv[1:]:
        try:
            for name, head, body in records(read(path)):
                print(f"{path}: {head['sequence']} {name} {describe(name, body)}")
        except Broken as why:
            raise SystemExit(f"{path}: {why}")


main()
