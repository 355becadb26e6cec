#!/usr/bin/env bash
# Measures Holdfast against the bare tools, on this machine, and writes docs/benchmarks.md. Nothing else should run meanwhile.
# Everything that it makes lies below the cache folder and is gone at the end, also after Ctrl-C.
#
# environment: BENCH_SIZE   full (some hours; 15 GB of disk) or small (a few minutes; shows that it works)
#              BENCH_ONLY   some of sealing,api,local,s3,restores,lag,mysql,mongodb,valkey,kafka,opensearch,bases,lost, with commas between
#              BENCH_MIB    what engines other than PostgreSQL are filled with (full: 2048 MiB)
#              BENCH_PAIRS  how often each side has its turn (full: 3)
#              BENCH_OUT    the page (default docs/benchmarks.md; for the small size or a part of all, target/benchmarks.md)
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
open_cache
lock bench

export BENCH_SIZE=${BENCH_SIZE:-full} BENCH_ONLY=${BENCH_ONLY:-}
export HOLDFAST_ENGINES=${HOLDFAST_ENGINES:-$CACHE/engines} HOLDFAST_REQUIRE_ENGINES=1
case $BENCH_SIZE in full | small) ;; *) die "BENCH_SIZE is full or small, not $BENCH_SIZE" ;; esac
page=$ROOT/docs/benchmarks.md
[ "$BENCH_SIZE" = full ] && [ -z "$BENCH_ONLY" ] || page=$ROOT/target/benchmarks.md
export BENCH_OUT=${BENCH_OUT:-$page}
[ -x "$HOLDFAST_ENGINES/seaweedfs/bin/weed" ] || die "no engines in $HOLDFAST_ENGINES" "run 'make engines'"
command -v openssl >/dev/null || die "there is no openssl" "run 'make packages'"
free_kib=$(df --output=avail -k "$CACHE" | tail -n 1)
if [ "$BENCH_SIZE" = full ] && [ "$free_kib" -lt $((15 << 20)) ]; then
    die "$CACHE has less than 15 GiB free" "set HOLDFAST_CACHE to a folder on a larger disk"
fi

say "building (release)"
cargo bench --locked --quiet -p holdfast --bench measure --no-run </dev/null
started=$SECONDS
cargo bench --locked --quiet -p holdfast --bench measure </dev/null
say "done in $((SECONDS - started)) s; written to $BENCH_OUT"
