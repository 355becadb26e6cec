#!/usr/bin/env python3
"""Open any object of a Holdfast bucket with the recovery kit and nothing of Holdfast; docs/format.md explains each step.

    open_object.py --kit FILE --object FILE --name NAME --wrapped-key FILE [--backup ID] [--lineage ID] > plain
    open_object.py --manifest FILE --object FILE --name NAME > plain

NAME is the object's whole name in the bucket, v1/ORGANIZATION/SERVICE/...; the FILEs are copies of the recovery kit, the
object, and v1/ORGANIZATION/SERVICE/key/KEY/recovery. Which KEY that is, this says when --wrapped-key is left out.
A blob that backups share has its key in each of their manifests: open one first, and give it as --manifest.
--backup is for the files of pgBackRest's backups, --lineage for descriptions: their names do not tell.
Nothing of a chunk is written before it is authenticated; only exit code 0 says that the object is whole.
"""
import argparse, base64, hashlib, hmac, itertools, json, pathlib, sys, uuid
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
PURPOSES = ("backup", "epoch", "repository", "coverage")
KINDS = {"backup": ("backup-file",), "repository": ("backup-file", "log", "repository-info"), "info": ("repository-info",), "description": ("service",)}


def fields(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def identity(key_id: str, *names: str) -> bytes:  # organization, service, lineage, purpose
    return fields(b"holdfast/key-identity/1", uuid.UUID(key_id).bytes, *(name.encode() for name in names))


def context(header: bytes, *names: str) -> bytes:  # organization, service, lineage, owner, kind, name
    return fields(header, *(name.encode() for name in names))


def read_line(label: str, text: str) -> bytes:
    """The key in a recovery kit's line, forgiving case, dashes, spaces and letters that look like digits."""
    digits = "".join(text.split()).replace("-", "").upper().partition(label)[2][:56]
    value = 0
    for digit in digits.translate(str.maketrans("OIL", "011")):
        value = value << 5 | "0123456789ABCDEFGHJKMNPQRSTVWXYZ".index(digit)
    key, checksum = value.to_bytes(35, "big")[:32], value.to_bytes(35, "big")[32:]
    if len(digits) != 56 or hashlib.sha256(label.encode() + key).digest()[:3] != checksum:
        raise ValueError(f"no line {label}-... that is whole: a character is missing or was misread")
    return key


def recover_key(line: str, whose: bytes, wrapped: bytes) -> bytes:
    private = X25519PrivateKey.from_private_bytes(read_line("HFPRIV1", line))
    public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    if len(wrapped) != 96 or wrapped[:16] != b"HFRK\x01\0\0\0" + hashlib.sha256(public).digest()[:8]:
        raise ValueError("no data key that was wrapped for this recovery key")
    return SUITE.decrypt(wrapped[16:], private, info=wrapped[:16] + whose)


def open_object(key: bytes, what: tuple, read, write) -> bool:
    """False, with nothing written, when it is not sealed with this key as this. Raises when anything else is wrong."""
    header, salt, commitment = read(32), read(24), read(32)
    if header[:16] != b"HOLDFAST" + bytes([0, 1]) + bytes(6):
        raise ValueError("no sealed object of format version 1")
    info = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0" + salt + context(header, *what)
    derived = HKDFExpand(SHA512(), 32 + 12 + 32, info).derive(key)
    if not hmac.compare_digest(derived[44:], commitment):
        return False
    aead, base_nonce, full = AESGCM(derived[:32]), int.from_bytes(derived[32:44], "big"), True
    for number in itertools.count():  # every chunk but the last is full, and the last never is
        if not full:
            return True
        chunk = read(16384 + 16)
        full = len(chunk) == 16384 + 16
        write(aead.decrypt((base_nonce ^ number).to_bytes(12, "big"), chunk, None))


def shared_key(manifest: bytes, name: str) -> bytes:
    for entry in json.loads(manifest)["objects"]:
        if entry["name"] == name:
            return base64.b64decode(entry["shared"]["key"])
    raise ValueError("the manifest does not name it")


def wrapped_key(args, key_id: str, organization: str, service: str, lineage: str) -> bytes:
    for purpose in PURPOSES:  # what a key is for is not stored with it: only the right purpose opens it
        try:
            whose = identity(key_id, organization, service, lineage or args.lineage, purpose)
            return recover_key(args.kit.read_text(), whose, args.wrapped_key.read_bytes())
        except ValueError:
            raise
        except Exception as error:
            if purpose == PURPOSES[-1]:
                raise ValueError("the wrapped key is another object's, or damaged") from error


def main(args):
    with args.object.open("rb") as sealed:
        key_id = str(uuid.UUID(bytes=sealed.read(32)[16:]))
    if not args.wrapped_key and not args.manifest:
        return print(key_id)
    _, organization, service, lineage, *rest = args.name.split("/")
    if lineage == "description":  # it belongs to no lineage, but its key does
        lineage, rest = "", [lineage, *rest]
    if args.manifest:
        key = shared_key(args.manifest.read_bytes(), "/".join(rest))
    else:
        key = wrapped_key(args, key_id, organization, service, lineage)
    owners = (args.backup or rest[1 if rest[0] == "backup" else -1], key_id)  # a manifest's name ends with its backup
    for kind, owner in itertools.product(KINDS.get(rest[0], (rest[0],)), owners):  # the commitment tells which it is
        with args.object.open("rb") as sealed:
            what = (organization, service, lineage, owner, kind, "/".join(rest))
            if open_object(key, what, sealed.read, sys.stdout.buffer.write):
                return
    raise ValueError("it was not sealed under this name")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for flag in ("--kit", "--object", "--wrapped-key", "--manifest"):
        parser.add_argument(flag, required=flag == "--object", type=pathlib.Path)
    for flag in ("--name", "--backup", "--lineage"):
        parser.add_argument(flag, required=flag == "--name", default="")
    try:
        main(parser.parse_args())
    except Exception as error:
        sys.exit(f"cannot open the object: {error or type(error).__name__}")
