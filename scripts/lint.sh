#!/usr/bin/env bash
# Everything that is checked without running: formatting, lints, the walls of clippy.toml, scripts, the dependency tree.
# All of them run, whatever the earlier ones say. What clippy says comes from the compilation that the tests use too.
#
# usage: scripts/lint.sh [--quick]      after scripts/tools.sh; --quick leaves out what takes long or asks the network
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

passed=0 failed=0 skipped=0
check() {
    local name=$1 started=$SECONDS
    shift
    if "$@" </dev/null; then
        say "$name: passed ($((SECONDS - started)) s)"
        passed=$((passed + 1))
    else
        say "$name: FAILED: $*"
        failed=$((failed + 1))
    fi
}

tools=$CACHE/tools

# The list of known holes comes from the network; without it, the check says so and does not count as passed.
advisories() {
    local log
    if log=$("$tools/cargo-deny/cargo-deny" --locked check advisories 2>&1 </dev/null); then
        say "advisories: passed"
        passed=$((passed + 1))
    elif grep -q 'failed to fetch advisory database' <<<"$log"; then
        say "advisories: SKIPPED, the advisory database cannot be reached"
        skipped=$((skipped + 1))
    else
        printf '%s\n' "$log" >&2
        say "advisories: FAILED"
        failed=$((failed + 1))
    fi
}

# Every test that the threat model rests a claim on is there; in the list of statements these stand in the last of more than two columns.
claims() {
    local test missing=0
    for test in $({ cat docs/threat-model.md docs/engines/README.md; awk -F'|' '/^\|/ && NF > 4 { print $(NF - 1) }' docs/statements.md; } |
        grep -oE '`[a-z0-9_]+_[a-z0-9_]+`' | tr -d '`' | sort -u); do
        git grep -qE "fn $test\b" -- '*.rs' || { warn "docs/threat-model.md, docs/statements.md or docs/engines/README.md names $test, and there is no such test"; missing=1; }
    done
    return $missing
}

# Every crate asks for the walls of clippy.toml, outside its tests.
walls() {
    local file missing=0
    for file in crates/*/src/lib.rs crates/*/src/main.rs; do
        grep -qxF "$wall" "$file" || { warn "$file must have the line: $wall"; missing=1; }
    done
    return $missing
}
wall='#![cfg_attr(not(test), deny(clippy::disallowed_methods))] // the walls: clippy.toml'

# An ignored test is the half that another test starts as a process of its own; nothing else may be left out.
ignored() {
    ! git grep -n '#\[ignore' -- '*.rs' | grep -v '#\[ignore = "a part of .*, which starts it"'
}

# Examples in comments of the code are tests, and no run starts them (building them takes minutes): there are none.
examples() {
    ! find crates/*/src -name '*.rs' -print0 | xargs -0 awk '
        FNR == 1 { inside = 0 }
        /^[[:space:]]*\/\/[\/!][[:space:]]*```/ {
            inside = !inside
            if (inside && !/```(text|json|sql|sh|toml)[[:space:]]*$/) print FILENAME ":" FNR ": an example that nothing runs"
        }' | grep .
}

clippy() {
    scripts/build.sh || return 1
    [ -s target/test-logs/lints ] || return 0
    cat target/test-logs/lints >&2
    return 1
}

shell_scripts() {
    git ls-files -z -- '*.sh' .ci/run | xargs -0 shellcheck
}

check claims claims
check walls walls
check ignored ignored
check examples examples
check fmt cargo fmt --all --check
check shellcheck shell_scripts
check clippy clippy
check unused "$tools/cargo-shear/cargo-shear" --locked --offline --deny-warnings --color=never
if [ "${1:-}" != --quick ]; then
    check docs scripts/docs.sh
    check deny "$tools/cargo-deny/cargo-deny" --locked --log-level error check bans licenses sources
    advisories
fi

mkdir -p target/test-logs
echo "$passed $failed $skipped" >target/test-logs/lint-totals
[ "$failed" = 0 ]
