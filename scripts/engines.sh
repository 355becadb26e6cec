#!/usr/bin/env bash
# Puts the database engines that the tests and the demo use into the cache folder. Each file of scripts/engines/ knows some, says at
# its top what it lays where, and is all that an engine needs here. What can be pinned by its SHA-256 is; a file says why not.
# Nothing is installed into the system and no system library is touched.
# A second run does nothing. Two runs at once take turns. A run that is killed leaves nothing half-installed.
#
# usage: scripts/engines.sh [NAME] ...    names are files of scripts/engines/, or what such a file has; default: postgresql valkey
#        scripts/engines.sh tests         all engines that `make test` runs
#        scripts/engines.sh suites        the engines' own regression suites
#        scripts/engines.sh --path        print the folder for HOLDFAST_ENGINES and stop
. "$(dirname "$0")/lib.sh"

ENGINES=$CACHE/engines
declare -A FOLDER STAMP OF_FILE OF_GROUP

# component NAME FOLDER STAMP [GROUP]: this file can install NAME, by its function install_NAME, into engines/FOLDER; another STAMP
# makes it anew. NAME is a part of what asking for the file gets, and of GROUP: tests, or suites.
component() {
    FOLDER[$1]=$2
    STAMP[$1]=$3
    OF_FILE[$FILE]+=" $1"
    OF_GROUP[${4:-tests}]+=" $1"
}

# The address of this system's own Debian mirror, out of its package sources.
debian_mirror() {
    apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' 2>/dev/null |
        awk '$2 !~ /-/ && !found { print $1; found = 1 }'
}

for source in "$(dirname "$0")"/engines/*.sh; do
    FILE=$(basename "$source" .sh)
    # shellcheck disable=SC1090
    . "$source"
done

wanted=()
for argument in "${@:-postgresql valkey}"; do
    # shellcheck disable=SC2086
    for name in $argument; do
        [ "$name" != --path ] || { echo "$ENGINES" && exit 0; }
        read -ra found <<<"${OF_GROUP[$name]:-${OF_FILE[$name]:-${FOLDER[$name]:+$name}}}"
        [ ${#found[@]} -gt 0 ] || die "nothing is called $name here" "one of: ${!OF_GROUP[*]} ${!OF_FILE[*]} ${!FOLDER[*]}; or --path"
        wanted+=("${found[@]}")
    done
done

for name in "${wanted[@]}"; do
    ensure "$ENGINES/${FOLDER[$name]}" "${STAMP[$name]}" "install_${name//-/_}"
done
say "ready in $ENGINES"
