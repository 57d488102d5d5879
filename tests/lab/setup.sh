# SPDX-License-Identifier: Apache-2.0
# What both lab tests need: a release build in $build (FERRY_BUILD names another), QEMU and Debian's kernel in the cache.
# Sourced in tests/lab. Exits 77, with the reason, where they cannot be had.
# shellcheck source=../../scripts/lib.sh
. ../../scripts/lib.sh
build=${FERRY_BUILD:-$FERRY_TOP/build/release}
if [ -z "${FERRY_BUILD:-}" ]; then
    build release || exit 1
fi
"$FERRY_TOP/scripts/qemu-peer" >/dev/null || {
    echo "skipped: QEMU cannot be fetched"
    exit 77
}
"$FERRY_TOP/scripts/guest-kernel" >/dev/null || {
    echo "skipped: Debian's kernel cannot be fetched"
    exit 77
}
