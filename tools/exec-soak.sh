#!/usr/bin/env bash
# Runs `lockmesh exec` many times beside three voters, and prints what that leaves behind.
#
#   tools/exec-soak.sh [MINUTES] [RUNS A MINUTE] [KILLED, one in N; 0 for none]
#
# Environment: LOCKMESH, the command; PORT, the first of three UDP ports. Prints a table with one row
# a minute: runs so far, those that failed, resident memory of each voter in KiB, and what
# `lockmesh status --json` says of other nodes, keys and waiters.
set -euo pipefail

minutes=${1:-10} rate=${2:-200} killed=${3:-0}
lockmesh=${LOCKMESH:-lockmesh} port=${PORT:-17401}
dir=$(mktemp -d)
voters=()
trap 'kill "${voters[@]}" 2>/dev/null || true; wait; rm -rf "$dir"' EXIT

"$lockmesh" keygen > "$dir/secret"
for n in 1 2 3; do
    cat > "$dir/n$n.toml" << EOF
node_id = "n$n"
listen = "127.0.0.1:$((port + n - 1))"
seeds = ["127.0.0.1:$port", "127.0.0.1:$((port + 1))", "127.0.0.1:$((port + 2))"]
voters = ["n1", "n2", "n3"]
secret_file = "secret"
data_dir = "$dir/n$n"
bootstrap = true
EOF
    "$lockmesh" node --config "$dir/n$n.toml" 2>> "$dir/n$n.log" &
    voters+=($!)
done
until "$lockmesh" status --config "$dir/n1.toml" > /dev/null; do sleep 0.2; done

# One row of the table.
row() {
    local rss=() pid
    for pid in "${voters[@]}"; do rss+=("$(awk '/^VmRSS/ { print $2 }' "/proc/$pid/status")"); done
    printf '%6s %6s %6s | %7s %7s %7s | ' "$1" "$2" "$(wc -l < "$dir/failed")" "${rss[@]}"
    "$lockmesh" status --config "$dir/n1.toml" --json --locks | python3 -c '
import json, sys
seen = json.load(sys.stdin)
voters = [node for node in seen["nodes"] if node["node"] in ("n1", "n2", "n3")]
others = len(seen["nodes"]) - len(voters)
print(seen["health"], "others", others, "locks", len(seen["locks"]))'
}

touch "$dir/failed" "$dir/ran"
echo "minute   runs failed |  n1 KiB  n2 KiB  n3 KiB | mesh"
row 0 0
start=$(date +%s%N) runs=0
for ((minute = 1; minute <= minutes; minute++)); do
    for ((i = 0; i < rate; i++)); do
        # By the clock, so that slow runs overlap rather than delay the next.
        at=$((start + ((minute - 1) * rate + i) * 60000000000 / rate)) now=$(date +%s%N)
        if ((at > now)); then sleep "$(printf '0.%09d' $((at - now < 999999999 ? at - now : 999999999)))"; fi
        runs=$((runs + 1))
        if ((killed > 0 && runs % killed == 0)); then
            # One that dies without a word, while it holds a lock of its own.
            ("$lockmesh" exec "killed/$runs" --config "$dir/n$((runs % 3 + 1)).toml" -- \
                sh -c 'kill -KILL $PPID' || true) 2> /dev/null &
        else
            ("$lockmesh" exec "job/$((runs % 5))" --wait 30s --config "$dir/n$((runs % 3 + 1)).toml" -- \
                sh -c 'echo "$LOCKMESH_KEY $LOCKMESH_EPOCH"' >> "$dir/ran" || echo "$runs $?" >> "$dir/failed") &
        fi
    done
    row "$minute" "$runs"
done
sleep 30
row "+30 s" "$runs"
echo "commands that ran: $(wc -l < "$dir/ran"), with distinct epochs: $(sort -u "$dir/ran" | wc -l)"
grep -E 'WARN|ERROR' "$dir"/n?.log || echo "no WARN or ERROR in the logs"
