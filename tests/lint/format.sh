#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# clang-format has nothing to change.
set -eu
cd "$(dirname "$0")/../.."
command -v clang-format >/dev/null || { echo "clang-format is not installed"; exit 77; }
git ls-files '*.c' '*.h' | xargs clang-format --dry-run -Werror
