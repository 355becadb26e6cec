#!/usr/bin/env bash
# Takes one guard after the other out of a copy of the code and runs the tests of its crate: they must fail (a guard
# that no test misses is not guarded itself). Ends with "N passed, N failed, 0 skipped", where passed means: missed.
# The copy and its build are in target/guards.
#
# usage: scripts/guards.sh [NAME ...]
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

# name | package/program/module | file | the line as it stands, which must stand there once | what it becomes
guards='
last-chunk       | holdfast-seal/seal       | crates/holdfast-seal/src/open.rs               | return Err(SealError::Truncated { object: self.object, sealed_bytes });  | let _ = sealed_bytes; return Ok(());
commitment       | holdfast-seal/seal       | crates/holdfast-seal/src/chunk.rs              | .map_err(\|_\| SealError::WrongKeyOrContext { object: context.to_string() })?; | .ok();
chunk-order      | holdfast-seal/seal       | crates/holdfast-seal/src/chunk.rs              | *byte ^= number;                                                         | *byte ^= number & 0;
fencing          | holdfast-catalog/catalog | crates/holdfast-catalog/src/queue.rs           | let held = before.generation == generation && before.state == JobState::Running; | let held = before.state == JobState::Running;
one-of-a-name    | holdfast-catalog/catalog | crates/holdfast-catalog/migrations/0001_first.sql | CREATE UNIQUE INDEX services_living_name ON services (organization_id, name) | CREATE INDEX services_living_name ON services (organization_id, name)
gap              | holdfast-core/lib | crates/holdfast-core/src/position.rs        | } else if from.offset > covered.to.offset {                              | } else if from.offset > u64::MAX - 1 {
jumping-clock    | holdfast-core/recovery   | crates/holdfast-core/src/retention/clock.rs    | if steady_for >= HOLD {                                                  | if steady_for <= HOLD {
if-none-match    | holdfast-store/it/store  | crates/holdfast-store/src/store/local.rs       | let named = if if_absent {                                               | let named = if if_absent && target.as_os_str().is_empty() {
retired-kek      | holdfast-catalog/catalog | crates/holdfast-catalog/src/keks.rs            | Some(_) => Err(CatalogError::RetiredKek { version }),                    | Some(_) => Ok(()),
shredded-key     | holdfast-server/it/rotation| crates/holdfast-server/src/jobs/rotation.rs    | let lock = cp.vault.lock_wrappings().await;                              | let lock = ();
read-only        | holdfast-gateway/it/gateway| crates/holdfast-gateway/src/access.rs         | if write && repository.access == Access::ReadOnly {                      | if write && repository.access == Access::ReadOnly && operation.is_empty() {
'

copy=$ROOT/target/guards/tree
export CARGO_TARGET_DIR=${GUARDS_TARGET:-$ROOT/target/guards/build} CARGO_TERM_COLOR=never RUST_BACKTRACE=0
export HOLDFAST_ENGINES=${HOLDFAST_ENGINES:-$CACHE/engines}
rm -rf "$copy"
mkdir -p "$copy"
git ls-files -z | xargs -0 cp --parents -t "$copy"
logs=$ROOT/target/guards/logs
mkdir -p "$logs"

# run_tests PACKAGE/PROGRAM[/MODULE] LOG: the program "lib" is that of the crate's unit tests.
run_tests() {
    local package program module which
    IFS=/ read -r package program module <<<"$1"
    which=(--test "$program")
    [ "$program" != lib ] || which=(--lib)
    (cd "$copy" && timeout 900 cargo test --locked --quiet -p "$package" "${which[@]}" -- ${module:+"$module::"} </dev/null) >"$2" 2>&1
}

passed=0 failed=0
while read -r test; do
    run_tests "$test" "$logs/whole.log" || die "the tests of $test fail with every guard in place" "see $logs/whole.log"
done < <(awk -F'|' 'NF > 3 { gsub(/ /, "", $2); print $2 }' <<<"$guards" | sort -u)
while IFS= read -r row; do
    [ -n "${row// /}" ] || continue
    # A bar inside code is written \|.
    IFS=$'\t' read -r name test file before after < <(sed 's/\\|/\x01/g; s/ *| */\t/g; s/\x01/|/g' <<<"$row")
    case " ${*:-$name} " in *" $name "*) ;; *) continue ;; esac
    started=$SECONDS
    [ "$(grep -cF -- "$before" "$file")" = 1 ] || die "guard $name: its line does not stand once in $file" "correct scripts/guards.sh"
    BEFORE=$before AFTER=$after perl -pi -e 's/\Q$ENV{BEFORE}\E/$ENV{AFTER}/' "$copy/$file"
    if run_tests "$test" "$logs/$name.log"; then
        failed=$((failed + 1)) verdict="NOT MISSED by any test"
    elif grep -q '^test result: FAILED' "$logs/$name.log"; then
        passed=$((passed + 1)) verdict="missed by $(grep -cE '^ {4}[a-z_:0-9]+$' "$logs/$name.log") tests"
    else
        failed=$((failed + 1)) verdict="does not compile: see $logs/$name.log"
    fi
    printf '%-14s %-26s %s, %d s\n' "$name" "$test" "$verdict" $((SECONDS - started))
    cp "$file" "$copy/$file"
done <<<"$guards"
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" = 0 ]
