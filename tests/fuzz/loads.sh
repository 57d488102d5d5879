#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# loads.sh -l: the targets that load the state of a device or of the machine, on one line.
set -eu
LOADS="blk console flash fwcfg identity irqchips kvmstate net pm rtc serial statefile vcpu virtio"
case ${1-} in
-l) echo "$LOADS" ;;
*) sed -n 3p "$0"; exit 2 ;;
esac
