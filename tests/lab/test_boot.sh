#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The lab with one host: tests/lab/boot.py.
cd "$(dirname "$0")" || exit 1
# shellcheck source=setup.sh
. ./setup.sh
exec python3 boot.py "${build:?}" "$@"
