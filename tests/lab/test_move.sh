#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The lab with several hosts: tests/lab/move.py.
cd "$(dirname "$0")" || exit 1
# shellcheck source=setup.sh
. ./setup.sh
exec python3 move.py "${build:?}" "$@"
