#!/usr/bin/env bash
# Takes the debugging information out of a binary and puts it beside, as BINARY.debug, where debuggers and Rust's own back
# traces look for it (.gnu_debuglink). What is left runs, and traces back, without it, but for line numbers.
#
# usage: scripts/strip.sh BINARY
. "$(dirname "$0")/lib.sh"

binary=$(realpath "$1")
# Built files are linked to cargo's own: what is written is new, never changed in place.
work=$(mktemp -d "$binary.XXXXXX")
trap 'rm -rf "$work"' EXIT
name=$(basename "$binary")
objcopy --only-keep-debug "$binary" "$work/$name.debug"
(cd "$work" && objcopy --strip-debug --add-gnu-debuglink="$name.debug" "$binary" "$name")
chmod 0755 "$work/$name"
mv -f "$work/$name.debug" "$binary.debug"
mv -f "$work/$name" "$binary"
