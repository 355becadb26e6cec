#!/usr/bin/env bash
# Builds the workspace's tests once, then runs them suite by suite, each within its time budget, and ends with
# a line "N passed, N failed, N skipped". Full logs: target/test-logs/SUITE.log.
# A test that cannot run says so with a line "SKIPPED: reason" and counts as skipped, not as passed; in a suite
# that may not skip, it fails the run.
#
# usage: scripts/test.sh             everything; what it needs is made by `make test`
#        scripts/test.sh SUITE ...   only these
. "$(dirname "$0")/lib.sh"

# suite | seconds | may skip | tests at once | what: PACKAGE/TEST, where * means every test program of the package;
# "examples" are those in the documentation of all packages, if there are any. At once: - is as many as there are cores; more where
# tests mostly wait.
# A test program that no line names runs as a suite of its own, may not skip and has 300 seconds. A line
# whose test program does not exist fails the run.
suites='
core      |  120 | no  | - | holdfast-core/*
api       |   60 | no  | - | holdfast-api/*
seal      |  180 | no  | - | holdfast-seal/*
store     |  400 | no  | - | holdfast-store/*
catalog   |  240 | no  | - | holdfast-catalog/*
engines   |  540 | no  | - | holdfast-engines/*
agent     |  300 | no  | - | holdfast-agent/*
server    |  300 | no  | - | holdfast-server/*
testkit   |  180 | no  | - | holdfast-testkit/*
judge     |   60 | no  | - | holdfast-conformance/*
command   |   60 | no  | - | holdfast/holdfast
contract  |  300 | no  | - | holdfast/contract
store-cli |  180 | no  | - | holdfast/check_store
openapi   |  240 | no  | - | holdfast/openapi
lifecycle |  400 | no  | - | holdfast/lifecycle
exactness |  400 | no  | - | holdfast/exactness
conform   | 1200 | no  | 3 | holdfast/conformance
kill      |  500 | no  | - | holdfast/kill
crash     |  900 | no  | - | holdfast/crash
durable   |  300 | no  | - | holdfast/durable
gap       |  300 | no  | - | holdfast/gap
tail      |  300 | no  | - | holdfast/tail
s3        |  900 | no  | - | holdfast/s3
clock     |  400 | no  | - | holdfast/clock
memory    |  600 | no  | - | holdfast/memory
rotation  |  240 | no  | - | holdfast/rotation
rebuild   |  400 | no  | - | holdfast/rebuild
limits    |   60 | no  | - | holdfast/limits
doctor    |   60 | no  | - | holdfast/doctor
shell     |   30 | no  | - | holdfast/shell
disk      |  300 | no  | - | holdfast/disk
docs      |  300 | no  | - | examples
'
DEFAULT_SECONDS=300

cd "$ROOT"
logs=$ROOT/target/test-logs
mkdir -p "$logs"
rm -f "$logs/totals"

# What the tests ask for (holdfast-testkit reads these); with REQUIRE set, a test fails where it would skip.
export HOLDFAST_ENGINES=${HOLDFAST_ENGINES:-$CACHE/engines}
export HOLDFAST_REQUIRE_ENGINES=1
export HOLDFAST_REQUIRE_S3=1
HOLDFAST_PYTHON=${HOLDFAST_PYTHON:-$(scripts/python.sh)}
export HOLDFAST_PYTHON
export HOLDFAST_ORACLE_PYTHON=${HOLDFAST_ORACLE_PYTHON:-$HOLDFAST_PYTHON}
export HOLDFAST_REQUIRE_ORACLE=1
# Panics come with their back trace; errors that tests return do not, so that the end of a log shows what failed.
export RUST_BACKTRACE=${RUST_BACKTRACE:-1} RUST_LIB_BACKTRACE=${RUST_LIB_BACKTRACE:-0}
[ -x "$HOLDFAST_ENGINES/postgresql-17/bin/postgres" ] || die "no engines in $HOLDFAST_ENGINES" "run 'make engines'"

# One build of everything: the same features throughout, so nothing is built twice.
say "building the tests (log: $logs/build.log)"
started=$SECONDS
artifacts=$logs/artifacts.json
if ! cargo test --workspace --locked --no-run --message-format=json-render-diagnostics >"$artifacts" 2>"$logs/build.log" </dev/null; then
    tail -n 80 "$logs/build.log" >&2
    say "the tests do not compile"
    echo "0 1 0" >"$logs/totals"
    echo "0 passed, 1 failed, 0 skipped"
    exit 1
fi
# program TAB package TAB test TAB folder, for each test program; then the binary itself.
jq -r 'select(.reason == "compiler-artifact" and .executable != null and .profile.test)
    | [.executable, (.manifest_path | split("/") | .[-2]), .target.name, (.manifest_path | rtrimstr("/Cargo.toml"))] | @tsv' \
    "$artifacts" | sort -k2,3 >"$logs/programs"
HOLDFAST_BIN=$(jq -r 'select(.reason == "compiler-artifact" and .executable != null and (.profile.test | not)
    and .target.name == "holdfast") | .executable' "$artifacts" | tail -n 1)
if [ -z "$HOLDFAST_BIN" ]; then # no test asked for it
    cargo build --workspace --locked --quiet </dev/null
    HOLDFAST_BIN=$(cargo metadata --no-deps --locked --format-version 1 | jq -r .target_directory)/debug/holdfast
fi
export HOLDFAST_BIN
say "built in $((SECONDS - started)) s: $(wc -l <"$logs/programs") test programs"

# The plan: one line a suite, tab separated: name, seconds, may skip, tests at once, programs' line numbers.
plan=()
named=' '
while IFS='|' read -r name seconds may_skip at_once what; do
    [ -n "${name// /}" ] || continue
    name=${name// /} seconds=${seconds// /} may_skip=${may_skip// /} at_once=${at_once// /} what=${what// /}
    lines=$(awk -F '\t' -v package="${what%%/*}" -v test="${what#*/}" \
        '$2 == package && (test == "*" || $3 == test) { printf "%s ", NR }' "$logs/programs")
    [ "$what" != examples ] || lines=examples
    plan+=("$name"$'\t'"$seconds"$'\t'"$may_skip"$'\t'"$at_once"$'\t'"$lines")
    named+="$lines"
