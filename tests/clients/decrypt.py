#!/usr/bin/env python3
"""Decrypts the latest version of an encrypted index as FORMAT.md says it, without Annvil: `decrypt.py INDEX OUT`, the key in
base64 in the variable KEY. Needs the package `cryptography`."""

import base64
import json
import os
import pathlib
import struct
import sys

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

BLOCK, TAG = 65536, 16
KEY = base64.b64decode(os.environ["KEY"])


def derived(context: bytes) -> bytes:
    return HKDF(hashes.SHA256(), 32, b"annvil key 1\n", context).derive(KEY)


def text(value: str) -> bytes:
    return struct.pack("<I", len(value.encode())) + value.encode()


def opened(context: bytes, sealed: bytes) -> bytes:
    cipher, plain = AESGCM(derived(context)), b""
    blocks = -(-len(sealed) // (BLOCK + TAG))
    for number in range(blocks):
        block = sealed[number * (BLOCK + TAG) : (number + 1) * (BLOCK + TAG)]
        nonce = bytes(7) + struct.pack(">I", number) + bytes([number + 1 == blocks])
        plain += cipher.decrypt(nonce, block, context)
    return plain


def main(index: pathlib.Path, out: pathlib.Path) -> None:
    stored = json.loads(max((index / "v").glob("*.json")).read_bytes())["manifest"]
    encryption, folders = stored["encryption"], stored["folders"]
    assert encryption["fingerprint"] == derived(b"annvil fingerprint 1\n")[:16].hex(), "another key"
    context = b"annvil manifest 1\n" + text(stored["index_name"]) + struct.pack("<I", len(folders))
    context += b"".join(bytes.fromhex(folder["id"]) for folder in folders) + bytes.fromhex(encryption["salt"])
    manifest = json.loads(opened(context, base64.b64decode(encryption["private"])))
    head = ["index_name", "version", "created_unix_ms", "publish_id", "rolled_back_from", "restores"]
    manifest |= {field: stored[field] for field in head if field in stored}

    out.mkdir()
    (out / "manifest.json").write_text(json.dumps(manifest))
    plain = manifest["segments"] + ([manifest["tombstones"]] if "tombstones" in manifest else [])
    for segment, folder in zip(plain, folders, strict=True):
        for file, there in zip(segment["files"], folder["files"], strict=True):
            context = b"annvil file 1\n" + bytes.fromhex(segment["id"]) + text(file["name"])
            context += struct.pack("<Q", file["size_bytes"]) + bytes.fromhex(file["blake3"])
            sealed = (index / "seg" / folder["id"] / there["name"]).read_bytes()
            (out / file["name"]).write_bytes(opened(context, sealed))


if __name__ == "__main__":
    main(*map(pathlib.Path, sys.argv[1:]))
