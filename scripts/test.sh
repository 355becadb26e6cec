#!/usr/bin/env bash
# Builds all tests, runs them side by side (.config/nextest.toml), and ends with "N passed, N failed, N skipped".
# A test that cannot run says so with a line "SKIPPED: reason"; it counts as skipped, not as passed, and fails the run.
# docs/testing.md says what runs where.
#
# usage: scripts/test.sh                    everything; what it needs is made by `make test`
#        scripts/test.sh SUITE ...          only these: a module of crates/holdfast/tests/e2e, or a crate without "holdfast-"
#        scripts/test.sh --quick            only what needs no engine
#        scripts/test.sh ... -- ARGUMENT ...  more for cargo-nextest, such as the name of a test
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

# filter SUITE: the expression that picks its tests.
filter() {
    local of=none\(\)
    [ "$1" != command ] || of+=' + (package(=holdfast) & kind(bin))'
    if [ -e "crates/holdfast/tests/e2e/$1.rs" ] || [ -e "crates/holdfast/tests/e2e/$1/mod.rs" ]; then
        of+=" + (package(=holdfast) & kind(test) & test(/^$1::/))"
    fi
    [ ! -d "crates/holdfast-$1" ] || of+=" + package(=holdfast-$1)"
    if [ "$of" != 'none()' ]; then
        echo "$of"
    else
        die "there is no suite $1" "suites are 'command', the modules in crates/holdfast/tests/e2e, and the crates without 'holdfast-'"
    fi
}

select=() profile=default
while [ $# -gt 0 ]; do
    case $1 in
    --quick) profile=quick ;;
    --) shift && break ;;
    *)
        expression=$(filter "$1")
        select+=(-E "$expression")
        ;;
    esac
    shift
done

nextest=$CACHE/tools/cargo-nextest/cargo-nextest
[ -x "$nextest" ] || die "there is no cargo-nextest" "run 'make tools'"
logs=$ROOT/target/test-logs
mkdir -p "$logs"
rm -f "$logs/totals"

# What the tests ask for (holdfast-testkit reads these); with REQUIRE set, a test fails where it would skip.
export HOLDFAST_ENGINES=${HOLDFAST_ENGINES:-$CACHE/engines}
if [ $profile = default ]; then
    export HOLDFAST_REQUIRE_ENGINES=1 HOLDFAST_REQUIRE_S3=1 HOLDFAST_REQUIRE_ORACLE=1
    [ -x "$HOLDFAST_ENGINES/postgresql-17/bin/postgres" ] || die "no engines in $HOLDFAST_ENGINES" "run 'make engines'"
fi
HOLDFAST_PYTHON=${HOLDFAST_PYTHON:-$(scripts/python.sh)}
export HOLDFAST_PYTHON HOLDFAST_ORACLE_PYTHON=${HOLDFAST_ORACLE_PYTHON:-$HOLDFAST_PYTHON}
# Java that leaves out its second, slower compiler: a server that lives for a minute takes half the processor time.
HOLDFAST_TEST_JAVA=$CACHE/tools/java-short
export HOLDFAST_TEST_JAVA
printf '%s\n' '#!/bin/sh' 'exec /usr/bin/java -XX:TieredStopAtLevel=1 "$@"' >"$HOLDFAST_TEST_JAVA.$$"
chmod 0755 "$HOLDFAST_TEST_JAVA.$$"
mv "$HOLDFAST_TEST_JAVA.$$" "$HOLDFAST_TEST_JAVA"
# Panics come with their back trace; errors that tests return do not, so that the end of a log shows what failed.
export RUST_BACKTRACE=${RUST_BACKTRACE:-1} RUST_LIB_BACKTRACE=${RUST_LIB_BACKTRACE:-0}

if ! scripts/build.sh; then
    echo "0 1 0" >"$logs/totals"
    echo "0 passed, 1 failed, 0 skipped"
    exit 1
fi

use_clippy_driver
slots=$((3 * $(nproc)))
junit=$ROOT/target/nextest/$profile/junit.xml
rm -f "$junit"
code=0
"$nextest" nextest run --workspace --locked --profile "$profile" --test-threads "$slots" --cargo-quiet \
    "${select[@]}" "$@" </dev/null || code=$?
python3 scripts/test_summary.py "$junit" "$code" "$logs/totals"
