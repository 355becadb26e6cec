#!/usr/bin/env bash
# The main job on a real PostgreSQL, before your eyes: a service, rows being written, a manual backup, a restore to a
# chosen second into a new service, and a comparison. Leaves Holdfast and both services running.
# Everything lies in one folder of the cache; `scripts/demo.sh stop` ends it and removes the folder.
#
# environment: HOLDFAST_BIN   the binary (default target/release/holdfast)
#              DEMO_PORT      port of the API (default 8080, else the next free one)
#              DEMO_DIR       its folder (default: demo, in the cache folder)
#              DEMO_SECONDS   how long rows are written (default 12)
. "$(dirname "$0")/lib.sh"

open_cache
DEMO=${DEMO_DIR:-$CACHE/demo}
BIN=${HOLDFAST_BIN:-$ROOT/target/release/holdfast}
PSQL=$CACHE/engines/postgresql-17/bin/psql
SECONDS_OF_WRITING=${DEMO_SECONDS:-12}

running() { [ -f "$DEMO/pid" ] && kill -0 "$(cat "$DEMO/pid")" 2>/dev/null; }

stop() {
    local folder pid
    if running; then
        kill "$(cat "$DEMO/pid")"
        for _ in $(seq 100); do running || break; sleep 0.1; done
    fi
    for folder in "$DEMO"/instances/*/; do
        pid=$(head -n 1 "$folder/data/postmaster.pid" 2>/dev/null || true)
        [ -z "$pid" ] || kill -INT "$pid" 2>/dev/null || true
    done
    for _ in $(seq 100); do
        compgen -G "$DEMO/instances/*/data/postmaster.pid" >/dev/null || break
        sleep 0.1
    done
    rm -rf "$DEMO"
    say "stopped, and $DEMO removed"
}

if [ "${1:-}" = stop ]; then
    stop
    exit 0
fi

[ -x "$BIN" ] || die "there is no $BIN" "run 'make build'"
for tool in curl jq; do
    command -v "$tool" >/dev/null || die "there is no $tool" "run 'make packages'"
done

