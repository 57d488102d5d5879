#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# run.sh TARGET SECONDS: fuzz from the corpus in the tree, new inputs kept in a scratch folder.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
target=$1
seconds=$2
name=$(basename "$target")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
corpus=$here/corpus/${name#fuzz_}
[ -d "$corpus" ] || { echo "no corpus folder $corpus"; exit 1; }
"$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -artifact_prefix="$scratch/" -print_final_stats=1 \
    "$scratch" "$corpus" 2>&1 | tail -40
exit "${PIPESTATUS[0]}"
