#!/usr/bin/env bash
# The long matrices: every kill of every step once, the engines' own regression suites, then generated databases, files of MySQL's own tests and the exactness, kill and S3 suites again and again, each time with a new seed, for SOAK_MINUTES
# (default 60). Beside the first of them every fault of the store that stays is waited for until it ends its backup (half an hour).
# Goes on after a failure, tells each with the command that has it again, and ends with 1. Writes what it did to docs/soak.md.
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

export HOLDFAST_ENGINES=${HOLDFAST_ENGINES:-$CACHE/engines} HOLDFAST_REQUIRE_ENGINES=1
export HOLDFAST_REQUIRE_S3=1 HOLDFAST_SOAK=1
HOLDFAST_PYTHON=${HOLDFAST_PYTHON:-$(scripts/python.sh)}
export HOLDFAST_PYTHON
minutes=${SOAK_MINUTES:-60}
deadline=$((SECONDS + minutes * 60))
logs=$ROOT/target/soak-logs
mkdir -p "$logs"
cargo test --workspace --locked --no-run --quiet </dev/null

# tried LOG TITLE COMMAND...: runs it with a new seed.
failed=$logs/failed
: >"$failed"
tried() {
    local log=$1 title=$2
    shift 2
    HOLDFAST_SEED=$((RANDOM << 45 | RANDOM << 30 | RANDOM << 15 | RANDOM))
    export HOLDFAST_SEED
    timeout 7200 env "$@" </dev/null >"$log" 2>&1 && return
    echo "$title: HOLDFAST_SEED=$HOLDFAST_SEED $*" >>"$failed"
    cp "$log" "$logs/failed-$(wc -l <"$failed").log"
    grep -vE '^ *[0-9]+: |^ +at ' "$log" | tail -n 60 >&2
    say "FAILED: $title, HOLDFAST_SEED=$HOLDFAST_SEED"
    return 1
}
failures() { wc -l <"$failed"; }
test=(cargo test --locked --quiet -p)

# Faults that stay: nothing but waiting, in a process of its own.
stays=a_backup_outlives_a_fault_that_is_mended
(tried "$logs/stays.log" "faults of the store that stay" "${test[@]}" holdfast --test e2e -- "$stays" --nocapture || true) &
waits=$!

# Every kind of job, every step of it, before, in and after: SIGKILL of the agent and of the control plane.
matrix=$logs/kill-matrix.log
tried "$matrix" "the kill matrix" HOLDFAST_KILLS=all "${test[@]}" holdfast --test e2e -- crash:: --nocapture || true
matrix_seed=$HOLDFAST_SEED
say "kill matrix: $(grep -c '^\.\?killed: ' "$matrix") kills"

# The engines' own regression suites as workload, one after the other.
suites=$logs/regression.log
scripts/engines.sh suites
tried "$suites" "the engines' own suites" "${test[@]}" holdfast --test e2e -- regression:: --nocapture --test-threads 1 || true
suites_seed=$HOLDFAST_SEED
say "the engines' own suites: $(grep -c ': as it was, ' "$suites") copies as they were"

# generated PACKAGE PROGRAM ENGINES: 20 databases of each made by chance, before a base and after it, and compared as a whole.
generated() {
    if tried "$logs/generated.log" "databases made by chance" HOLDFAST_CASES=20 \
        "${test[@]}" "$1" --test "$2" -- any_database_comes_back --nocapture --test-threads 1; then
        databases=$((databases + 20 * $3))
    fi
}

# own_tests: files of MySQL's own tests as a workload, with backups in their midst.
own_tests() {
    tried "$logs/own-tests.log" "MySQL's own tests" HOLDFAST_SUITE_FILES=20 \
        "${test[@]}" holdfast-engines --features suites --test it -- mysqls_own_tests_come_back --nocapture || return 0
    sed -nE 's/^([0-9]+) files, ([0-9]+) statements, .*/\1 \2/p' "$logs/own-tests.log" >>"$logs/mysql-testsuite"
}
: >"$logs/mysql-testsuite"
: >"$logs/stream-kills"

rounds=0
restores=0
databases=0
while [ $SECONDS -lt $deadline ]; do
    generated holdfast-engines it 3
    generated holdfast e2e 1
    own_tests
    tried "$logs/java.log" "Kafka and OpenSearch, in round $((rounds + 1))" \
        "${test[@]}" holdfast-engines --test it -- kafka:: opensearch:: --nocapture --test-threads 1 || true
    for suite in exactness kill s3 conformance memory; do
        log=$logs/$suite.log
        skipped=()
        [ "$rounds" != 0 ] || skipped=(--skip "$stays")
        tried "$log" "$suite, in round $((rounds + 1))" "${test[@]}" holdfast --test e2e -- "$suite::" --nocapture "${skipped[@]}" || true
        restores=$((restores + $(grep -c '0 lost, 0 extra' "$log" || true)))
        # The first round kills each engine's agent 50 times while it streams the log.
        [ "$rounds" != 0 ] || [ "$suite" != conformance ] || grep -hoE '[a-z]+: [0-9]+ kills, .*' "$log" >"$logs/stream-kills" || true
    done
    rounds=$((rounds + 1))
    HOLDFAST_SOAK=0
    say "round $rounds: $restores exact restores so far, $(failures) failures"
done
wait "$waits"
restores=$((restores + $(grep -c '0 lost, 0 extra' "$logs/stays.log" || true)))

cat >docs/soak.md <<EOF
# Last soak

\`make soak\`, $(date -u +%Y-%m-%d), at $(git rev-parse --short HEAD), $((SECONDS / 60)) minutes: the kill matrix, the engines' own suites, and $rounds times everything else, each part with a new
seed. $databases databases made by chance on four engines came back from their base and at their end without a difference. $restores restores to random instants, a part of them after a SIGKILL of control plane or agent
or while the store failed at random, were exact: 0 transactions lost, 0 extra. Parts that failed: $(failures).$([ ! -s "$failed" ] || { printf '\n\n' && sed 's/^/- /' "$failed"; })

## The engines' own suites

PostgreSQL's and Valkey's own regression suites ran by a service's tenant (PostgreSQL's also by the superuser) while its log was archived (seed $suites_seed). What was restored to a backup and to moments at which all was
read is the same as a whole; what was restored to instants in mid-suite runs and reads.

$(grep -E '^(postgresql|valkey)[:,] ' "$suites" | sed 's/^/- /')

Of MySQL's own tests $(awk '{ files += $1; statements += $2 } END { print files " files, " statements " statements" }' "$logs/mysql-testsuite") were run by a tenant, with a base in their midst: what came back from it, from
instants behind it, from the log alone and from a dump of what a dump holds was the same.

## Kills in mid-stream

SIGKILL of the agent while it streams the log, under load; after each it had to catch up, and three instants were restored and judged at the end.

$(sed 's/^/- /' "$logs/stream-kills")

EOF
scripts/kill-matrix.sh "$matrix" "$(date -u +%Y-%m-%d)" "$(git rev-parse --short HEAD)" "$matrix_seed" >>docs/soak.md
say "$rounds rounds, $restores exact restores, $(failures) failures; written to docs/soak.md"
[ ! -s "$failed" ]
