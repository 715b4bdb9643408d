#!/usr/bin/env python3
"""Runs the cases beside this file against a second implementation, which is this one.

It needs nothing but Python 3.11's own library, and is short enough to be read beside README.md:

    python3 check.py            # all cases; status 1 and a line for each that fails
"""

import hashlib
import hmac
import json
import pathlib
import sys
import tomllib

KEY_LENGTH = {"aes256-gcm": 32, "aes128-gcm": 16, "chacha20-poly1305": 32}
HERE = pathlib.Path(__file__).parent


def cases(name):
    document = json.loads((HERE / f"{name}.json").read_text())
    major = document["format_version"].split(".")[0]
    if major != "1":
        sys.exit(f"{name}.json has format {document['format_version']}, and this program knows 1")
    return document["cases"]


# RFC 5869


def hkdf(ikm, salt, info, length):
    key = hmac.new(salt, ikm, hashlib.sha256).digest()
    output, block, count = b"", b"", 0
    while len(output) < length:
        count += 1
        block = hmac.new(key, block + info + bytes([count]), hashlib.sha256).digest()
        output += block
    return output[:length]


# RFC 7748, section 5. Not in constant time: for test keys only.

PRIME = 2**255 - 19


def x25519(private, public):
    scalar = int.from_bytes(private, "little") & ~7 & (1 << 255) - 1 | 1 << 254
    x = int.from_bytes(public, "little") & (1 << 255) - 1
    x2, z2, x3, z3 = 1, 0, x, 1
    swapped = 0
    for place in reversed(range(255)):
        bit = scalar >> place & 1
        if swapped ^ bit:
            x2, z2, x3, z3 = x3, z3, x2, z2
        swapped = bit
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        da, cb, aa, bb = d * a % PRIME, c * b % PRIME, a * a % PRIME, b * b % PRIME
        x3, z3 = pow(da + cb, 2, PRIME), x * pow(da - cb, 2, PRIME) % PRIME
        x2, z2 = aa * bb % PRIME, (aa - bb) * (aa + 121665 * (aa - bb)) % PRIME
    if swapped:
        x2, z2 = x3, z3
    return (x2 * pow(z2, PRIME - 2, PRIME) % PRIME).to_bytes(32, "little")


BASE_POINT = bytes([9]) + bytes(31)


# meshsec.toml(5)


def number(value, length):
    return value.to_bytes(length, "big")


def of_mesh(name):
    return hashlib.sha256(name.encode()).digest()


def fingerprint(data):
    return "sha256:" + hashlib.sha256(b"meshsec/v1 fingerprint" + data).hexdigest()[:16]


def spi(generation, source, target):
    return f"{0x80000000 | generation % 32 << 26 | source << 12 | target:#010x}"


def chain_key(mesh_key, mesh, generation):
    key = hkdf(mesh_key, b"", b"meshsec/v1 ratchet init" + of_mesh(mesh), 32)
    for _ in range(generation):
        key = hkdf(key, b"", b"meshsec/v1 ratchet step" + of_mesh(mesh), 32)
    return key


def session_of_pair(secret, label, case):
    low, high = sorted([case["from"], case["to"]])
    info = label + of_mesh(case["mesh"]) + number(low, 2) + number(high, 2)
    return hkdf(secret, b"", info, 32)


def session_of_private_keys(case, private, peer):
    """The session by one end's private key and the other's public key."""
    public = {case["from"]: case["from_public_key"], case["to"]: case["to_public_key"]}
    low, high = (bytes.fromhex(public[end]) for end in sorted(public))
    secret = x25519(bytes.fromhex(case[private]), bytes.fromhex(case[peer]))
    psk = bytes.fromhex(case["psk"]) if case["psk"] else bytes(32)
    info = b"meshsec/v1 x25519" + of_mesh(case["mesh"]) + low + high
    return secret, hkdf(secret + psk, b"", info, 32)


def sessions(case):
    """The session as each end derives it, by one of the three ways."""
    if case["way"] == "private_key":
        for end in ["from", "to"]:
            public = x25519(bytes.fromhex(case[f"{end}_private_key"]), BASE_POINT)
            yield "public key", public.hex(), case[f"{end}_public_key"]
        for private, peer in [
            ("from_private_key", "to_public_key"),
            ("to_private_key", "from_public_key"),
        ]:
            secret, session = session_of_private_keys(case, private, peer)
            yield "x25519", secret.hex(), case["x25519"]
            yield "session", session.hex(), case["session"]
    elif case["way"] == "mesh_key":
        secret = bytes.fromhex(case["mesh_key"])
        yield "session", session_of_pair(secret, b"meshsec/v1 psk", case).hex(), case["session"]
    else:
        chain = chain_key(bytes.fromhex(case["mesh_key"]), case["mesh"], case["generation"])
        yield "ck", chain.hex(), case["ck"]
        session = session_of_pair(chain, b"meshsec/v1 ratchet pair", case)
        yield "session", session.hex(), case["session"]


