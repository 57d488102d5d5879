# SPDX-License-Identifier: Apache-2.0
# Shared by the scripts: where things are, and how what is missing gets here. Sourced by bash with -eu.

FERRY_TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export FERRY_TOP
export FERRY_CACHE=${FERRY_CACHE:-$FERRY_TOP/.cache}

say() {
    echo "ferry: $*" >&2
}

die() {
    say "$*"
    exit 1
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "'$*' needs root, and there is no sudo"
    fi
}

# What building and testing needs, from Debian's own archive.
FERRY_PACKAGES="build-essential cmake ninja-build pkg-config clang clang-format clang-tidy libclang-rt-14-dev
    libzstd-dev liblz4-dev libssl-dev libipsec-mb-dev libevent-dev libprotobuf-c-dev protobuf-c-compiler libsqlite3-dev libyaml-dev libcmocka-dev libseccomp-dev
    acpica-tools libzydis-dev liburing-dev libslirp-dev libnbd-dev qemu-utils nbdkit strace python3 iproute2 procps cpio git openssl kmod
    mmdebstrap debian-archive-keyring mtools fdisk e2fsprogs grub-common grub-pc-bin grub-efi-amd64-bin seabios ovmf"

install_packages() {
    local missing=() p
    for p in $FERRY_PACKAGES; do
        dpkg-query -W -f '${Status}\n' "$p" 2>/dev/null | grep -q '^install ok installed' || missing+=("$p")
    done
    [ ${#missing[@]} = 0 ] && return 0
    say "installing ${missing[*]}"
    as_root apt-get update -qq >&2 || say "apt-get update reported errors; going on with what it has"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
}

# build PRESET [TARGET...]: configure once, build, quiet unless it fails.
build() {
    local preset=$1 log
    shift
    log=$(mktemp)
    if ! { cmake -S "$FERRY_TOP" --preset "$preset" && cmake --build "$FERRY_TOP/build/$preset" "${@/#/--target=}"; } \
        >"$log" 2>&1; then
        tail -60 "$log" >&2
        rm -f "$log"
        die "the $preset build failed"
    fi
    rm -f "$log"
}
