#!/usr/bin/env bash
# Makes the virtual environment that the tests use, in the cache folder: the public FoundryDB client
# (tests/python/requirements.txt), what the independent reader of the backup format needs
# (tests/oracle/requirements.txt), what checks the API (tests/openapi/requirements.txt), and a client of Kafka (tests/kafka/requirements.txt). Everything is pinned by
# hash; the system's Python is not touched.
# A second run does nothing; another set of requirements gets an environment of its own.
#
# usage: scripts/python.sh             install; the last line on standard output is the interpreter's path
#        PYTHON=$(scripts/python.sh)   works: progress goes to standard error
. "$(dirname "$0")/lib.sh"

requirements=()
for file in "$ROOT"/tests/{python,oracle,openapi,kafka}/requirements.txt; do
    [ ! -f "$file" ] || requirements+=(-r "$file")
done

base=$(base_python)
# What the environment is made of names its folder: the pins, and the interpreter it was made from.
fingerprint=$({
    "$base" -c 'import sys; print(sys.version, sys.executable)'
    for file in "${requirements[@]}"; do [ "$file" = -r ] || cat "$file"; done
} | sha256sum | cut -c1-12)
target=$CACHE/python/$fingerprint
whole() { [ -f "$target/.holdfast" ] && [ -x "$target/bin/python" ]; }

if ! whole; then
    open_cache
    lock python
fi
if ! whole; then
    warn "making $target"
    # An environment knows its own path, so it is made in place; the mark at the end says that it is whole.
    rm -rf "$target"
    "$base" -m venv "$target" || die "cannot make a virtual environment with $base" "run scripts/packages.sh"
    "$target/bin/python" -m pip install -q --disable-pip-version-check --no-input --no-cache-dir \
        --only-binary=:all: --require-hashes "${requirements[@]}" >&2 ||
        die "cannot install what the tests need from PyPI" \
            "check the network and pip's settings (proxy, index) and run this again; a hash that differs means another file than the one tested"
    touch "$target/.holdfast"
    warn "installed $("$target/bin/python" --version)"
fi
echo "$target/bin/python"
