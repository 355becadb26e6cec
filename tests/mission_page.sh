#!/usr/bin/env bash
# The commands of the public page "Backups & Restore" as they stand there, run against a living Holdfast. Put in are
# the host, the password, the ids and the restore point; nothing else is changed. What is asserted: status codes, shapes,
# and that a restored service goes pending, provisioning, running and through nothing else.
#
# usage: mission_page.sh BASE USER PASSWORD ID BACKUP_ID RESTORE_POINT
#        ID: a running service; BACKUP_ID: its completed automated backup; RESTORE_POINT: in its recovery window,
#        like 2026-03-15T14:30:00Z
#
# The last lines of its output name what it leaves: "restored-to-a-point ID", "restored-from-a-backup ID".
set -euo pipefail
BASE=$1 LOGIN=$2:$3 ID=$4 BACKUP_ID=$5 RESTORE_POINT=$6 RESTORED_ID=

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# Not part of the commands: no progress meter, no proxy, and the status code where the output is not disturbed.
printf 'silent\nshow-error\nnoproxy = "*"\nmax-time = 30\nwrite-out = "%%{stderr}%%{http_code}\\n"\n' >"$folder/.curlrc"
export CURL_HOME=$folder

fail() {
    printf 'mission_page: %s\n' "$*" >&2
    [ ! -f "$folder/body" ] || cat "$folder/body" >&2
    exit 1
}

