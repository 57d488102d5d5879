# SPDX-License-Identifier: Apache-2.0
"""A disk that boots GRUB by BIOS and by UEFI: an MBR with GRUB's boot sector, its core image behind it, and an EFI system partition (FAT16,
made here). GRUB is Debian's; its configuration is inside its images."""
import os
import struct
import subprocess

SECTOR = 512
ESP_START = 4096
ESP_SECTORS = 32768
MODULES = ["serial", "terminal", "echo", "read", "reboot", "test"]


def mkimage(target, prefix, config, out, modules):
    subprocess.run(["grub-mkimage", "-O", target, "-p", prefix, "-c", config, "-o", out, *MODULES, *modules], check=True, capture_output=True)
    with open(out, "rb") as f:
        return f.read()


def fat16(files):
    """A FAT16 volume of ESP_SECTORS with {"EFI/BOOT/NAME.EXT": bytes}; folders of one cluster, short names."""
    cluster, fats, root_entries, fat_sectors = 4, 2, 512, 32
    boot = bytearray(SECTOR)
    boot[0:11] = b"\xeb\x3c\x90FERRY   "
    struct.pack_into("<HBHBHHBHHHII", boot, 11, SECTOR, cluster, 1, fats, root_entries, ESP_SECTORS, 0xF8, fat_sectors, 63, 255, ESP_START, 0)
    boot[36:62] = b"\x80\x00\x29" + b"FERY" + b"NO NAME    " + b"FAT16   "
    boot[510:512] = b"\x55\xaa"
    fat, data, tree = [0xFFF8, 0xFFFF], [], {}

    def store(content):
        first, n = len(fat), max(1, -(-len(content) // (cluster * SECTOR)))
        fat.extend([first + i + 1 for i in range(n - 1)] + [0xFFFF])
        data.append(content.ljust(n * cluster * SECTOR, b"\0"))
        return first

    def entry(name, folder, first, size):
        stem, _, extension = name.partition(".")
        short = b".".ljust(11) if name == "." else b"..".ljust(11) if name == ".." else f"{stem:8}{extension:3}".encode()
        return short + bytes([0x10 if folder else 0x20]) + bytes(14) + struct.pack("<HI", first, size)

    for path, content in files.items():
        node = tree
        *folders, name = path.split("/")
        for f in folders:
            node = node.setdefault(f, {})
        node[name] = content

    def listing(node, own, parent):
        out = entry(".", True, own, 0) + entry("..", True, parent, 0) if own else b""
        for name, value in node.items():
            if isinstance(value, dict):
                first = store(b"")
                at = len(data) - 1
                data[at] = listing(value, first, own).ljust(cluster * SECTOR, b"\0")
                out += entry(name, True, first, 0)
            else:
                out += entry(name, False, store(value), len(value))
        return out

    root = listing(tree, 0, 0).ljust(root_entries * 32, b"\0")
    table = struct.pack(f"<{len(fat)}H", *fat).ljust(fat_sectors * SECTOR, b"\0")
    return (bytes(boot) + table * fats + root + b"".join(data)).ljust(ESP_SECTORS * SECTOR, b"\0")


def make(path, folder):
    """GRUB that says who it is, asks a question at the serial port, answers and starts the machine anew."""
    def config(name, terminal):
        out = os.path.join(folder, name + ".cfg")
        with open(out, "w", encoding="ascii") as f:
            f.write(f"{terminal}echo FERRY-GRUB {name}\necho name?\nread who\necho hello $who.\nreboot\n")
        return out

    # UEFI's console is the serial port already, and its driver would take what is typed away from GRUB's own.
    core = mkimage("i386-pc", "(hd0)/boot", config("bios", "serial --unit=0 --speed=115200\nterminal_input serial\nterminal_output serial\n"), os.path.join(folder, "core.img"), ["biosdisk"])
    efi = mkimage("x86_64-efi", "/EFI/BOOT", config("uefi", ""), os.path.join(folder, "bootx64.efi"), [])
    with open("/usr/lib/grub/i386-pc/boot.img", "rb") as f:
        mbr = bytearray(f.read(SECTOR))
    mbr[0x1B8:0x1FE] = bytes(70)  # floppy code, where disks have their partitions
    struct.pack_into("<Q", mbr, 0x5C, 1)  # where the core image begins
    core = bytearray(core)
    # its first sector's list: the rest follows at sector 2, to go to 0x8200
    struct.pack_into("<QHH", core, SECTOR - 12, 2, -(-len(core) // SECTOR) - 1, 0x820)
    assert SECTOR + len(core) <= ESP_START * SECTOR
    struct.pack_into("<B3sB3sII", mbr, 446, 0, b"\xfe\xff\xff", 0xEF, b"\xfe\xff\xff", ESP_START, ESP_SECTORS)
    mbr[510:512] = b"\x55\xaa"
    with open(path, "wb") as f:
        f.write(mbr + core)
        f.seek(ESP_START * SECTOR)
        f.write(fat16({"EFI/BOOT/BOOTX64.EFI": efi}))
