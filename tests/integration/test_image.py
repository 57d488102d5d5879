#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""vmctl image: a Debian disk that boots by SeaBIOS, by OVMF and by its kernel, with a log-in and an address; a seed that
cloud-init takes; and what is refused. The guests run under QEMU without KVM, so that nothing of Ferry is needed but vmctl."""
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import zlib

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from ferry import Failure, build_argument, say, wait_for  # noqa: E402
from images import PASSWORD, Boot, debian_image, description  # noqa: E402

BUILD = os.path.abspath(build_argument(sys.argv))
VMCTL = os.path.join(BUILD, "bin", "vmctl")


def vmctl(*args, env=None, stdin=""):
    return subprocess.run([VMCTL, "image", *args], input=stdin, capture_output=True, text=True, timeout=300, env=env, check=False)


def refused(code, words, *args, **kw):
    r = vmctl(*args, **kw)
    if r.returncode != code or not re.search(words, r.stderr):
        raise Failure(f"vmctl image {args}: {r.returncode} instead of {code}, {r.stderr!r} without {words!r}")


def equal(what, got, expected):
    if got != expected:
        raise Failure(f"{what}: {got!r} instead of {expected!r}")


def check_refusals(folder):
    new = os.path.join(folder, "new.img")
    refused(2, "nobody could log in", "create", new)
    refused(2, "holds no password", "create", new, "--password-stdin")
    refused(2, "bookworm or trixie", "create", new, "--suite", "sarge", "--password", "x")
    refused(2, "--size 3Q", "create", new, "--size", "3Q", "--password", "x")
    refused(2, "--size 64M", "create", new, "--size", "64M", "--password", "x")
    refused(2, "--packages", "create", new, "--packages", "a;rm", "--password", "x")
    refused(2, "--hostname", "create", new, "--hostname", "-a", "--password", "x")
    refused(2, "cannot open", "create", new, "--ssh-key", os.path.join(folder, "none"))
    text = os.path.join(folder, "text")
    with open(text, "w", encoding="ascii") as f:
        f.write("hello\n")
    refused(2, "no public key", "create", new, "--ssh-key", text)
    refused(2, "neither a script", "create", new, "--seed", text, "--password", "x")
    refused(3, "no folder", "create", os.path.join(folder, "none", "a.img"), "--password", "x")
    refused(14, "is there already", "create", text, "--password", "x")
    refused(2, "no user-data is given", "seed", new)
    refused(2, "first line", "seed", new, "--user-data", text)
    refused(14, "is there already", "seed", text, "--user-data", text)
    equal("folder after refusals", sorted(os.listdir(folder)), ["text"])


def check_tools(folder):
    """A tool that lacks is told with Debian's name of its package. PATH holds everything but mmdebstrap and mformat."""
    tools = os.path.join(folder, "tools")
    os.mkdir(tools)
    for name in ("sh", "rm", "tar", "apt-get", "mke2fs", "sfdisk", "grub-mkimage", "unshare", "newuidmap"):
        if shutil.which(name, path="/usr/bin:/bin:/usr/sbin:/sbin"):
            os.symlink(shutil.which(name, path="/usr/bin:/bin:/usr/sbin:/sbin"), os.path.join(tools, name))
    refused(13, r"mmdebstrap, mformat.* not installed \(apt-get install mmdebstrap mtools\)", "create",
            os.path.join(folder, "a.img"), "--password", "x", env={"PATH": tools})
    equal("folder after a missing tool", sorted(os.listdir(folder)), ["text", "tools"])


def check_interrupt(folder):
    """A signal while packages are installed: code 9, no file, no process left."""
    new = os.path.join(folder, "cancelled.img")
    p = subprocess.Popen([VMCTL, "image", "create", new, "--password", "x"], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
                         text=True, start_new_session=True)

    def tree():
        if p.poll() is not None:
            raise Failure(f"vmctl image create ended early: {p.stderr.read()}")
        found = subprocess.run(["pgrep", "-s", str(p.pid), "-f", "mmdebstrap"], capture_output=True, text=True, check=False)
        return len(found.stdout.split()) >= 2
    wait_for("mmdebstrap at work", 60, tree)
    os.kill(p.pid, signal.SIGINT)
    equal("exit code", p.wait(60), 9)
    equal("folder after ^C", sorted(os.listdir(folder)), ["text", "tools"])
    left = subprocess.run(["pgrep", "-s", str(p.pid)], capture_output=True, text=True, check=False).stdout.split()
    equal("processes after ^C", left, [])


def check_full(folder):
    """A disk that fills up is named, and is empty again afterwards."""
    mounted = os.path.join(folder, "small")
    os.mkdir(mounted)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "none", mounted], check=False).returncode:
        say("no tmpfs can be mounted here: the full disk is not tested")
        os.rmdir(mounted)
        return
    try:
        refused(11, "the disk of .*small is full", "create", os.path.join(mounted, "a.img"), "--password", "x")
        equal("the disk after it was full", os.listdir(mounted), [])
    finally:
        subprocess.run(["umount", mounted], check=True)
        os.rmdir(mounted)


