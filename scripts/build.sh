#!/usr/bin/env bash
# Compiles the binary and every test program once, with clippy's driver in rustc's place: one compilation serves `make lint`
# and `make test`. What clippy says of the workspace is kept in target/test-logs/lints; it does not stop the build.
#
# usage: scripts/build.sh      prints nothing when nothing is to be done
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
use_clippy_driver

logs=$ROOT/target/test-logs
mkdir -p "$logs"
started=$SECONDS
[ -d target/debug/deps ] || say "compiling everything once (log: target/test-logs/build.log)"
if ! cargo test --workspace --all-targets --locked --no-run --message-format=json-render-diagnostics \
    >"$logs/artifacts.json" 2>"$logs/build.log" </dev/null; then
    tail -n 80 "$logs/build.log" >&2
    die "the code does not compile" "see above, or target/test-logs/build.log"
fi
# Warnings are rendered among the log's lines; cargo repeats them for what it did not have to compile.
awk '/^(warning|error)/ { found = !/^warning: `.*generated [0-9]+ warning/ && !/^warning: build failed/ } found' "$logs/build.log" >"$logs/lints"
[ $((SECONDS - started)) -lt 3 ] || say "compiled in $((SECONDS - started)) s"
