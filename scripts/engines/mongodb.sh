# The tests' stand-in for mongod for scripts/engines.sh, which sources this: engines/mongodb-surrogate/
#   bin/surrogate  the server
#   lib/           its Python packages, pinned by hash in tests/mongodb/requirements.txt
# No real mongod is in any package registry. This one runs as a process of its own, in tests only.
# shellcheck shell=bash

# A Python that the users whom engines run as can reach; root's own version manager keeps its in root's home.
public_python() {
    local p up
    for p in "$(base_python)" /usr/bin/python3; do
        p=$(realpath "$p")
        up=$(dirname "$p")
        while [ "$up" != / ]; do
            [ "$(id -u)" != 0 ] || case $(stat -c %A "$up") in *[xt]) ;; *) continue 2 ;; esac
            up=$(dirname "$up")
        done
        "$p" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
        echo "$p"
        return 0
    done
    die "no Python 3.11 or later that other users can reach" "run scripts/packages.sh, or set HOLDFAST_BASE_PYTHON"
}

install_mongodb() {
    local python folder=$SCRATCH/mongodb-surrogate
    python=$(public_python)
    say "mongodb-surrogate: downloading (35 MB)"
    "$python" -m venv "$SCRATCH/mongodb-venv" || die "cannot make a virtual environment with $python" "run scripts/packages.sh"
    mkdir -p "$folder/bin"
    "$SCRATCH/mongodb-venv/bin/python" -m pip install -q --disable-pip-version-check --no-input --no-cache-dir \
        --only-binary=:all: --require-hashes -r "$MONGODB_PINS" --target "$folder/lib" ||
        die "cannot install the stand-in for mongod from PyPI" \
            "check the network and pip's settings (proxy, index) and run this again; a hash that differs means another file than the one tested"
    # It finds its packages beside itself, so that the folder can be moved as a whole. Nothing is written at run time.
    {
        echo '#!/bin/sh'
        echo 'here=$(dirname "$(dirname "$(readlink -f "$0")")")'
        echo "PYTHONPATH=\$here/lib exec $python -sBc 'import sys; from secantus.cli import main; sys.exit(main())' \"\$@\""
    } >"$folder/bin/surrogate"
    chmod 0755 "$folder/bin/surrogate"
    "$python" -m compileall -q "$folder/lib" >/dev/null || true
    finish "$folder" "$ENGINES/mongodb-surrogate" "$MONGODB_STAMP" bin/surrogate --help
}

MONGODB_PINS=$ROOT/tests/mongodb/requirements.txt
MONGODB_STAMP="mongodb-surrogate pins $(sha256sum "$MONGODB_PINS" | cut -c1-16)"
