#!/usr/bin/env bash
# Makes the table of docs/soak.md out of the log of the kill matrix.
#
# usage: scripts/kill-matrix.sh LOG DATE COMMIT SEED
set -euo pipefail
cat <<EOF
## The kill matrix

Suite \`crash\` with \`HOLDFAST_KILLS=all\`, $2, at $3, seed $4: $(grep -c '^\.\?killed: ' "$1") kills (SIGKILL) of the agent and
of the control plane, each before a step began, at a random moment in it, or after it was carried out and before that was recorded.
Each job was completed afterwards, and host, bucket and catalog held nothing that does not belong there: nothing stuck, nothing
twice, no orphans. A number is the milliseconds from setting the scene to the last look; it includes the job itself.

| job | step | agent: before | in | after | control plane: before | in | after |
|---|---|---:|---:|---:|---:|---:|---:|
EOF
awk '{ sub(/^\./, "") } /^killed: / {
    key = $2 " | " $3; if (!(key in seen)) { seen[key] = 1; order[++n] = key }
    gsub(":", "", $5); took[key, $5, $4] = $8
} END { for (i = 1; i <= n; i++) { k = order[i]
    printf "| %s | %s | %s | %s | %s | %s | %s |\n", k, took[k, "agent", "before"], took[k, "agent", "in"], took[k, "agent", "after"],
        took[k, "serve", "before"], took[k, "serve", "in"], took[k, "serve", "after"] } }' "$1" | sort
