#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Every shell script parses; shellcheck where it is installed.
set -eu
cd "$(dirname "$0")/../.."
status=0
while IFS= read -r f; do
    head -1 "$f" | grep -q bash || continue
    bash -n "$f" || status=1
    if command -v shellcheck >/dev/null; then
        shellcheck -x -S warning "$f" || status=1
    fi
done < <(git ls-files scripts .ci 'tests/*.sh')
exit $status