# page: runs the command on standard input with this Holdfast's values; sets $code, leaves the output in body.
page() {
    local command
    command=$(cat)
    command=${command//'https://api.foundrydb.com'/"$BASE"}
    command=${command//'admin:password'/"$(printf %q "$LOGIN")"}
    command=${command//'{id}'/"$ID"}
    command=${command//'{backup_id}'/"$BACKUP_ID"}
    command=${command//'{restored_service_id}'/"$RESTORED_ID"}
    command=${command//'2026-03-15T14:30:00Z'/"$RESTORE_POINT"}
    bash -o pipefail -c "$command" >"$folder/body" 2>"$folder/code" || fail "failed: $command ($(cat "$folder/code"))"
    code=$(tail -n 1 "$folder/code")
}

# answered STATUS WHAT [JQ]: the last answer had this status and, if given, is true under the jq expression.
answered() {
    [ "$code" = "$1" ] || fail "$2: $code instead of $1"
    [ $# -lt 3 ] || jq -e "$time_is_utc $3" "$folder/body" >/dev/null || fail "$2: the answer is not: $3"
    echo "$2: $code"
}
time_is_utc='def utc: type == "string" and test("^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]+)?Z$");'

list() {
    page <<'EOF'
curl -u admin:password \
https://api.foundrydb.com/managed-services/{id}/backups
EOF
}

monitor() {
    page <<'EOF'
curl -u admin:password \
https://api.foundrydb.com/managed-services/{restored_service_id}
EOF
}

delete_backup() {
    page <<'EOF'
curl -u admin:password -X DELETE \
https://api.foundrydb.com/managed-services/{id}/backups/{backup_id}
EOF
}

# watch FIRST-STATUS: monitors until running; the statuses seen must be the page's three, each, in order.
watch() {
    local seen=$1 now=$1 deadline=$((SECONDS + 120))
    while [ "$now" != running ]; do
        [ $SECONDS -lt $deadline ] || fail "the restore does not end; seen: $seen"
        sleep 0.05
        monitor
        [ "$code" = 200 ] || fail "monitor: $code"
        now=$(jq -r .status "$folder/body")
        [ "${seen##* }" = "$now" ] || seen+=" $now"
        [ "$now" != failed ] || fail "the restore failed"
    done
    [ "$seen" = "pending provisioning running" ] || fail "statuses seen: $seen"
    answered 200 "monitor: $seen" '.status == "running" and (.dns_records | length > 0) and .restored_from.service_id == "'"$ID"'"'
}

list
answered 200 "list" '.backups | type == "array" and length > 0 and all(.[];
    (.id | test("^bkp_[a-z0-9]{12,}$")) and (.backup_type == "automated" or .backup_type == "manual")
    and (.status | IN("pending", "running", "completed", "failed")) and (.created_at | utc)
    and (.status != "completed" or (.size_bytes | type == "number" and . > 0 and . == floor)))'
jq -e --arg id "$BACKUP_ID" '.backups[] | select(.id == $id) | .backup_type == "automated" and .status == "completed"' \
    "$folder/body" >/dev/null || fail "list: $BACKUP_ID is no completed automated backup"
AUTOMATED_ID=$BACKUP_ID

page <<'EOF'
curl -u admin:password -X POST \
https://api.foundrydb.com/managed-services/{id}/backups \
-H "Content-Type: application/json" \
-d '{"backup_type": "manual"}'
EOF
answered 202 "manual backup" '.backup_id == .id and .backup_type == "manual" and .status == "pending" and (.created_at | utc)'
MANUAL_ID=$(jq -r .backup_id "$folder/body")
deadline=$((SECONDS + 60))
until jq -e --arg id "$MANUAL_ID" '.backups[]? | select(.id == $id) | .status == "completed"' "$folder/body" >/dev/null; do
    [ $SECONDS -lt $deadline ] || fail "the manual backup does not end"
    sleep 0.2
    list
done
jq -e '[.backups[].created_at] as $at | $at == ($at | sort | reverse)' "$folder/body" >/dev/null || fail "list: not newest first"

page <<'EOF'
curl -u admin:password -X POST \
https://api.foundrydb.com/managed-services/{id}/backups/restore \
-H "Content-Type: application/json" \
-d '{
"restore_point": "2026-03-15T14:30:00Z",
"target_service_name": "my-db-restored",
"plan_name": "tier-2",
"zone": "se-sto1"
}'
EOF
answered 202 "restore to a point" '.id == .service_id and .id == .restored_service_id and .status == "pending"
    and .name == "my-db-restored" and .plan_name == "tier-2" and .zone == "se-sto1" and .backup_id == null
    and .source_service_id == "'"$ID"'" and .restore_point == "'"$RESTORE_POINT"'"'
RESTORED_ID=$(jq -r .service_id "$folder/body")
POINT_ID=$RESTORED_ID
watch "$(jq -r .status "$folder/body")"
jq -e '.restored_from.restore_point == "'"$RESTORE_POINT"'"' "$folder/body" >/dev/null || fail "another instant was reached"

# The page's two restores have one name: while the first lives, the second is refused.
restore_from_backup() {
    page <<'EOF'
curl -u admin:password -X POST \
https://api.foundrydb.com/managed-services/{id}/backups/{backup_id}/restore \
-H "Content-Type: application/json" \
-d '{
"target_service_name": "my-db-restored",
"plan_name": "tier-2",
"zone": "se-sto1"
}'
EOF
}
BACKUP_ID=$MANUAL_ID
restore_from_backup
answered 409 "restore under a name that is taken" '(.error | length > 0) and .error == .message'
curl -u "$LOGIN" -X PATCH "$BASE/managed-services/$POINT_ID" -d '{"name": "my-db-at-a-second"}' \
    >"$folder/body" 2>"$folder/code" && code=$(tail -n 1 "$folder/code")
answered 200 "rename" '.name == "my-db-at-a-second"'
restore_from_backup
answered 202 "restore from a backup" '.id == .service_id and .status == "pending" and .backup_id == "'"$MANUAL_ID"'"
    and .name == "my-db-restored" and .plan_name == "tier-2" and .zone == "se-sto1"'
RESTORED_ID=$(jq -r .service_id "$folder/body")
watch "$(jq -r .status "$folder/body")"

for BACKUP_ID in "$AUTOMATED_ID" "$MANUAL_ID"; do
    page <<'EOF'
curl -u admin:password \
https://api.foundrydb.com/managed-services/{id}/backups/{backup_id} \
| jq '{encrypted: .encryption_enabled, algorithm: .encryption_algorithm}'
EOF
    answered 200 "encryption" '. == {"encrypted": true, "algorithm": "AES-256-GCM"}'
done

BACKUP_ID=$AUTOMATED_ID
delete_backup
answered 409 "delete an automated backup" '.error | length > 0'
BACKUP_ID=$MANUAL_ID
delete_backup
answered 204 "delete a manual backup"
[ ! -s "$folder/body" ] || fail "a 204 with a body"
delete_backup
answered 404 "delete it again" '.error | length > 0'
list
answered 200 "list" '.backups | length > 0 and all(.[]; .id != "'"$MANUAL_ID"'")'

echo "restored-to-a-point $POINT_ID"
echo "restored-from-a-backup $RESTORED_ID"