# api METHOD PATH [JSON]: the answer's body; stops with the server's own words on an error.
api() {
    local answer status
    answer=$(curl -sS --config "$DEMO/curlrc" -X "$1" "$URL$2" -w '\n%{http_code}' ${3:+-H 'Content-Type: application/json' -d "$3"})
    status=${answer##*$'\n'}
    answer=${answer%$'\n'*}
    [ "$status" -lt 300 ] || die "$1 $2 answered $status: $(jq -r .error <<<"$answer" 2>/dev/null || printf '%s' "$answer")"
    printf '%s' "$answer"
}

# wait_for WHAT PATH STATUS SECONDS: polls until the object has the status, showing its progress.
wait_for() {
    local object status phase last='' deadline=$((SECONDS + $4))
    while :; do
        object=$(api GET "$2")
        status=$(jq -r .status <<<"$object")
        phase=$(jq -r '.status + (if .progress then ": " + .progress.phase + (if .progress.percent then " \(.progress.percent | floor) %" else "" end) else "" end)' <<<"$object")
        [ "$phase" = "$last" ] || printf '    %s\n' "$phase"
        last=$phase
        [ "$status" != "$3" ] || return 0
        [ "$status" != failed ] || die "$1 failed: $(jq -r '.status_message // .error_message' <<<"$object")"
        [ $SECONDS -lt $deadline ] || die "$1 is not $3 after $4 s" "look into $DEMO/log"
        sleep 0.3
    done
}

connection() { api POST "/managed-services/$1/database-users/app_user/reveal-password" | jq -r .connection_string; }
# Passwords go to psql through the environment of that one process, not through its arguments.
sql() {
    local url=$1 password
    shift
    password=$(sed -E 's#^[^:]+://[^:]+:([^@]+)@.*#\1#' <<<"$url")
    PGPASSWORD=$password "$PSQL" -X -q -A -t -v ON_ERROR_STOP=1 "$(sed -E 's#:[^:@/]+@#@#' <<<"$url")" "$@"
}

say "1/6 Holdfast"
if running && curl -fsS "$(cat "$DEMO/url")/health" >/dev/null 2>&1; then
    URL=$(cat "$DEMO/url")
    echo "    runs already on $URL"
else
    [ ! -d "$DEMO" ] || stop
    mkdir -p "$DEMO"
    chmod 711 "$DEMO"
    port=${DEMO_PORT:-8080}
    while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done
    URL=http://127.0.0.1:$port
    password=$(head -c 18 /dev/urandom | base64 | tr '+/' 'xy')
    (umask 077 && printf '%s\n' "$password" >"$DEMO/admin-password" && printf 'user = "admin:%s"\n' "$password" >"$DEMO/curlrc")
    HOLDFAST_ADMIN_PASSWORD=$password HOLDFAST_DATA=$DEMO/data HOLDFAST_LISTEN=127.0.0.1:$port \
        HOLDFAST_INSTANCES=$DEMO/instances HOLDFAST_USERS=$CACHE/users HOLDFAST_ENGINES=$CACHE/engines \
        setsid "$BIN" serve </dev/null >"$DEMO/log" 2>&1 &
    echo $! >"$DEMO/pid"
    echo "$URL" >"$DEMO/url"
    for _ in $(seq 100); do
        curl -fsS "$URL/health" >/dev/null 2>&1 && break
        running || die "Holdfast ended" "look into $DEMO/log"
        sleep 0.1
    done
    echo "    listens on $URL, its data in $DEMO/data"
fi

stamp=$(date -u +%H%M%S)
say "2/6 a PostgreSQL service, demo-$stamp, through the API"
service=$(api POST /managed-services "{\"name\":\"demo-$stamp\",\"database_type\":\"postgresql\",\"plan_name\":\"tier-1\"}" | jq -r .id)
wait_for "the service" "/managed-services/$service" running 120
url=$(connection "$service")
first=$(api GET "/managed-services/$service/backups" | jq -r '.backups[-1].id')
wait_for "its first backup" "/managed-services/$service/backups/$first" completed 120

say "3/6 rows are written, each noted with the time at which it was sent and acknowledged"
sql "$url" -c 'CREATE TABLE orders (id bigint PRIMARY KEY, placed_at timestamptz DEFAULT clock_timestamp())'
# One line a row: number, sent, acknowledged (microseconds), as the client saw them.
seq 1 100000 | while read -r n; do
    [ ! -f "$DEMO/stop-writing" ] || break
    printf '%s\n' "\\set sent \`date +%s%6N\`" "INSERT INTO orders (id) VALUES ($n);" "\\echo $n :sent \`date +%s%6N\`"
    sleep 0.02
done | sql "$url" >"$DEMO/ledger" &
writer=$!
trap 'touch "$DEMO/stop-writing"' EXIT
sleep 3

say "4/6 a manual backup meanwhile"
backup=$(api POST "/managed-services/$service/backups" '{"backup_type": "manual"}' | jq -r .backup_id)
wait_for "the backup" "/managed-services/$service/backups/$backup" completed 120
api GET "/managed-services/$service/backups/$backup" |
    jq -r '"    \(.id): \(.size_label) stored, encrypted: \(.encryption_enabled), \(.encryption_algorithm), key \(.encryption_key_id)"'
sleep "$SECONDS_OF_WRITING"
point=$(date -u -d '2 seconds ago' +%Y-%m-%dT%H:%M:%SZ)

say "5/6 a restore to $point, into a new service, while the first goes on being written"
body=$(jq -n --arg at "$point" --arg name "demo-$stamp-restored" '{restore_point: $at, target_service_name: $name, plan_name: "tier-1", zone: "se-sto1"}')
began=$SECONDS
restored=$(api POST "/managed-services/$service/backups/restore" "$body" | jq -r .service_id)
wait_for "the restore" "/managed-services/$restored" running 300
took=$((SECONDS - began))
touch "$DEMO/stop-writing"
wait "$writer" || true
rm -f "$DEMO/stop-writing"
trap - EXIT

say "6/6 the comparison"
restored_url=$(connection "$restored")
sql "$restored_url" -c 'SELECT id FROM orders ORDER BY id' >"$DEMO/restored"
at=$(date -u -d "$point" +%s)000000
# Acknowledged at or before the point: must be there. Sent after it: must not. In flight: either.
verdict=$(awk -v at="$at" '
    NR == FNR { there[$1] = 1; found++; next }
    { known[$1] = 1 }
    $3 <= at && !($1 in there) { lost++ }
    $2 > at && ($1 in there) { extra++ }
    $3 <= at { due++ }
    END {
        for (id in there) if (!(id in known)) extra++
        printf "    acknowledged up to %s: %d rows\n    in the restored service:              %d rows\n    lost %d, extra %d\n", POINT, due, found, lost, extra
        exit (lost + extra > 0 || found == 0)
    }' POINT="$point" "$DEMO/restored" "$DEMO/ledger") || { echo "$verdict"; die "the restore is not exact"; }
echo "$verdict"
echo "    in the source, which went on:         $(sql "$url" -c 'SELECT count(*) FROM orders') rows"
echo "    the restore took $took s"

cat <<EOF

Holdfast keeps running:
    API                $URL   (description: $URL/openapi.json)
    user, password     admin, $(cat "$DEMO/admin-password")
    recovery kit       $DEMO/data/recovery-kit.txt
    log                $DEMO/log
Go on with:
    export HOLDFAST_URL=$URL HOLDFAST_PASSWORD='$(cat "$DEMO/admin-password")'
    $BIN services list
    $BIN window demo-$stamp
    $BIN restore demo-$stamp --to my-copy --at "1 minute ago" --wait
    scripts/demo.sh stop        # ends it and removes everything
EOF
