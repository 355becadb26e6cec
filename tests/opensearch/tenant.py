"""A tenant of an OpenSearch service, over plain HTTP requests: makes indices of all kinds, and reads all that a tenant can see.

usage: tenant.py PORT USER PASSWORD COMMAND     what it finds goes to standard output, as JSON; COMMAND is the name of a function below
"""

import base64
import hashlib
import json
import os
import random
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

PATIENCE = 60


class Refused(Exception):
    def __init__(self, status, told):
        super().__init__(f"{status}: {json.dumps(told)[:500]}")
        self.status, self.told = status, told


class Tenant:
    def __init__(self, port, user, password):
        self.base = f"https://127.0.0.1:{port}"
        self.login = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        self.context = ssl.create_default_context()
        self.context.check_hostname = False
        self.context.verify_mode = ssl.CERT_NONE

    def ask(self, method, path, body=None, lines=None):
        data = None if body is None else json.dumps(body).encode()
        kind = "application/json"
        if lines is not None:
            data, kind = "".join(json.dumps(line) + "\n" for line in lines).encode(), "application/x-ndjson"
        request = urllib.request.Request(self.base + path, data, {"authorization": self.login, "content-type": kind}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE, context=self.context) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            text = error.read()
            raise Refused(error.code, json.loads(text) if text[:1] == b"{" else text.decode()) from None
        return json.loads(text) if text[:1] in (b"{", b"[") else text.decode()

    def some(self, path):
        """Where there are none, the server says that it has not found them."""
        try:
            return self.ask("GET", path)
        except Refused as error:
            if error.status != 404:
                raise
            return {}

    def bulk(self, index, documents):
        lines = []
        for name, document in documents:
            lines += [{"index": {"_id": name}}, document]
        told = self.ask("POST", f"/{index}/_bulk", lines=lines)
        if told["errors"]:
            raise Refused(200, [item for item in told["items"] if "error" in item["index"]][:3])

    def index(self, name, mappings=None, aliases=None, **settings):
        settings = {"number_of_replicas": 0, **{key.replace("__", "."): value for key, value in settings.items()}}
        self.ask("PUT", f"/{name}", {"settings": settings, "mappings": mappings or {}, "aliases": aliases or {}})


