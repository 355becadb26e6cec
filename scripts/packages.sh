#!/usr/bin/env bash
# Installs the Debian packages that are missing of those that the build, the engines and the tests need.
# Does nothing, and needs no rights, when all are there. Debian 12 (bookworm) and 13 (trixie) were tried from
# an empty root; Rust itself is not installed here (see CONTRIBUTING.md).
#
# usage: scripts/packages.sh [--list]      --list only prints what is missing
. "$(dirname "$0")/lib.sh"

# One need a line; names after | are the same package in another release of Debian.
packages='
gcc
libc6-dev
make
python3
python3-venv
util-linux
tzdata
ca-certificates
curl
jq
openssl
libssl3|libssl3t64
libcurl4|libcurl4t64
libgssapi-krb5-2
libreadline8|libreadline8t64
libxml2
libpq5
libssh2-1|libssh2-1t64
libzstd1
liblz4-1
libbz2-1.0
libossp-uuid16
zlib1g
libfaketime
strace
shellcheck
maven
openjdk-17-jre-headless|openjdk-21-jre-headless
'
# gcc, libc6-dev, make: the crates that build C (AWS-LC, SQLite, zstd) need a compiler and no cmake.
# util-linux: flock and setpriv. openssl: certificates of the tests. The libraries: PostgreSQL, pgBackRest and MongoDB.
# maven fetches Kafka, which runs on Java. libfaketime: the tests of wrong clocks. strace: those of power cuts. shellcheck: `make lint`.

if ! command -v dpkg-query >/dev/null; then
    warn "this system has no Debian packages; it must bring: $(echo "$packages" | tr '\n' ' ')"
    exit 0
fi

installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

missing=()
for need in $packages; do
    found=
    for name in ${need//|/ }; do
        ! installed "$name" || found=1
    done
    [ -n "$found" ] || missing+=("$need")
done

if [ ${#missing[@]} -eq 0 ]; then
    say "all there"
    exit 0
fi
if [ "${1:-}" = --list ]; then
    printf '%s\n' "${missing[@]}"
    exit 0
fi

as_root=()
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || die "missing packages: ${missing[*]}" "install them as root, or install sudo"
    as_root=(sudo)
fi
apt() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get -qq -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 "$@" </dev/null
}

say "updating the package index"
apt update || die "apt-get update failed" "check the network and the package sources of this system"

# Which of the names does this release carry?
names=()
for need in "${missing[@]}"; do
    chosen=
    for name in ${need//|/ }; do
        case $(apt-cache policy "$name" 2>/dev/null) in
        *'Candidate: (none)'* | '') ;;
        *) chosen=${chosen:-$name} ;;
        esac
    done
    [ -n "$chosen" ] || die "no package ${need//|/ or } in this system's package sources" "check that 'main' of the release is among them"
    names+=("$chosen")
done

say "installing ${names[*]}"
apt install --no-install-recommends -y "${names[@]}" >"${TMPDIR:-/tmp}/holdfast-packages.$$.log" 2>&1 || {
    tail -n 20 "${TMPDIR:-/tmp}/holdfast-packages.$$.log" >&2
    die "apt-get install failed" "see above; run 'apt-get -f install' if dpkg was interrupted"
}
rm -f "${TMPDIR:-/tmp}/holdfast-packages.$$.log"
say "installed"
