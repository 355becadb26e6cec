# MySQL 9.7 for scripts/engines.sh, which sources this: engines/mysql-9.7/
#   bin/{mysqld,mysqldump,mysqlbinlog,mysql,innochecksum,...}  start the programs of `root` with its own libraries
#   root/                                         Debian's packages, unpacked
#   template/                                     the data folder of a new server: root without a password, no certificates
# Only Debian sid has Oracle's MySQL. sid rolls on, so no hash is pinned: the archive's signature vouches for the packages,
# and any 9.7 or later of the 9 series is taken. The whole closure with its C library is unpacked into a folder; the
# system's packages and package lists are not touched.
# shellcheck shell=bash

component mysql mysql-9.7 "mysql 9.7 layout 2"

# sid_apt FOLDER: a package index of Debian sid in FOLDER, apart from the system's; SID_APT are apt-get's options for it.
sid_apt() {
    local mirror keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    # shellcheck disable=SC1091
    [ "$(. /etc/os-release && echo "${ID:-}")" = debian ] && command -v dpkg-deb >/dev/null ||
        die "MySQL comes from Debian's packages, and this system is not Debian" \
            "set HOLDFAST_ENGINES to a folder of your own, laid out as the top of scripts/engines/mysql.sh says"
    mirror=$(debian_mirror)
    [ -n "$mirror" ] || die "no Debian mirror in this system's package sources" "add one to /etc/apt/sources.list.d"
    mkdir -p "$1/lists/partial" "$1/cache/archives/partial"
    [ -f "$keyring" ] && keyring="[signed-by=$keyring] " || keyring=
    echo "deb $keyring$mirror sid main" >"$1/sources.list"
    : >"$1/status" # nothing counts as installed, so everything that the programs need is fetched
    SID_APT=(
        -qq -o "Dir::Etc::sourcelist=$1/sources.list" -o Dir::Etc::sourceparts=-
        -o "Dir::State=$1" -o "Dir::State::lists=$1/lists" -o "Dir::State::status=$1/status"
        -o "Dir::Cache=$1/cache" -o Acquire::Languages=none -o Acquire::Retries=3 -o APT::Sandbox::User=root
        -o Acquire::Check-Valid-Until=false -o Debug::NoLocking=1 # a mirror's sid may be some days behind
    )
    apt-get "${SID_APT[@]}" update </dev/null >"$SCRATCH/apt.log" 2>&1 || no_sid
}

no_sid() {
    cat "$SCRATCH/apt.log" >&2
    die "cannot download MySQL from Debian sid" "check that 'apt-get update' works on this system, then run this again"
}

install_mysql() {
    local apt_root=$SCRATCH/apt-sid folder=$SCRATCH/mysql-9.7 deb version
    say "mysql-9.7: downloading from Debian sid (65 MB)"
    mkdir -p "$folder/root" "$folder/bin"
    sid_apt "$apt_root"
    apt-get "${SID_APT[@]}" install -y --download-only --no-install-recommends mysql-server-core mysql-client-core \
        </dev/null >"$SCRATCH/apt.log" 2>&1 || no_sid
    for deb in "$apt_root"/cache/archives/*.deb; do
        case ${deb##*/} in
        perl* | libperl* | libc-gconv* | libgdbm* | libdb5*) ;; # dependencies of scripts that nobody runs
        mysql-server-core_*) version=$(dpkg-deb -f "$deb" Version) && dpkg-deb -x "$deb" "$folder/root" ;;
        *) dpkg-deb -x "$deb" "$folder/root" ;;
        esac
    done
    rm -rf "$folder"/root/usr/share/{doc,man,locale,lintian} "$apt_root"
    case ${version:-none} in
    9.[7-9].* | 9.[1-9][0-9].*) ;;
    *) die "Debian sid serves MySQL ${version:-none}, not 9.7 or later of the 9 series" "look for the new series in scripts/engines/mysql.sh" ;;
    esac
    mysql_wrappers "$folder"
    mysql_template "$folder"
    finish "$folder" "$ENGINES/mysql-9.7" "${STAMP[mysql]}" bin/mysqld --version
}

# mysql_wrappers FOLDER: bin/PROGRAM for each program, which finds its libraries beside itself wherever the folder is.
mysql_wrappers() {
    local program name where
    for program in "$1"/root/usr/sbin/mysqld "$1"/root/usr/bin/{mysql,mysqldump,mysqlbinlog,mysqladmin,innochecksum}; do
        [ -x "$program" ] || die "the packages have no ${program##*/}" "look at the mirror"
        name=${program##*/} where=${program#"$1"/root/}
        {
            printf '#!/bin/sh\n# Starts %s with the C library that it was built for.\n' "$name"
            # shellcheck disable=SC2016
            printf 'root=$(dirname "$(dirname "$(readlink -f "$0")")")/root\nlib=$(echo "$root"/usr/lib/*-linux-gnu*)\n'
            # shellcheck disable=SC2016
            printf 'exec "$(echo "$root"/usr/lib*/ld-linux-*.so.[0-9])" --library-path "$lib" --argv0 "$root/%s" "$root/%s" "$@"' "$where" "$where"
            # shellcheck disable=SC2016
            [ "$name" != mysqld ] || printf ' \\\n    --basedir="$root/usr" --lc-messages-dir="$root/usr/share/mysql" --character-sets-dir="$root/usr/share/mysql/charsets" \\\n    --plugin-dir="$root/usr/lib/mysql/plugin"'
            printf '\n'
        } >"$1/bin/$name"
        chmod 0755 "$1/bin/$name"
    done
}

# mysql_template FOLDER: initialises a data folder once; an instance begins as a copy of it, in a second instead of seven.
# Never as root: MySQL's own programs do not run as root here either.
mysql_template() {
    local data=$SCRATCH/template/data as=()
    mkdir -p "$data"
    chmod -R a+rX "$SCRATCH"
    if [ "$(id -u)" = 0 ]; then
        chown 65534:65534 "$data"
        as=(setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs --)
    fi
    say "mysql-9.7: initialising the template of a data folder"
    "${as[@]}" "$1/bin/mysqld" --no-defaults --initialize-insecure --datadir="$data" --innodb-redo-log-capacity=16M \
        --secure-file-priv=NULL --mysqlx=OFF --log-error-verbosity=1 >"$SCRATCH/template.log" 2>&1 </dev/null || {
        cat "$SCRATCH/template.log" >&2
        die "MySQL cannot initialise a data folder" "see above"
    }
    # Each instance gets an identity and certificates of its own.
    rm -f "$data"/auto.cnf "$data"/*.pem "$data"/binlog.*
    cp -r --sparse=always "$data" "$1/template"
}
