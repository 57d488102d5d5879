#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# tidy.sh BASE: clang-tidy has nothing to say about the C files that changed since commit BASE.
# tidy.sh --all: about any of ours. Compile commands come from $FERRY_TIDY_BUILD, build/dev by default.
set -eu
cd "$(dirname "$0")/../.."
build=${FERRY_TIDY_BUILD:-build/dev}
base=${1:-}
[ -n "$base" ] || { echo "usage: tidy.sh BASE|--all"; exit 2; }
command -v clang-tidy >/dev/null || { echo "clang-tidy is not installed"; exit 77; }
[ -f "$build/compile_commands.json" ] || { echo "no $build/compile_commands.json: cmake --preset dev"; exit 77; }
ours=('hv/*.c' 'migrate/*.c' 'cli/*.c')
if [ "$base" = --all ]; then
    files=$(git ls-files -- "${ours[@]}")
else
    git rev-parse --quiet --verify "$base^{commit}" >/dev/null || { echo "no commit $base"; exit 2; }
    files=$(git diff --name-only --diff-filter=d "$base" -- "${ours[@]}")
fi
# A file that is not compiled here (a part that is off) has no compile command, and clang-tidy would guess one.
compiled=()
for f in $files; do
    grep -q "\"file\": \"$PWD/$f\"" "$build/compile_commands.json" || continue
    compiled+=("$f")
done
status=0
# One file a process, as many at once as there are cores; each one's findings stay together.
printf '%s\n' "${compiled[@]+"${compiled[@]}"}" | xargs -r -P "$(nproc)" -I {} \
    sh -c 'out=$(clang-tidy --quiet -p "$1" "$2" 2>/dev/null) || status=1; [ -z "$out" ] || printf "%s\n" "$out"; exit ${status:-0}' \
    sh "$build" {} || status=1
echo "tidy.sh: ${#compiled[@]} files"
exit $status