def key_schedule(case):
    yield from sessions(case)
    info = b"meshsec/v1 esp" + number(case["from"], 2) + number(case["to"], 2)
    info += case["cipher"].encode()
    length = KEY_LENGTH[case["cipher"]] + 4
    key = hkdf(bytes.fromhex(case["session"]), number(case["generation"], 8), info, length)
    yield "keymat", key.hex(), case["keymat"]
    yield "fingerprint", fingerprint(key), case["fingerprint"]
    yield "spi", spi(case["generation"], case["from"], case["to"]), case["spi"]


def of_spi(case):
    if case["kind"] == "encode":
        yield "spi", spi(case["generation"], case["from"], case["to"]), case["spi"]
        return
    value = int(case["spi"], 16)
    parts = {
        "generation_mod_32": value >> 26 & 31,
        "lane": value >> 24 & 3,
        "from": value >> 12 & 4095,
        "to": value & 4095,
    }
    yield "parts", parts, {name: case[name] for name in parts}


def of_fingerprint(case):
    yield "fingerprint", fingerprint(bytes.fromhex(case["bytes"])), case["fingerprint"]


def checksum(lines):
    return hashlib.sha256(b"meshsec/v1 ratchet file" + lines.encode()).hexdigest()[:16]


def is_refused(file):
    """Whether a file is not, byte for byte, one that its own values make."""
    lines = file.split("\n")
    if len(lines) != 6 or not lines[2].removeprefix("generation ").isdigit():
        return True
    generation = int(lines[2].removeprefix("generation "))
    four = f"meshsec ratchet 1\n{lines[1]}\ngeneration {generation}\n{lines[3]}\n"
    allowed = set("abcdefghijklmnopqrstuvwxyz0123456789-")
    name = lines[1].removeprefix("mesh ")
    digits = lines[3].removeprefix("chain ")
    is_well_formed = set(name) <= allowed and 1 <= len(name) <= 32 and len(digits) == 64
    return not is_well_formed or file != f"{four}checksum {checksum(four)}\n"


def ratchet(case):
    if case["kind"] == "refused":
        yield "refused", is_refused(case["file"]), True
        return
    chain = chain_key(bytes.fromhex(case["mesh_key"]), case["mesh"], case["generation"])
    yield "ck", chain.hex(), case["ck"]
    yield "ck_fingerprint", fingerprint(chain), case["ck_fingerprint"]
    yield "refused", is_refused(case["file"]), False
    yield "file", f"chain {chain.hex()}\n" in case["file"], True


def wanted_keys(case):
    """The SPI and the fingerprint of the key of every SA that the local peer has."""
    mesh = tomllib.loads(case["mesh_toml"])
    cipher = mesh.get("esp", {}).get("cipher", "aes256-gcm")
    secret = bytes.fromhex(case["secrets"][mesh["keys"]["mesh_key"]["file"]])
    ids = {peer["name"]: peer["short_id"] for peer in mesh["peer"]}
    own, current = ids.pop(case["local"]), case["plan"]["generation"]
    keys = {}
    for other in ids.values():
        of = {"mesh": mesh["mesh"]["name"], "from": own, "to": other}
        session = session_of_pair(secret, b"meshsec/v1 psk", of)
        inbound = [(g, other, own) for g in range(max(0, current - 1), current + 2)]
        for generation, source, target in [(current, own, other)] + inbound:
            info = b"meshsec/v1 esp" + number(source, 2) + number(target, 2) + cipher.encode()
            key = hkdf(session, number(generation, 8), info, KEY_LENGTH[cipher] + 4)
            keys[spi(generation, source, target)] = fingerprint(key)
    return keys


def plan(case):
    """The new SAs of a plan, where all SAs are new. Their order is not checked here."""
    if case["live"] is not None or "mesh_key" not in tomllib.loads(case["mesh_toml"])["keys"]:
        return
    made = {}
    for change in case["plan"]["changes"]:
        if change["kind"] == "sa":
            key = next(field for field in change["fields"] if field["name"] == "key")
            made[change["id"].split(" spi ")[1]] = key["after"]
    yield "SAs", made, wanted_keys(case)


CHECKS = {
    "key-schedule": key_schedule,
    "spi": of_spi,
    "fingerprint": of_fingerprint,
    "ratchet": ratchet,
    "plan": plan,
}


def main():
    failed = False
    for name, check in CHECKS.items():
        compared = 0
        for place, case in enumerate(cases(name)):
            for what, actual, expected in check(case):
                compared += 1
                if actual != expected:
                    failed = True
                    print(f"{name}.json, case {place}: {what} is {actual}, expected {expected}")
        print(f"{name}.json: {compared} values compared")
    sys.exit(1 if failed else 0)


main()
