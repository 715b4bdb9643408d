#!/usr/bin/env python3
"""Derives cases of docs/testkit from the words of meshsec.toml(5).

Shares no code with meshsec: HKDF (RFC 5869) and X25519 (RFC 7748) are those of
the package `cryptography`. Prints the whole file that is its argument:
key-schedule, ratchet, spi or fingerprint.
"""

import hashlib
import json
import sys

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

KEY_LEN = {"aes256-gcm": 32, "aes128-gcm": 16, "chacha20-poly1305": 32}


def hkdf(ikm, salt, info, length):
    return HKDF(hashes.SHA256(), length, salt or None, info).derive(ikm)


def short(value):
    return value.to_bytes(2, "big")


def mesh_id(mesh):
    return hashlib.sha256(mesh.encode()).digest()


def keymat(secret, source, target, generation, cipher):
    info = b"meshsec/v1 esp" + short(source) + short(target) + cipher.encode()
    return hkdf(secret, generation.to_bytes(8, "big"), info, KEY_LEN[cipher] + 4)


def fingerprint(data):
    return "sha256:" + hashlib.sha256(b"meshsec/v1 fingerprint" + data).hexdigest()[:16]


def spi(generation, source, target):
    return 0x80000000 | (generation % 32) << 26 | source << 12 | target


def results(secret, source, target, generation, cipher):
    key = keymat(secret, source, target, generation, cipher)
    return {
        "session": secret.hex(),
        "keymat": key.hex(),
        "fingerprint": fingerprint(key),
        "spi": f"{spi(generation, source, target):#010x}",
    }


def sa(mesh, source, target, generation, cipher):
    return {
        "mesh": mesh,
        "from": source,
        "to": target,
        "generation": generation,
        "cipher": cipher,
    }


# mesh_key


def session_of_mesh_key(mesh_key, mesh, a, b):
    info = b"meshsec/v1 psk" + mesh_id(mesh) + short(min(a, b)) + short(max(a, b))
    return hkdf(mesh_key, b"", info, 32)


def with_mesh_key(mesh_key, *of):
    secret = session_of_mesh_key(mesh_key, *of[:3])
    return {"mesh_key": mesh_key.hex()} | sa(*of) | results(secret, *of[1:])


COUNTING = bytes(range(32))
# Of both ways that begin with a mesh key.
SAME = [
    (COUNTING, "lab", 1, 2, 1, "aes256-gcm"),
    (COUNTING, "lab", 2, 1, 1, "aes256-gcm"),
    (COUNTING, "lab", 1, 2, 0, "aes256-gcm"),
    (COUNTING, "lab", 1, 2, 2, "aes256-gcm"),
    (COUNTING, "lab", 1, 2, 1, "aes128-gcm"),
    (COUNTING, "lab", 1, 2, 1, "chacha20-poly1305"),
    (COUNTING, "lab-2", 1, 2, 1, "aes256-gcm"),
    (COUNTING, "lab", 0, 4095, 129, "aes256-gcm"),
]
MESH_KEY = SAME + [
    (COUNTING, "lab", 4095, 0, 2**63 - 2, "aes128-gcm"),
    (b"\xff" * 32, "a" * 32, 256, 255, 65536, "aes256-gcm"),
    (COUNTING, "lab", 1, 2, 2**32 + 5, "chacha20-poly1305"),
]


# private_key


def public(private):
    key = X25519PrivateKey.from_private_bytes(private).public_key()
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def session_of_private_key(own, own_id, peer, peer_id, psk, mesh):
    """What the owner of the private key `own` shares with that of the public key `peer`."""
    shared = X25519PrivateKey.from_private_bytes(own).exchange(
        X25519PublicKey.from_public_bytes(peer)
    )
    lo, hi = (public(own), peer) if own_id < peer_id else (peer, public(own))
    info = b"meshsec/v1 x25519" + mesh_id(mesh) + lo + hi
    return shared, hkdf(shared + (psk or bytes(32)), b"", info, 32)


def with_private_key(sender, receiver, psk, *of):
    mesh, source, target = of[:3]
    shared, secret = session_of_private_key(
        sender, source, public(receiver), target, psk, mesh
    )
    other = session_of_private_key(receiver, target, public(sender), source, psk, mesh)
    assert other == (shared, secret), "both ends have the same"
    keys = {
        "from_private_key": sender.hex(),
        "from_public_key": public(sender).hex(),
        "to_private_key": receiver.hex(),
        "to_public_key": public(receiver).hex(),
        "psk": psk.hex() if psk else None,
        "x25519": shared.hex(),
    }
    return keys | sa(*of) | results(secret, *of[1:])


# The keys of RFC 7748, section 6.1; they are not clamped.
ALICE = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
BOB = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
PRIVATE_KEY = [
    (ALICE, BOB, None, "lab", 1, 2, 1, "aes256-gcm"),
    (BOB, ALICE, None, "lab", 2, 1, 1, "aes256-gcm"),
    (ALICE, BOB, None, "lab", 2, 1, 1, "aes256-gcm"),
    (ALICE, BOB, COUNTING, "lab", 1, 2, 1, "aes256-gcm"),
    (ALICE, BOB, COUNTING, "lab", 1, 2, 0, "aes256-gcm"),
    (ALICE, BOB, COUNTING, "lab", 1, 2, 1, "aes128-gcm"),
    (ALICE, BOB, COUNTING, "lab", 1, 2, 1, "chacha20-poly1305"),
    (ALICE, BOB, None, "lab-2", 1, 2, 1, "chacha20-poly1305"),
    (ALICE, BOB, COUNTING, "lab", 4095, 0, 2**32 + 5, "aes256-gcm"),
    (COUNTING, b"\xff" * 32, ALICE, "a" * 32, 256, 255, 2**63 - 2, "aes128-gcm"),
]

