#!/usr/bin/env bash
# The documentation of all crates, private items too, with every warning an error: links in comments that lead nowhere, above
# all. A part of `make lint`.
#
# usage: scripts/docs.sh
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
# Private items are documented too, so a link to one leads somewhere.
export RUSTDOCFLAGS='-D warnings -A rustdoc::private-intra-doc-links'
cargo doc --workspace --no-deps --document-private-items --locked --quiet </dev/null