def fill(tenant):
    """Indices of all kinds, as in the issue's list and bug reports of tools that do the same job."""
    fields = {
        "text": {"type": "text", "fields": {"raw": {"type": "keyword", "ignore_above": 256}}},
        "word": {"type": "keyword"},
        "at": {"type": "date_nanos"},
        "bytes": {"type": "binary", "doc_values": True},
        "place": {"type": "geo_point"},
        "parts": {"type": "nested", "properties": {"name": {"type": "keyword"}, "count": {"type": "long"}}},
        "vector": {"type": "float"},
        "range": {"type": "integer_range"},
        "address": {"type": "ip"},
    }
    tenant.index("kinds", {"properties": fields}, {"all-kinds": {"filter": {"term": {"word": "a"}}}, "written": {"is_write_index": True}}, number_of_shards=3)
    chance = random.Random(7)
    tenant.bulk("kinds", (
        (f"id {number}/ü", {
            "text": f"document {number} über", "word": "ab"[number % 2], "at": f"2026-01-01T00:00:00.{number:09}Z",
            "bytes": base64.b64encode(chance.randbytes(20)).decode(), "place": {"lat": number / 100, "lon": -number / 50},
            "parts": [{"name": "x", "count": number}, {"name": "y", "count": 2}],
            "vector": [chance.random() for _ in range(4)], "range": {"gte": 1, "lt": number + 2}, "address": "::1",
            "huge": 2 ** 63 - 1, "tiny": -1e-300, "null": None, "empty": {}, "list": [[], [None]],
        } if number else {"word": "alone"}) for number in range(500)
    ))
    tenant.ask("DELETE", "/kinds/_doc/id%2017%2F%C3%BC")
    tenant.ask("POST", "/kinds/_update/id%2018%2F%C3%BC", {"doc": {"word": "changed"}})
    tenant.index("no-source", {"_source": {"enabled": False}, "properties": {"n": {"type": "long"}}})
    tenant.bulk("no-source", ((str(number), {"n": number}) for number in range(10)))
    tenant.index("empty", number_of_shards=2)
    tenant.index("closed")
    tenant.bulk("closed", [("1", {"a": 1})])
    tenant.ask("POST", "/closed/_close")
    tenant.index("read-only")
    tenant.bulk("read-only", [("1", {"a": 1})])
    tenant.ask("PUT", "/read-only/_block/write")
    tenant.index(".hidden", index__hidden=True)
    tenant.bulk(".hidden", [("1", {"a": 1})])
    tenant.index("routed", {"_routing": {"required": True}}, number_of_shards=2)
    tenant.ask("PUT", "/routed/_doc/1?routing=far", {"a": 1})
    tenant.index("versions")
    tenant.ask("PUT", "/versions/_doc/1?version=42&version_type=external", {"a": 1})
    tenant.index("sorted", {"properties": {"n": {"type": "long"}}}, index__sort__field="n", index__sort__order="desc", index__codec="best_compression")
    tenant.bulk("sorted", ((str(number), {"n": number}) for number in range(100)))
    more = {
        "any": {"type": "flat_object"}, "like": {"type": "wildcard"}, "whole": {"type": "unsigned_long"}, "suggested": {"type": "completion"},
        "other": {"type": "alias", "path": "whole"}, "days": {"type": "date_range"}, "yes": {"type": "boolean", "null_value": True}, "half": {"type": "half_float"},
    }
    tenant.index("more-kinds", {"dynamic": "strict", "_source": {"excludes": ["half"]}, "_meta": {"who": "tenant"}, "properties": more}, index__refresh_interval="-1")
    tenant.bulk("more-kinds", ((str(number), {
        "any": {"a": {"b": number}}, "like": f"a*{number}", "whole": 2 ** 64 - 1 - number, "suggested": ["one", f"{number}"],
        "days": {"gte": "2026-01-01", "lt": "2026-01-02"}, "yes": None, "half": 0.5,
    }) for number in range(20)))
    for name, block in (("closed-read-only", "read_only"), ("closed-without-writes", "write"), ("a+b%25c", "read_only_allow_delete")):
        tenant.index(name)
        tenant.bulk(name, [("1", {"a": 1})])
        tenant.ask("POST", f"/{name}/_close")
        tenant.ask("PUT", f"/{name}/_settings", {f"index.blocks.{block}": True})
    tenant.index("%C3%BCml%C3%A4ut")
    tenant.ask("PUT", "/%C3%BCml%C3%A4ut/_doc/1", {"a": 1})

    tenant.ask("PUT", "/_component_template/settings", {"template": {"settings": {"number_of_replicas": 0}}, "version": 3})
    tenant.ask("PUT", "/_index_template/logs", {
        "index_patterns": ["logs-*"], "data_stream": {}, "composed_of": ["settings"], "priority": 200, "_meta": {"who": "tenant"},
    })
    for name in ("logs-app", "logs-other"):
        tenant.ask("PUT", f"/_data_stream/{name}")
        for number in range(20):
            tenant.ask("POST", f"/{name}/_doc", {"@timestamp": f"2026-01-01T00:00:{number:02}Z", "n": number})
    tenant.ask("POST", "/logs-app/_rollover")
    tenant.ask("POST", "/logs-app/_doc", {"@timestamp": "2026-01-02T00:00:00Z", "n": 100})
    tenant.ask("POST", "/.ds-logs-app-000001/_close")
    tenant.ask("PUT", "/_template/old", {"index_patterns": ["old-*"], "order": 3, "settings": {"number_of_replicas": 0}})
    tenant.ask("PUT", "/_ingest/pipeline/none", {"description": "does nothing", "processors": []})
    tenant.ask("PUT", "/_search/pipeline/none", {"description": "does nothing"})


def change(tenant):
    """What only a backup that is made later has."""
    tenant.ask("PUT", "/kinds/_doc/new", {"word": "new"})
    tenant.ask("DELETE", "/empty")
    tenant.index("made-later")
    tenant.bulk("made-later", [("1", {"a": 1})])
    tenant.ask("POST", "/_aliases", {"actions": [{"remove": {"index": "kinds", "alias": "all-kinds"}}, {"add": {"index": "made-later", "alias": "later"}}]})
    tenant.ask("DELETE", "/_data_stream/logs-other")
    tenant.ask("DELETE", "/_ingest/pipeline/none")


