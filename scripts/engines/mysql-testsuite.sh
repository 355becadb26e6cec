# MySQL's own regression tests for scripts/engines.sh, which sources this: engines/suite-mysql/
#   bin/mysqltest     the program that runs a test, with the libraries of engines/mysql-9.7 beside it
#   root/             of Debian's package: mysqltest, and `mysql-test` without the expected results
# As for the server no hash is pinned: sid rolls on, and the archive's signature vouches for the package.
# shellcheck shell=bash

component mysql-testsuite suite-mysql "mysql-testsuite 9.7 layout 1" suites

install_mysql_testsuite() {
    local apt_root=$SCRATCH/apt-suite folder=$SCRATCH/mysql-testsuite
    ensure "$ENGINES/mysql-9.7" "${STAMP[mysql]}" install_mysql
    say "mysql-testsuite: downloading from Debian sid (340 MB)"
    mkdir -p "$folder/root" "$folder/bin"
    sid_apt "$apt_root"
    (cd "$apt_root" && apt-get "${SID_APT[@]}" download mysql-testsuite) </dev/null >"$SCRATCH/apt.log" 2>&1 || no_sid
    dpkg-deb --fsys-tarfile "$apt_root"/mysql-testsuite_*.deb | tar -x -C "$folder/root" --no-same-owner \
        --exclude='*/r/*' --exclude='*.zip' --exclude='*/suite/ndb*' --exclude='*/bin/mysqlxtest' --exclude='*/std_data/bug36444172/*' \
        ./usr/lib/mysql-test
    rm -rf "$apt_root"
    [ -x "$folder/root/usr/lib/mysql-test/bin/mysqltest" ] || die "the package has no mysqltest" "look at the mirror"
    cat >"$folder/bin/mysqltest" <<'WRAPPER'
#!/bin/sh
# Starts mysqltest with the C library that it was built for: the server's.
here=$(dirname "$(dirname "$(readlink -f "$0")")")
root=$here/../mysql-9.7/root
lib=$(echo "$root"/usr/lib/*-linux-gnu*)
exec "$(echo "$root"/usr/lib*/ld-linux-*.so.[0-9])" --library-path "$lib" "$here/root/usr/lib/mysql-test/bin/mysqltest" "$@"
WRAPPER
    chmod 0755 "$folder/bin/mysqltest"
    chmod -R a+rX,go-w "$folder"
    echo "${STAMP[mysql-testsuite]}" >"$folder/.holdfast"
    put_in_place "$folder" "$ENGINES/suite-mysql"
    "$ENGINES/suite-mysql/bin/mysqltest" --version >"$SCRATCH/try" 2>&1 || {
        cat "$SCRATCH/try" >&2
        rm "$ENGINES/suite-mysql/.holdfast"
        die "mysqltest does not run on this system" "see above"
    }
    say "mysql-testsuite: installed ($(head -n 1 "$SCRATCH/try"))"
}