done <<<"$suites"
while IFS=$'\t' read -r number package test; do
    case $named in
    *" $number "*) ;;
    *)
        [ "$package" = holdfast ] && name=$test || name=$package-$test
        plan+=("$name"$'\t'"$DEFAULT_SECONDS"$'\t'no$'\t'-$'\t'"$number")
        ;;
    esac
done < <(awk -F '\t' '{ print NR "\t" $2 "\t" $3 }' "$logs/programs")

# Whether a comment of the code has an example between fences, which runs. Asking rustdoc takes minutes.
has_examples() {
    [ -n "$(find crates/*/src -name '*.rs' -print0 | xargs -0 awk '
        FNR == 1 { inside = 0 }
        /^[[:space:]]*\/\/[\/!][[:space:]]*```/ {
            inside = !inside
            if (inside && !/```(text|json|sql|sh|toml)[[:space:]]*$/) print FILENAME
        }')" ]
}

all_passed=0 all_failed=0 all_skipped=0

# run_suite NAME SECONDS MAY_SKIP AT_ONCE LINES
run_suite() {
    local name=$1 budget=$2 may_skip=$3 at_once=$4 lines=$5 log=$logs/$1.log
    local started=$SECONDS left code trouble='' passed=0 failed=0 skipped=0 ok bad ignored said
    local program package test folder line command results part=$logs/$1.part
    : >"$log"
    [ -n "$lines" ] || trouble="no such test program: correct the table in scripts/test.sh"
    for line in $lines; do
        if [ "$line" = examples ]; then
            has_examples || continue
            package=all test=examples folder=$ROOT command=(cargo test --workspace --doc --locked -- --show-output)
        else
            IFS=$'\t' read -r program package test folder < <(sed -n "${line}p" "$logs/programs")
            command=("$program" --show-output)
            [ "$at_once" = - ] || command+=("--test-threads=$at_once")
        fi
        left=$((budget - (SECONDS - started)))
        [ "$left" -gt 0 ] || left=1
        code=0
        (
            cd "$folder"
            exec env CARGO_MANIFEST_DIR="$folder" CARGO_PKG_NAME="$package" CARGO_BIN_EXE_holdfast="$HOLDFAST_BIN" \
                timeout --kill-after=15 "$left" "${command[@]}"
        ) >"$part" 2>&1 </dev/null || code=$?
        { echo "=== $package/$test"; cat "$part"; } >>"$log"
        # "test result: ok. 5 passed; 0 failed; 1 ignored; ..."
        read -r results ok bad ignored < <(awk '/^test result: / { n++; ok += $4; bad += $6; ignored += $8 }
            END { print n + 0, ok + 0, bad + 0, ignored + 0 }' "$part")
        said=$(grep -cE '^[[:space:]]*SKIPPED:' "$part") || true
        if [ "$code" = 124 ] || [ "$code" = 137 ]; then
            trouble="$test: not done after $budget s"
        elif [ "$results" = 0 ]; then
            trouble="$test: ended with code $code before its result"
        elif [ "$code" != 0 ] && [ "$bad" = 0 ]; then
            trouble="$test: ended with code $code"
        elif [ "$said" -gt 0 ] && [ "$may_skip" != yes ]; then
            trouble="$test: skipped tests, and may not"
        fi
        [ "$said" -le "$ok" ] || said=$ok
        passed=$((passed + ok - said)) failed=$((failed + bad)) skipped=$((skipped + ignored + said))
    done
    rm -f "$part"
    [ -z "$trouble" ] || failed=$((failed + 1))
    printf '%-14s %4d s  %4d passed  %3d failed  %3d skipped%s\n' \
        "$name" $((SECONDS - started)) "$passed" "$failed" "$skipped" "${trouble:+   $trouble}"
    grep -hE '^[[:space:]]*SKIPPED:' "$log" | sort -u | sed 's/^[[:space:]]*/    /' || true
    if [ "$failed" -gt 0 ]; then
        echo "---- end of $log"
        tail -n 80 "$log"
        echo "----"
    fi
    all_passed=$((all_passed + passed)) all_failed=$((all_failed + failed)) all_skipped=$((all_skipped + skipped))
}

started=$SECONDS
ran=0
for suite in "${plan[@]}"; do
    IFS=$'\t' read -r name seconds may_skip at_once lines <<<"$suite"
    case " ${*:-$name} " in
    *" $name "*) ran=$((ran + 1)) && run_suite "$name" "$seconds" "$may_skip" "$at_once" "$lines" ;;
    esac
done
if [ $# -gt 0 ] && [ $ran -ne $# ]; then
    warn "there is no suite of one of these names: $*"
    all_failed=$((all_failed + 1))
fi
say "ran $ran suites in $((SECONDS - started)) s; logs in $logs"
echo "$all_passed $all_failed $all_skipped" >"$logs/totals"
echo "$all_passed passed, $all_failed failed, $all_skipped skipped"
[ "$all_failed" = 0 ] && [ "$all_passed" -gt 0 ]
