#!/usr/bin/env python3
"""Open any sealed object of Holdfast, format version 1, with nothing but AES-GCM and HKDF.

    open_object.py --key-file KEY --organization ID --service ID --lineage ID --owner ID --kind KIND --name NAME \\
        < sealed > plain

KEY holds the data key as 64 hex digits. Nothing of a chunk is written before it is authenticated; only exit code 0
says that the object is whole. docs/format.md explains every step.
"""
import argparse
import hmac
import pathlib
import sys

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

FIELDS = ("organization", "service", "lineage", "owner", "kind", "name")
CHUNK = 16384 + 16  # plaintext and tag


def fields_encoded(*fields: bytes) -> bytes:
    return b"".join(len(field).to_bytes(4, "big") + field for field in fields)


def context(header: bytes, what: dict) -> bytes:
    return fields_encoded(header, *(what[field].encode() for field in FIELDS))


def open_object(key: bytes, what: dict, read, write) -> None:
    """`read(n)` gives n bytes, fewer only at the end; `write(bytes)` takes plaintext. Raises when anything is wrong."""
    header, salt, commitment = read(32), read(24), read(32)
    if header[:16] != b"HOLDFAST" + bytes([0, 1]) + bytes(6):
        raise ValueError("no sealed object of format version 1")
    info = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0" + salt + context(header, what)
    derived = HKDFExpand(SHA512(), 32 + 12 + 32, info).derive(key)
    if not hmac.compare_digest(derived[44:], commitment):
        raise ValueError("not sealed with this key as this object")
    aead, base_nonce = AESGCM(derived[:32]), int.from_bytes(derived[32:44], "big")
    number, full = 0, True
    while full:  # every chunk but the last is full, and the last never is
        chunk = read(CHUNK)
        full = len(chunk) == CHUNK
        write(aead.decrypt((base_nonce ^ number).to_bytes(12, "big"), chunk, None))
        number += 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--key-file", required=True, type=pathlib.Path)
    for field in FIELDS:
        parser.add_argument(f"--{field}", required=True)
    args = parser.parse_args()
    try:
        key = bytes.fromhex(args.key_file.read_text())
        open_object(key, vars(args), sys.stdin.buffer.read, sys.stdout.buffer.write)
    except Exception as error:
        sys.exit(f"cannot open the object: {error or type(error).__name__}")
