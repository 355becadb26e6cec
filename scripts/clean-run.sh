#!/usr/bin/env bash
# What CI does: .ci/run in a fresh clone of what is committed, in a temporary folder that goes afterwards.
#
# usage: scripts/clean-run.sh
. "$(dirname "$0")/lib.sh"
open_cache
lock clean-run
scratch
git clone --quiet "$ROOT" "$SCRATCH/holdfast"
cd "$SCRATCH/holdfast"
say "$(git log -1 --format='%h %s')"
CI=true bash .ci/run </dev/null
