#!/usr/bin/env python3
"""Writes the vectors beside this file anew from a clone of Wycheproof.

Usage: reduce.py CLONE COMMIT

Kept are the members that a test needs, and the number `tcId` by which a vector is found in its
origin. Of AES-GCM only nonces of 96 bits and keys of 128 and 256 bits are kept, and of
ChaCha20-Poly1305 nonces of 96 bits: ESP has no others.
"""

import json
import pathlib
import subprocess
import sys

CLONE, COMMIT = sys.argv[1:]
AEAD = ["tcId", "flags", "key", "iv", "aad", "msg", "ct", "tag", "result"]
FILES = {
    "x25519": ["tcId", "flags", "public", "private", "shared", "result"],
    "hkdf_sha256": ["tcId", "flags", "ikm", "salt", "info", "size", "okm", "result"],
    "aes_gcm": AEAD,
    "chacha20_poly1305": AEAD,
}


def of_esp(group):
    """Whether an algorithm of ESP has these sizes. Groups of other algorithms have no sizes of IVs."""
    return group.get("ivSize", 96) == 96 and (group["type"] != "AeadTest" or group["keySize"] != 192)


def written(name, members):
    path = f"testvectors_v1/{name}_test.json"
    shown = subprocess.run(
        ["git", "-C", CLONE, "show", f"{COMMIT}:{path}"], check=True, capture_output=True
    )
    groups = json.loads(shown.stdout)["testGroups"]
    tests = [test for group in groups if of_esp(group) for test in group["tests"]]
    lines = [json.dumps({member: test[member] for member in members}) for test in tests]
    head = json.dumps(
        {
            "origin": f"https://github.com/C2SP/wycheproof/blob/{COMMIT}/{path}",
            "licence": "Apache-2.0",
            "changes": "reduced by reduce.py",
        }
    )
    return head[:-1] + ', "tests": [\n' + ",\n".join(lines) + "\n]}\n"


for name, members in FILES.items():
    target = pathlib.Path(__file__).with_name(f"{name}.json")
    target.write_text(written(name, members))
