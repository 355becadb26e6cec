# The engines' own regression suites for scripts/engines.sh, which sources this; only with `engines.sh suites`:
#   engines/suite-postgresql/{sql,data,parallel_schedule}     PostgreSQL 18's: of it Debian sid has the source; what 17 lacks is refused
#   engines/suite-valkey/{runtest,tests}                      Valkey's, as its `runtest` runs them
# They come out of Debian's source packages, unpacked with tar. sid rolls on, so no hash is pinned: the archive's signature vouches
# for them.
# shellcheck shell=bash

component suite-postgresql suite-postgresql "postgresql-18 of sid, src/test/regress" suites
component suite-valkey suite-valkey "valkey of sid, tests" suites

install_suite_postgresql() {
    local folder=$SCRATCH/suite-postgresql
    debian_source postgresql-18
    mkdir "$folder"
    tar -xf "$SCRATCH"/source-postgresql-18/postgresql-18_*.orig.tar.* -C "$folder" --strip-components=4 --no-same-owner --wildcards \
        '*/src/test/regress/sql' '*/src/test/regress/data' '*/src/test/regress/parallel_schedule'
    command -v sqlsmith >/dev/null || warn "behind PostgreSQL's suite runs sqlsmith, which is not there: install Debian's package sqlsmith"
    finish_suite "$folder" "$ENGINES/suite-postgresql" "${STAMP[suite-postgresql]}" parallel_schedule
}

install_suite_valkey() {
    local folder=$SCRATCH/suite-valkey
    debian_source valkey
    mkdir "$folder"
    tar -xf "$SCRATCH"/source-valkey/valkey_*.orig.tar.* -C "$folder" --strip-components=1 --no-same-owner --wildcards \
        --no-wildcards-match-slash '*/tests' '*/runtest'
    command -v tclsh >/dev/null || warn "Valkey's suite is a program in Tcl, and there is no tclsh: install Debian's package tcl"
    finish_suite "$folder" "$ENGINES/suite-valkey" "${STAMP[suite-valkey]}" runtest
}

# debian_source PACKAGE: the files of a source package of Debian sid, in $SCRATCH/source-PACKAGE. A private package index leaves
# the system's sources alone.
debian_source() {
    local apt_root=$SCRATCH/apt-$1 folder=$SCRATCH/source-$1 mirror keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    # shellcheck disable=SC1091
    [ "$(. /etc/os-release && echo "${ID:-}")" = debian ] ||
        die "the suite of $1 comes from Debian's source package, and this system is not Debian" \
            "lay it out as the top of scripts/engines/suites.sh says"
    mirror=$(debian_mirror)
    [ -n "$mirror" ] || die "no Debian mirror in this system's package sources" "add one to /etc/apt/sources.list.d"
    say "$1: downloading its source from Debian sid (index and package up to 40 MB)"
    mkdir -p "$apt_root/lists/partial" "$apt_root/cache/archives/partial" "$folder"
    [ -f "$keyring" ] && keyring="[signed-by=$keyring] " || keyring=
    echo "deb-src $keyring$mirror sid main" >"$apt_root/sources.list"
    local options=(
        -qq -o "Dir::Etc::sourcelist=$apt_root/sources.list" -o Dir::Etc::sourceparts=-
        -o "Dir::State::lists=$apt_root/lists" -o "Dir::Cache=$apt_root/cache"
        -o Acquire::Languages=none -o Acquire::Retries=3 -o APT::Sandbox::User=root
        -o Acquire::Check-Valid-Until=false -o Debug::NoLocking=1 # a mirror's sid may be some days behind
    )
    (cd "$folder" && apt-get "${options[@]}" update && apt-get "${options[@]}" source --download-only "$1") </dev/null >"$SCRATCH/apt.log" 2>&1 || {
        cat "$SCRATCH/apt.log" >&2
        die "cannot download the source of $1 from Debian sid" "check that 'apt-get update' works on this system, then run this again"
    }
}

# finish_suite FOLDER TARGET STAMP FILE: stamps FOLDER, in which FILE must be, and puts it in place as TARGET.
finish_suite() {
    [ -s "$1/$4" ] || die "the source package has no $4" "look at how it is laid out, and at scripts/engines/suites.sh"
    chmod -R a+rX,go-w "$1"
    printf '%s\n' "$3" >"$1/.holdfast"
    put_in_place "$1" "$2"
    say "$(basename "$2"): installed"
}