# ratchet


def chains(mesh_key, mesh, generations):
    """The chain keys of these generations."""
    chain = hkdf(mesh_key, b"", b"meshsec/v1 ratchet init" + mesh_id(mesh), 32)
    found = {}
    for generation in range(max(generations) + 1):
        if generation in generations:
            found[generation] = chain
        chain = hkdf(chain, b"", b"meshsec/v1 ratchet step" + mesh_id(mesh), 32)
    return found


def with_ratchet(mesh_key, chain, *of):
    mesh, source, target = of[:3]
    lo, hi = min(source, target), max(source, target)
    info = b"meshsec/v1 ratchet pair" + mesh_id(mesh) + short(lo) + short(hi)
    secret = hkdf(chain, b"", info, 32)
    return {"mesh_key": mesh_key.hex()} | sa(*of) | {"ck": chain.hex()} | results(secret, *of[1:])


def ratchets(cases):
    meshes = {case[:2] for case in cases}
    all_chains = {
        (key, mesh): chains(key, mesh, {case[4] for case in cases if case[:2] == (key, mesh)})
        for key, mesh in meshes
    }
    return [with_ratchet(case[0], all_chains[case[:2]][case[4]], *case[1:]) for case in cases]


RATCHET = SAME + [
    (COUNTING, "lab", 4095, 0, 70000, "aes128-gcm"),
    (b"\xff" * 32, "a" * 32, 256, 255, 5000, "aes256-gcm"),
]


def key_schedule():
    ways = {
        "mesh_key": [with_mesh_key(*case) for case in MESH_KEY],
        "private_key": [with_private_key(*case) for case in PRIVATE_KEY],
        "ratchet": ratchets(RATCHET),
    }
    return [{"way": way} | case for way, cases in ways.items() for case in cases]


# The ratchet's file


def ratchet_file(mesh, generation, chain):
    text = f"meshsec ratchet 1\nmesh {mesh}\ngeneration {generation}\nchain {chain.hex()}\n"
    digest = hashlib.sha256(b"meshsec/v1 ratchet file" + text.encode()).hexdigest()
    return f"{text}checksum {digest[:16]}\n"


def refused_files():
    """Files in which one thing is wrong."""
    good = ratchet_file("lab", 41, bytes(range(32)))
    edits = {
        "title": good.replace("ratchet 1", "ratchet 2"),
        "mesh": good.replace("mesh lab", "mesh Lab"),
        "generation": good.replace("generation 41", "generation forty-one"),
        "chain": good.replace("chain 00", "chain 0"),
        "checksum": good.replace("generation 41", "generation 42"),
    }
    more = {
        "checksum": [good[:-1], good + "\n", good.replace("\n", "\r\n", 1), good.replace(" 41", " 041")],
        "title": ["", good.upper()],
    }
    cases = [(wrong, text) for wrong, text in edits.items()]
    cases += [(wrong, text) for wrong, texts in more.items() for text in texts]
    return [{"kind": "refused", "file": text, "wrong": wrong} for wrong, text in cases]


def ratchet():
    cases = []
    for mesh_key, mesh, generations in [
        (COUNTING, "lab", [0, 1, 2, 41, 1000]),
        (b"\xff" * 32, "a" * 32, [0, 255, 256]),
        (COUNTING, "a", [0, 7]),
    ]:
        for generation, chain in chains(mesh_key, mesh, generations).items():
            cases.append(
                {
                    "kind": "chain",
                    "mesh_key": mesh_key.hex(),
                    "mesh": mesh,
                    "generation": generation,
                    "ck": chain.hex(),
                    "ck_fingerprint": fingerprint(chain),
                    "file": ratchet_file(mesh, generation, chain),
                }
            )
    return cases + refused_files()


# SPIs and fingerprints


def spis():
    generations = [0, 1, 2, 31, 32, 33, 2**32 - 1, 2**32, 2**63 - 2]
    pairs = [(1, 2), (2, 1), (0, 4095), (4095, 0), (255, 256), (4094, 4095)]
    made = [(g, *pair) for g in generations for pair in pairs]
    encode = [
        {"kind": "encode", "generation": g, "from": a, "to": b, "spi": f"{spi(g, a, b):#010x}"}
        for g, a, b in made
    ]
    decode = [
        {
            "kind": "decode",
            "spi": f"{number:#010x}",
            "generation_mod_32": number >> 26 & 31,
            "lane": number >> 24 & 3,
            "from": number >> 12 & 4095,
            "to": number & 4095,
        }
        for number in [0x84001002, 0x85001002, 0x87FFFFFF, 0xFFFFFFFF, 0x80000000, 0xFCABC123]
    ]
    return encode + decode


def fingerprints():
    cases = [b"", b"\x00", b"\x00\x01", bytes(32), bytes(36), COUNTING, bytes(range(20)), bytes(range(36))]
    return [{"bytes": data.hex(), "fingerprint": fingerprint(data)} for data in cases]


FILES = {
    "key-schedule": key_schedule,
    "ratchet": ratchet,
    "spi": spis,
    "fingerprint": fingerprints,
}

print(json.dumps({"format_version": "1.0", "cases": FILES[sys.argv[1]]()}, indent=2))