PAGE = 1000


def documents(tenant, index):
    """In the order of their ids: id, routing, version, source."""
    wanted = {"size": PAGE, "version": True, "seq_no_primary_term": True, "sort": ["_doc"]}
    told = tenant.ask("POST", f"/{index}/_search", wanted)
    hits = told["hits"]["hits"]
    if len(hits) == PAGE:
        hits, told = [], tenant.ask("POST", f"/{index}/_search?scroll=1m", wanted)
        while told["hits"]["hits"]:
            hits += told["hits"]["hits"]
            told = tenant.ask("POST", "/_search/scroll", {"scroll": "1m", "scroll_id": told["_scroll_id"]})
        tenant.ask("DELETE", "/_search/scroll", {"scroll_id": told["_scroll_id"]})
    return sorted(([hit["_id"], hit.get("_routing"), hit["_version"], hit.get("_source")] for hit in hits), key=lambda document: document[:2])


def refresh(tenant, names, at_once=50):
    for begin in range(0, len(names), at_once):
        tenant.ask("POST", f"/{','.join(urllib.parse.quote(name) for name in names[begin:begin + at_once])}/_refresh")


# What each node gives an index anew.
OWN_SETTINGS = ("uuid", "creation_date", "history", "resize", "version")


def read(tenant):
    """All that a tenant can see."""
    indices = tenant.ask("GET", "/*?expand_wildcards=all&flat_settings=true")
    states = {row["index"]: row["status"] for row in tenant.ask("GET", "/_cat/indices?expand_wildcards=all&format=json")}
    refresh(tenant, [name for name, state in states.items() if state == "open" and not name.startswith((".opendistro", ".plugins"))])
    found = {}
    for name, index in indices.items():
        if name.startswith(".opendistro") or name.startswith(".plugins"):
            continue
        settings = {key: value for key, value in index["settings"].items() if key.split(".")[1] not in OWN_SETTINGS}
        found[name] = {"mappings": index["mappings"], "aliases": index["aliases"], "settings": settings, "state": states.get(name)}
        if states.get(name) == "open":
            path = urllib.parse.quote(name)
            found[name]["documents"] = documents(tenant, path)
    streams = tenant.ask("GET", "/_data_stream")["data_streams"]
    return {
        "indices": found,
        "data streams": [[stream["name"], stream["generation"], [index["index_name"] for index in stream["indices"]], stream["template"]] for stream in streams],
        "templates": tenant.ask("GET", "/_index_template"),
        "component templates": tenant.ask("GET", "/_component_template"),
        "old templates": tenant.ask("GET", "/_template"),
        "pipelines": tenant.some("/_ingest/pipeline"),
        "search pipelines": tenant.some("/_search/pipeline"),
    }


def grow(tenant):
    """What takes room, and hardly changes."""
    chance = random.Random(11)
    tenant.index("long", {"enabled": False})
    for turn in range(8):
        tenant.bulk("long", ((f"{turn}.{number}", {"noise": base64.b64encode(chance.randbytes(40_000)).decode()}) for number in range(50)))
    tenant.ask("POST", "/long/_flush")


def small(tenant):
    """100 of them, 500 in a soak."""
    tenant.ask("PUT", "/_index_template/small", {"index_patterns": ["small-*"], "template": {"settings": {"number_of_replicas": 0}}})
    lines = []
    for number in range(500 if os.environ.get("HOLDFAST_SOAK") == "1" else 100):
        lines += [{"index": {"_index": f"small-{number}", "_id": "1"}}, {"number": number}]
        if len(lines) == 100:
            told = tenant.ask("POST", "/_bulk", lines=lines)
            assert not told["errors"], told
            lines = []


def digest(tenant):
    return hashlib.sha256(json.dumps(read(tenant), sort_keys=True).encode()).hexdigest()


def delete(tenant, path):
    """While it is in a snapshot, the server refuses that."""
    until = time.time() + PATIENCE
    while True:
        try:
            return tenant.ask("DELETE", path)
        except Refused as error:
            if "snapshot_in_progress" not in str(error) or time.time() > until:
                raise
            time.sleep(0.2)


