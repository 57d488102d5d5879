#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The lab with an engine a host: tests/lab/firmware.py.
cd "$(dirname "$0")" || exit 1
# shellcheck source=setup.sh
. ./setup.sh
exec python3 firmware.py "${build:?}" "$@"