def check_layout(image):
    """A protective MBR, a GPT with both copies whole, and three partitions of the right types."""
    with open(image, "rb") as f:
        mbr = f.read(512)
        header = f.read(512)
        f.seek(-512, os.SEEK_END)
        backup = f.read(512)
        f.seek(1024)
        entries = f.read(128 * 128)
    equal("the MBR's signature", mbr[510:], b"\x55\xaa")
    equal("the MBR's type", mbr[0x1be + 4], 0xee)
    for name, h in (("header", header), ("backup", backup)):
        equal(f"GPT {name}", h[:8], b"EFI PART")
        size, crc = struct.unpack_from("<II", h, 12)
        equal(f"GPT {name}'s checksum", zlib.crc32(h[:16] + b"\0\0\0\0" + h[20:size]), crc)
        equal(f"GPT {name}'s checksum of entries", zlib.crc32(entries), struct.unpack_from("<I", h, 88)[0])
    names = [entries[i * 128 + 56:i * 128 + 128].decode("utf-16-le").rstrip("\0") for i in range(4)]
    equal("partitions", names, ["bios", "esp", "root", ""])
    used = os.stat(image).st_blocks * 512
    if used >= os.path.getsize(image) * 3 // 4:
        raise Failure(f"the image is not sparse: {used} of {os.path.getsize(image)} bytes")


def check_guest(boot, efi):
    equal("booted by EFI", boot.run("test -d /sys/firmware/efi")[1], 0 if efi else 1)
    equal("host name", boot.ask("hostname"), "ferry-guest")
    address = boot.address()
    if not re.search(r"inet 10\.0\.2\.15/24 .*dynamic", address):
        raise Failure(f"no address by DHCP: {address!r}")
    equal("root file system", boot.ask("findmnt -n -o FSTYPE /; findmnt -n -o OPTIONS / | cut -d, -f1"), "ext4\nrw")
    equal("failed units", boot.ask("systemctl --failed --no-legend --plain"), "")
    boot.ask("getent hosts ferry-guest && test -L /etc/resolv.conf && ! test -e /ferry-setup")
    machine = boot.ask("cat /etc/machine-id")
    if not re.fullmatch("[0-9a-f]{32}", machine):
        raise Failure(f"machine-id {machine!r}")
    return machine


def check_boots(image, folder):
    with Boot(image) as b:
        b.expect(rb"Booting .Debian.", 120)
        b.login()
        first = check_guest(b, False)
    say("booted by SeaBIOS")
    with Boot(image, firmware="ovmf") as b:
        b.expect(rb"Booting .Debian.", 240)
        b.login()
        second = check_guest(b, True)
    say("booted by OVMF")
    if first == second:
        raise Failure(f"two clones have one machine-id, {first}")
    check_seed(image, folder)
    say("booted by its kernel, with a seed")


def check_seed(image, folder):
    """The kernel beside the image and its command line, with a seed disk that cloud-init obeys."""
    user = os.path.join(folder, "user-data")
    seed = os.path.join(folder, "seed.img")
    with open(user, "w", encoding="ascii") as f:
        f.write("#cloud-config\nhostname: seeded\nwrite_files:\n  - {path: /root/seed, content: it came}\n")
    r = vmctl("seed", seed, "--user-data", user)
    equal("vmctl image seed", (r.returncode, r.stderr), (0, ""))
    with open(image + ".cmdline", encoding="ascii") as f:
        cmdline = f.read()
    equal("command line", cmdline, description(image)["cmdline"])
    with Boot(image, "-kernel", image + ".vmlinuz", "-initrd", image + ".initrd", "-append", cmdline,
              "-drive", f"file={seed},format=raw,if=virtio") as b:
        b.expect(rb"seeded login: ", 500)
        b.login()
        b.ask("cloud-init status --wait >/dev/null", 300)
        equal("what the seed wrote", b.ask("cat /root/seed"), "it came")
        equal("kernel", b.ask("uname -r"), description(image)["kernel_release"])


def main():
    folder = tempfile.mkdtemp(prefix="ferry-image-")
    try:
        check_refusals(folder)
        check_tools(folder)
        check_interrupt(folder)
        check_full(folder)
        image = debian_image(BUILD)
        with open(image, "rb") as f:
            equal("the password in clear", f.read(1 << 30).count(f"root:{PASSWORD}".encode()), 0)
        check_layout(image)
        check_boots(image, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print("vmctl image: refusals, ^C and a full disk leave nothing; SeaBIOS, OVMF and the kernel boot it; cloud-init takes a seed")


main()