def busy(tenant):
    """Indices come and go, and documents come, for some seconds; what was acknowledged, with when it was sent and acknowledged."""
    tenant.index("ledger")
    told, until, number = [], time.time() + 15, 0
    while time.time() < until:
        number += 1
        begun = time.time()
        tenant.ask("PUT", f"/ledger/_doc/{number}", {"n": number})
        told.append([str(number), begun, time.time()])
        if number % 50 == 0:
            tenant.index(f"gone-{number}")
            tenant.ask("PUT", f"/gone-{number}/_doc/1", {"n": number})
            if number > 50:
                delete(tenant, f"/gone-{number - 50}")
    return told


def refused(action):
    try:
        action()
        return "done"
    except Refused as error:
        kind = error.told.get("error", {}) if isinstance(error.told, dict) else {}
        return kind.get("type", str(error.status)) if isinstance(kind, dict) else str(error.status)


SECRET = ".opendistro_security"


def in_bulk(tenant):
    def write():
        told = tenant.ask("POST", "/_bulk", lines=[{"index": {"_index": SECRET, "_id": "internalusers"}}, {"internalusers": "e30="}])
        error = told["items"][0]["index"].get("error")
        if error:
            raise Refused(200, {"error": error})

    return refused(write)


def ways_around(tenant):
    """Each reads, if it works, what lies in the users' index; the first that does, or how all are refused."""
    ways = {
        "a document": ("GET", f"/{SECRET}/_doc/internalusers", None),
        "many documents": ("GET", "/_mget", {"docs": [{"_index": SECRET, "_id": "internalusers"}]}),
        "a search": ("GET", f"/{SECRET}/_search", {}),
        "a search for all that is hidden": ("GET", "/.open*/_search?expand_wildcards=all", {}),
        "its words": ("GET", f"/{SECRET}/_termvectors/internalusers?fields=*", None),
        "an explanation": ("GET", f"/{SECRET}/_explain/internalusers", {"query": {"match_all": {}}}),
        "a lookup of words": ("GET", "/_search", {"query": {"terms": {"a": {"index": SECRET, "id": "internalusers", "path": "internalusers"}}}}),
        "what is like it": ("GET", "/_search", {"query": {"more_like_this": {"fields": ["internalusers"], "like": [{"_index": SECRET, "_id": "internalusers"}], "min_term_freq": 1, "min_doc_freq": 1}}}),
    }
    try:  # a snapshot of it may be held; whether anything can be read by that counts
        held = tenant.ask("POST", f"/{SECRET}/_search/point_in_time?keep_alive=1m")["pit_id"]
        ways["a point in time"] = ("POST", "/_search", {"pit": {"id": held}, "size": 10})
    except Refused:
        pass
    for what, (method, path, body) in ways.items():
        try:
            told = json.dumps(tenant.ask(method, path, body))
        except Refused:
            continue
        if "eyJ" in told:  # base64 of JSON
            return f"{what}: {told[:200]}"
    return "security_exception"


def sweep(tenant):
    """All that a tenant can name is closed and deleted, as a careless owner does; what the server said to it."""
    tenant.index("one")
    tenant.index(".two", index__hidden=True)
    tenant.index("template-for-all")
    tenant.ask("PUT", "/_index_template/all", {"index_patterns": ["*"], "priority": 500, "template": {"settings": {"number_of_shards": 7, "index.blocks.write": True}}})
    return [refused(lambda: tenant.ask(method, path)) for method, path in (
        ("POST", "/_all/_close?expand_wildcards=all"), ("POST", "/*/_close?expand_wildcards=all"), ("POST", "/.*/_close?expand_wildcards=all"),
        ("PUT", "/*/_block/metadata?expand_wildcards=all"), ("DELETE", "/_all?expand_wildcards=all"), ("DELETE", "/*?expand_wildcards=all"),
        ("DELETE", "/.*?expand_wildcards=all"), ("DELETE", "/*"),
    )]


def nowhere(tenant):
    """An index that no node may have."""
    tenant.ask("PUT", "/nowhere?wait_for_active_shards=0", {"settings": {"number_of_replicas": 0, "index.routing.allocation.require._name": "nobody"}})


SECRETIVE = ("secretive", "secretive-and-closed")


def somewhere(tenant):
    """Indices whose description nobody may read."""
    tenant.ask("DELETE", "/nowhere")
    for name in SECRETIVE:
        tenant.index(name)
        tenant.bulk(name, [("1", {"a": 1})])
    tenant.ask("POST", f"/{SECRETIVE[1]}/_close")
    for name in SECRETIVE:
        tenant.ask("PUT", f"/{name}/_settings", {"index.blocks.metadata": True})


