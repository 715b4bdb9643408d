#!/usr/bin/env python3
"""Derives the vectors of key-schedule-v1.json from the words of meshsec.toml(5).

Shares no code with meshsec: HKDF (RFC 5869) is spelled out over the standard
library's HMAC. Prints the whole file.
"""

import hashlib
import hmac
import json


def hkdf(ikm, salt, info, length):
    prk = hmac.new(salt or bytes(32), ikm, hashlib.sha256).digest()
    okm, block, counter = b"", b"", 1
    while len(okm) < length:
        block = hmac.new(prk, block + info + bytes([counter]), hashlib.sha256).digest()
        okm, counter = okm + block, counter + 1
    return okm[:length]


KEY_LEN = {"aes256-gcm": 32, "aes128-gcm": 16, "chacha20-poly1305": 32}


def short(value):
    return value.to_bytes(2, "big")


def session(mesh_key, mesh, a, b):
    info = b"meshsec/v1 psk" + hashlib.sha256(mesh.encode()).digest()
    return hkdf(mesh_key, b"", info + short(min(a, b)) + short(max(a, b)), 32)


def keymat(secret, source, target, generation, cipher):
    info = b"meshsec/v1 esp" + short(source) + short(target) + cipher.encode()
    return hkdf(secret, generation.to_bytes(8, "big"), info, KEY_LEN[cipher] + 4)


def fingerprint(data):
    return "sha256:" + hashlib.sha256(b"meshsec/v1 fingerprint" + data).hexdigest()[:16]


def spi(generation, source, target):
    return 0x80000000 | (generation % 128) << 24 | source << 12 | target


def vector(mesh_key, mesh, source, target, generation, cipher):
    secret = session(mesh_key, mesh, source, target)
    key = keymat(secret, source, target, generation, cipher)
    return {
        "mesh_key": mesh_key.hex(),
        "mesh": mesh,
        "from": source,
        "to": target,
        "generation": generation,
        "cipher": cipher,
        "session": secret.hex(),
        "keymat": key.hex(),
        "fingerprint": fingerprint(key),
        "spi": f"{spi(generation, source, target):#010x}",
    }


COUNTING = bytes(range(32))
CASES = [
    (COUNTING, "lab", 1, 2, 1, "aes256-gcm"),
    (COUNTING, "lab", 2, 1, 1, "aes256-gcm"),
    (COUNTING, "lab", 1, 2, 0, "aes256-gcm"),
    (COUNTING, "lab", 1, 2, 2, "aes256-gcm"),
    (COUNTING, "lab", 1, 2, 1, "aes128-gcm"),
    (COUNTING, "lab", 1, 2, 1, "chacha20-poly1305"),
    (COUNTING, "lab-2", 1, 2, 1, "aes256-gcm"),
    (COUNTING, "lab", 0, 4095, 129, "aes256-gcm"),
    (COUNTING, "lab", 4095, 0, 2**63 - 2, "aes128-gcm"),
    (b"\xff" * 32, "a" * 32, 256, 255, 65536, "aes256-gcm"),
]

print(json.dumps([vector(*case) for case in CASES], indent=2))
