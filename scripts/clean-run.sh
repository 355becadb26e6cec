#!/usr/bin/env bash
# What CI does: .ci/run in a fresh clone of what is committed, in a temporary folder that goes afterwards. How it ended stands
# in clean-run.last in the cache folder, one line: COMMIT passed|failed SECONDS. Its whole output: clean-run.log beside it.
#
# usage: scripts/clean-run.sh
. "$(dirname "$0")/lib.sh"
open_cache
lock clean-run
scratch
git clone --quiet "$ROOT" "$SCRATCH/holdfast"
cd "$SCRATCH/holdfast"
# What the tests take from beside the project.
[ ! -d "$ROOT/../shared" ] || ln -s "$(realpath "$ROOT/../shared")" "$SCRATCH/shared"
commit=$(git rev-parse HEAD)
say "$(git log -1 --format='%h %s')"
result=failed
CI=true bash .ci/run </dev/null 2>&1 | tee "$CACHE/clean-run.log" && result=passed
printf '%s %s %s\n' "$commit" "$result" "$SECONDS" >"$CACHE/clean-run.last"
[ $result = passed ]