def frank(tenant):
    for name in SECRETIVE:
        tenant.ask("PUT", f"/{name}/_settings", {"index.blocks.metadata": None})


def trespass(tenant):
    """What a tenant must not do, each with what the server says to it."""
    ask = tenant.ask
    seen = ask("GET", "/_all/_search?expand_wildcards=all&size=1000")
    users = [hit for hit in seen["hits"]["hits"] if hit["_index"].startswith(".opendistro")]
    return {
        "a repository": refused(lambda: ask("PUT", "/_snapshot/mine", {"type": "fs", "settings": {"location": "/tmp"}})),
        "a repository elsewhere": refused(lambda: ask("PUT", "/_snapshot/mine", {"type": "url", "settings": {"url": "http://127.0.0.1/"}})),
        "repositories": refused(lambda: ask("GET", "/_snapshot")),
        "the agent's snapshots": refused(lambda: ask("GET", "/_snapshot/holdfast/_all")),
        "the agent's repository gone": refused(lambda: ask("DELETE", "/_snapshot/holdfast")),
        "a restore": refused(lambda: ask("POST", "/_snapshot/holdfast/x/_restore")),
        "the cluster's settings": refused(lambda: ask("PUT", "/_cluster/settings", {"persistent": {"cluster.max_shards_per_node": 1}})),
        "the users": refused(lambda: ask("GET", "/_plugins/_security/api/internalusers")),
        "a user": refused(lambda: ask("PUT", "/_plugins/_security/api/internalusers/me", {"password": "tenant-Xq7-Lm2-93vK-2"})),
        "a role": refused(lambda: ask("PUT", "/_plugins/_security/api/roles/mine", {"cluster_permissions": ["*"]})),
        "the users' index": refused(lambda: ask("DELETE", "/.opendistro_security")),
        "the users' index, by a document": refused(lambda: ask("PUT", "/.opendistro_security/_doc/internalusers", {"internalusers": "e30="})),
        "the users' index, closed": refused(lambda: ask("POST", "/.opendistro_security/_close")),
        "the users' index, by an alias": refused(lambda: ask("POST", "/_aliases", {"actions": [{"add": {"index": ".opendistro_security", "alias": "mine"}}]})),
        "the users' index, cloned": refused(lambda: ask("PUT", "/.opendistro_security/_clone/mine", {})),
        "the users' index, shrunk": refused(lambda: ask("PUT", "/.opendistro_security/_shrink/mine", {})),
        "the users' index, set up": refused(lambda: ask("PUT", "/.opendistro_security/_settings", {"index.hidden": False})),
        "the users' index, blocked": refused(lambda: ask("PUT", "/.opendistro_security/_block/read")),
        "the users' index, mapped": refused(lambda: ask("PUT", "/.opendistro_security/_mapping", {"properties": {"mine": {"type": "keyword"}}})),
        "the users' index, split": refused(lambda: ask("PUT", "/.opendistro_security/_split/mine", {"settings": {"index.number_of_shards": 2}})),
        "the users' index, in bulk": in_bulk(tenant),
        "the nodes' certificates": refused(lambda: ask("GET", "/_plugins/_security/api/ssl/certs")),
        "the node ends": refused(lambda: ask("POST", "/_cluster/voting_config_exclusions?node_names=holdfast")),
        "users seen": "security_exception" if not users else "done",
        "users seen by ways around": ways_around(tenant),
        "an index": refused(lambda: ask("PUT", f"/by-{base64.b16encode(tenant.login[-6:].encode()).decode().lower()}", {})),
    }


def note(tenant):
    """Writes one document, and says what the server said to it; and how many are there."""
    answer = refused(lambda: tenant.ask("POST", "/notes/_doc", {"a": 1}))
    try:
        tenant.ask("POST", "/notes/_refresh")
        there = tenant.ask("GET", "/notes/_count")["count"]
    except Refused:
        there = 0
    return {"answer": answer, "there": there}


def main():
    port, user, password, command = sys.argv[1:]
    json.dump(globals()[command](Tenant(port, user, password)), sys.stdout)


main()
