#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# tailcalls.sh LIBRARY: in an optimised build of the software CPU every handler must end in a jump to the next one; a call there
# would let the stack grow with each instruction until the guest ends its process. LIBRARY is libferry_cpu_soft.a of the
# release preset. The only call of a handler is the loop's.
set -euo pipefail
library=$1
[ -r "$library" ] || { echo "tailcalls.sh: no $library"; exit 1; }
dump=$(objdump -dr --no-show-raw-insn "$library")
handlers=$(grep -cE '^[0-9a-f]+ <soft_x_[a-z0-9_]+>:$' <<<"$dump")
[ "$handlers" -gt 300 ] || { echo "tailcalls.sh: only $handlers handlers in $library"; exit 1; }
found=$(awk '
    /file format/ { member = $1; sub(/:$/, "", member) }
    /^[0-9a-f]+ <.*>:$/ { f = $2 }
    member !~ /^(x_|fuse_|exec|block|ea|rmw)/ { next }
    /call +\*(0x[0-9a-f]+)?\(%r([abcd]x|[sd]i|bp|[0-9]+)\)/ { print member, f, "calls a handler:", $0 }
    /R_X86_64_(PLT32|PC32|GOTPCRELX)[ \t]+soft_x_[a-z0-9_]+-/ && last ~ /:[ \t]+call / { print member, f, "calls a handler:", $0 }
    { last = $0 }' <<<"$dump")
if [ -n "$found" ]; then
    echo "$found"
    exit 1
fi
echo "tailcalls.sh: $handlers handlers, none of them calls the next"
