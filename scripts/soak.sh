#!/usr/bin/env bash
# The long matrices: every kill of every step once, the engines' own regression suites, then generated databases, files of MySQL's own tests and the exactness, kill and S3 suites again and again, each time with a new seed, for SOAK_MINUTES
# (default 60). The first round also waits for every fault of the store that stays to end its backup (half an hour).
# Stops at the first failure, with its seed. Writes what it did to docs/soak.md.
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

export HOLDFAST_ENGINES=${HOLDFAST_ENGINES:-$CACHE/engines} HOLDFAST_REQUIRE_ENGINES=1
export HOLDFAST_REQUIRE_S3=1 HOLDFAST_SOAK=1
minutes=${SOAK_MINUTES:-60}
deadline=$((SECONDS + minutes * 60))
logs=$ROOT/target/soak-logs
mkdir -p "$logs"
cargo test --workspace --locked --no-run --quiet </dev/null

# Every kind of job, every step of it, before, in and after: SIGKILL of the agent and of the control plane.
HOLDFAST_SEED=$((RANDOM << 45 | RANDOM << 30 | RANDOM << 15 | RANDOM))
export HOLDFAST_SEED
matrix=$logs/kill-matrix.log
if ! HOLDFAST_KILLS=all timeout 7200 cargo test --locked --quiet -p holdfast --test e2e -- crash:: --nocapture </dev/null >"$matrix" 2>&1; then
    grep -vE '^ *[0-9]+: |^ +at ' "$matrix" | tail -n 60 >&2
    die "the kill matrix with seed $HOLDFAST_SEED" "HOLDFAST_KILLS=all HOLDFAST_SEED=$HOLDFAST_SEED cargo test -p holdfast --test e2e -- crash::"
fi
matrix_seed=$HOLDFAST_SEED
say "kill matrix: $(grep -c '^\.\?killed: ' "$matrix") kills, all whole"

# The engines' own regression suites as workload, one after the other.
suites=$logs/regression.log
scripts/engines.sh suites
if ! timeout 7200 cargo test --locked --quiet -p holdfast --test e2e -- regression:: --nocapture --test-threads 1 </dev/null >"$suites" 2>&1; then
    tail -n 60 "$suites" >&2
    die "the engines' own suites with seed $HOLDFAST_SEED" "HOLDFAST_SEED=$HOLDFAST_SEED cargo test -p holdfast --test e2e -- regression::"
fi
suites_seed=$HOLDFAST_SEED
say "the engines' own suites: $(grep -c ': as it was, ' "$suites") copies, all as they were"

# generated PACKAGE PROGRAM CASES: databases made by chance, before a base and after it, and compared as a whole.
generated() {
    HOLDFAST_SEED=$((RANDOM << 45 | RANDOM << 30 | RANDOM << 15 | RANDOM))
    export HOLDFAST_SEED
    local log=$logs/generated-$1-$HOLDFAST_SEED.log
    if ! HOLDFAST_CASES=$3 timeout 7200 cargo test --locked --quiet -p "$1" --test "$2" -- any_database_comes_back --nocapture --test-threads 1 </dev/null >"$log" 2>&1; then
        tail -n 60 "$log" >&2
        die "generated databases with seed $HOLDFAST_SEED" "HOLDFAST_CASES=$3 HOLDFAST_SEED=$HOLDFAST_SEED cargo test -p $1 --test $2 -- any_database_comes_back"
    fi
    rm -f "$log"
}

# own_tests: files of MySQL's own tests as a workload, with backups in their midst.
own_tests() {
    HOLDFAST_SEED=$((RANDOM << 45 | RANDOM << 30 | RANDOM << 15 | RANDOM))
    export HOLDFAST_SEED
    local log=$logs/mysql-testsuite-$HOLDFAST_SEED.log
    local told=(cargo test --locked --quiet -p holdfast-engines --features suites --test it -- mysqls_own_tests_come_back --nocapture)
    if ! HOLDFAST_SUITE_FILES=20 timeout 3600 "${told[@]}" </dev/null >"$log" 2>&1; then
        tail -n 60 "$log" >&2
        die "MySQL's own tests with seed $HOLDFAST_SEED" "HOLDFAST_SUITE_FILES=20 HOLDFAST_SEED=$HOLDFAST_SEED ${told[*]}"
    fi
    sed -nE 's/^([0-9]+) files, ([0-9]+) statements, .*/\1 \2/p' "$log" >>"$logs/mysql-testsuite"
    rm -f "$log"
}
: >"$logs/mysql-testsuite"

rounds=0
restores=0
databases=0
while [ $SECONDS -lt $deadline ]; do
    generated holdfast-engines it 20
    generated holdfast e2e 20
    databases=$((databases + 80))
    own_tests
    for suite in exactness kill s3 conformance; do
        HOLDFAST_SEED=$((RANDOM << 45 | RANDOM << 30 | RANDOM << 15 | RANDOM))
        export HOLDFAST_SEED
        log=$logs/$suite-$HOLDFAST_SEED.log
        if ! timeout 3600 cargo test --locked --quiet -p holdfast --test e2e -- "$suite::" --nocapture </dev/null >"$log" 2>&1; then
            tail -n 60 "$log" >&2
            die "$suite with seed $HOLDFAST_SEED, in round $((rounds + 1))" "HOLDFAST_SEED=$HOLDFAST_SEED cargo test -p holdfast --test e2e -- $suite::"
        fi
        restores=$((restores + $(grep -c '0 lost, 0 extra' "$log")))
        # The first round kills each engine's agent 50 times while it streams the log.
        [ "$rounds" != 0 ] || [ "$suite" != conformance ] || grep -hE '^[a-z]+: [0-9]+ kills, ' "$log" >"$logs/stream-kills"
        rm -f "$log"
    done
    rounds=$((rounds + 1))
    HOLDFAST_SOAK=0
    say "round $rounds: $restores exact restores so far"
done

cat >docs/soak.md <<EOF
# Last soak

\`make soak\`, $(date -u +%Y-%m-%d), at $(git rev-parse --short HEAD): $rounds rounds of the suites \`exactness\`, \`kill\`, \`s3\` and \`conformance\` in $minutes minutes, each with a
new seed, and $databases databases made by chance on four engines, each restored to its base and to its end: 0 differences. $restores restores to random instants, a part of them after a SIGKILL of control plane or agent or while the store failed at random: all exact, 0 transactions lost,
0 extra.

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
say "$rounds rounds, $restores exact restores, 0 failures; written to docs/soak.md"
