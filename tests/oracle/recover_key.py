#!/usr/bin/env python3
"""Unwrap a data key of Holdfast with the recovery kit alone.

    recover_key.py --kit-file KIT --key-id UUID --organization ID --service ID --lineage ID --purpose P < wrapped

KIT holds the kit's private line (HFPRIV1-...). Prints the data key as 64 hex digits, which is what open_object.py
reads. docs/format.md explains every step.
"""
import argparse
import hashlib
import pathlib
import sys
import uuid

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from open_object import fields_encoded

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def identity(what: dict) -> bytes:
    names = (what[field].encode() for field in ("organization", "service", "lineage", "purpose"))
    return fields_encoded(b"holdfast/key-identity/1", uuid.UUID(what["key_id"]).bytes, *names)


def read_line(label: str, line: str) -> bytes:
    """The 32 bytes of a kit line, forgiving case, dashes, spaces and look-alikes."""
    text = "".join(line.split()).replace("-", "").upper()
    if not text.startswith(label) or len(text) != len(label) + 56:
        raise ValueError(f"the line must be {label} and 56 characters")
    digits = text[len(label):].translate(str.maketrans("OIL", "011"))
    value = 0
    for digit in digits:
        value = value << 5 | ALPHABET.index(digit)
    key, checksum = value.to_bytes(35, "big")[:32], value.to_bytes(35, "big")[32:]
    if hashlib.sha256(label.encode() + key).digest()[:3] != checksum:
        raise ValueError("the line's checksum does not fit: a character was misread")
    return key


def recover_key(line: str, what: dict, wrapped: bytes) -> bytes:
    private = X25519PrivateKey.from_private_bytes(read_line("HFPRIV1", line))
    public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    if len(wrapped) != 96 or wrapped[:8] != b"HFRK\x01\0\0\0":
        raise ValueError("no data key wrapped for a recovery key")
    if wrapped[8:16] != hashlib.sha256(public).digest()[:8]:
        raise ValueError("wrapped for another recovery key")
    return SUITE.decrypt(wrapped[16:], private, info=wrapped[:16] + identity(what))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kit-file", required=True, type=pathlib.Path)
    for field in ("key-id", "organization", "service", "lineage", "purpose"):
        parser.add_argument(f"--{field}", required=True)
    args = parser.parse_args()
    try:
        print(recover_key(args.kit_file.read_text(), vars(args), sys.stdin.buffer.read()).hex())
    except Exception as error:
        sys.exit(f"cannot unwrap the key: {error or type(error).__name__}")
