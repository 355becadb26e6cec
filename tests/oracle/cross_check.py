#!/usr/bin/env python3
"""Do what holdfast-seal does, with other people's code, and write down the outcome: cross_check.py FOLDER

The tests of holdfast-seal write FOLDER/request.json and compare FOLDER/answer.json with what they did themselves.
Objects are opened twice, by docs/open_object.py and by cryptography's own Cobblestone-256; an outcome is the SHA-256 of what
came out, or null when it was refused. Keys in the request are made up for the test.
"""
import hashlib
import io
import json
import os
import pathlib
import sys
import uuid

from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "docs"))
import open_object as documented  # noqa: E402
from open_object import SUITE, read_line, recover_key  # noqa: E402

FIELDS = ("organization", "service", "lineage", "owner", "kind", "name")
folder = pathlib.Path(sys.argv[1])
request = json.loads((folder / "request.json").read_text())


def outcome(call, *args):
    """What `call` gave, as a hash; null when it refused."""
    try:
        return hashlib.sha256(call(*args)).hexdigest()
    except Exception:
        return None


def context(header, what):
    return documented.context(header, *(what[field] for field in FIELDS))


def identity(what):
    return documented.identity(what["key_id"], *(what[f] for f in ("organization", "service", "lineage", "purpose")))


def by_primitives(key, what, sealed):
    plain = io.BytesIO()
    if not documented.open_object(key, tuple(what[f] for f in FIELDS), io.BytesIO(sealed).read, plain.write):
        raise ValueError("not sealed with this key as this object")
    return plain.getvalue()


def by_cobblestone(key, what, sealed):
    decryptor = Cobblestone256Decryptor(key, context(sealed[:32], what))
    return decryptor.update(sealed[32:]) + decryptor.finalize()


def seal(key, key_id, what, plain):
    header = b"HOLDFAST" + bytes([0, 1]) + bytes(6) + uuid.UUID(key_id).bytes
    encryptor = Cobblestone256Encryptor(key, context(header, what))
    return header + encryptor.update(plain) + encryptor.finalize()


def kek_unwrap(kek, version, what, wrapped):
    if wrapped[:4] != b"HFWK" or wrapped[8:12] != version.to_bytes(4, "big"):
        raise ValueError("wrapped by another key-encryption key")
    return AESGCM(kek).decrypt(wrapped[12:24], wrapped[24:], wrapped[:12] + identity(what))


def kek_wrap(kek, version, what, key):
    header, nonce = b"HFWK\x01\x01\0\0" + version.to_bytes(4, "big"), os.urandom(12)
    return header + nonce + AESGCM(kek).encrypt(nonce, key, header + identity(what))


def recovery_wrap(line, what, key):
    public = read_line("HFPUB1", line)
    header = b"HFRK\x01\0\0\0" + hashlib.sha256(public).digest()[:8]
    recipient = X25519PublicKey.from_public_bytes(public)
    return header + SUITE.encrypt(key, recipient, info=header + identity(what))


def hexed(item, *names):
    return [bytes.fromhex(item[name]) for name in names]


answer = {"primitives": [], "cobblestone": [], "kek_unwraps": [], "recovery_unwraps": []}
for item in request["opens"]:
    args = (bytes.fromhex(item["key"]), item["context"], (folder / item["file"]).read_bytes())
    answer["primitives"].append(outcome(by_primitives, *args))
    answer["cobblestone"].append(outcome(by_cobblestone, *args))
for item in request["seals"]:
    sealed = seal(bytes.fromhex(item["key"]), item["key_id"], item["context"], (folder / item["plain"]).read_bytes())
    (folder / item["sealed"]).write_bytes(sealed)
for item in request["kek_unwraps"]:
    kek, wrapped = hexed(item, "kek", "wrapped")
    answer["kek_unwraps"].append(outcome(kek_unwrap, kek, item["version"], item["identity"], wrapped))
for item in request["recovery_unwraps"]:
    answer["recovery_unwraps"].append(outcome(recover_key, item["line"], identity(item["identity"]), *hexed(item, "wrapped")))
answer["kek_wraps"] = [
    kek_wrap(bytes.fromhex(i["kek"]), i["version"], i["identity"], bytes.fromhex(i["key"])).hex()
    for i in request["kek_wraps"]
]
answer["recovery_wraps"] = [
    recovery_wrap(i["line"], i["identity"], bytes.fromhex(i["key"])).hex() for i in request["recovery_wraps"]
]
(folder / "answer.json").write_text(json.dumps(answer))
