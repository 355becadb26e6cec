# OpenSearch for scripts/engines.sh, which sources this:
#   engines/opensearch-2/: lib/, modules/, plugins/opensearch-security/, bin/opensearch (says its version)
# Maven's archives of the server and of its security plugin; it runs on Debian's Java. Apache-2.0.
# shellcheck shell=bash

# What is pinned: the release, and the SHA-256 of the server's archive and the plugin's. The plugin's last number is its own.
OPENSEARCH=(2.19.4 3902e642715210d1d9d7cbdcc8f5abd6f931d1d7a679cea3750937becf16c406 1f673622c462c4171a8c53f9b1ad20e5b839834cb79b0d3b388da180a0e514e8)
component opensearch-2 opensearch-2 "opensearch ${OPENSEARCH[*]}"

install_opensearch_2() {
    local folder=$SCRATCH/opensearch-2 release=${OPENSEARCH[0]}
    say "opensearch-2: downloading $release (100 MB)"
    mkdir -p "$folder-unpacked"
    opensearch_archive org.opensearch.distribution.integ-test-zip:opensearch "$release" "${OPENSEARCH[1]}" "$folder-unpacked"
    mv "$folder-unpacked/opensearch-$release" "$folder"
    opensearch_archive org.opensearch.plugin:opensearch-security "$release.0" "${OPENSEARCH[2]}" "$folder/plugins/opensearch-security"
    rm -rf "${folder:?}/plugins/opensearch-security/"{config,tools} "${folder:?}/bin" "${folder:?}/logs" # passwords that all the world knows, and what nobody runs here
    mkdir "$folder/bin"
    # shellcheck disable=SC2016 # for the program itself
    printf '%s\n' '#!/bin/sh' 'home=$(dirname "$0")/..' \
        'exec java -Xmx64m "-Dopensearch.path.home=$home" "-Dopensearch.path.conf=$home/config" -Dopensearch.distribution.type=zip -Dopensearch.bundled_jdk=false -cp "$home/lib/*" org.opensearch.bootstrap.OpenSearch "$@"' \
        >"$folder/bin/opensearch"
    chmod 0755 "$folder/bin/opensearch"
    finish "$folder" "$ENGINES/opensearch-2" "${STAMP[opensearch-2]}" bin/opensearch --version
}

# opensearch_archive GROUP:NAME RELEASE SHA256 FOLDER: unpacks it there.
opensearch_archive() {
    local group name file sum
    IFS=: read -r group name <<<"$1"
    mvn -B -q -Dstyle.color=never "-Dmaven.repo.local=$SCRATCH/maven" dependency:get "-Dartifact=$1:$2:zip" -Dtransitive=false </dev/null ||
        die "Maven could not fetch $name $2" "look at its output; set its mirror in ~/.m2/settings.xml where you need one"
    file=$SCRATCH/maven/${group//.//}/$name/$2/$name-$2.zip
    sum=$(sha256sum "$file" | cut -d' ' -f1)
    [ "$sum" = "$3" ] || die "$name $2 came as $sum, and not as $3" "do not use it; tell the project"
    mkdir -p "$4"
    python3 -m zipfile -e "$file" "$4"
}
