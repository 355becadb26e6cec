# Shared by the scripts in this folder: the repository's root, the cache folder, messages, locks.
# Meant to be sourced: `. "$(dirname "$0")/lib.sh"`. Nothing here writes outside the cache folder.
# shellcheck shell=bash

set -euo pipefail
umask 022 # what is installed is readable by the users that the engines run as

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
