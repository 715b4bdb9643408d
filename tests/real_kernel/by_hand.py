"""Prints the `ip -batch` lines that make one host a member of a mesh.

Shares no code with meshsec: from the words of the key schedule, version 1, and
the standard library alone. Arguments: mesh name, mesh key in hex, generation,
cipher, then ShortID and address of the host, then the same of each peer.
"""

import hashlib
import hmac
import os
import struct
import sys


def hkdf(ikm, salt, info, length):
    """RFC 5869 with SHA-256."""
    secret = hmac.digest(salt or b"\0" * 32, ikm, "sha256")
    blocks = [b""]
    while len(b"".join(blocks)) < length:
        counter = bytes([len(blocks)])
        blocks.append(hmac.digest(secret, blocks[-1] + info + counter, "sha256"))
    return b"".join(blocks)[:length]


def keymat(source, target, generation):
    mesh = hashlib.sha256(NAME.encode("ascii")).digest()
    pair = struct.pack("!HH", *sorted((source, target)))
    session = hkdf(KEY, b"", b"meshsec/v1 psk" + mesh + pair, 32)
    info = b"meshsec/v1 esp" + struct.pack("!HH", source, target) + CIPHER.encode("ascii")
    length = {"aes256-gcm": 32, "aes128-gcm": 16}[CIPHER] + 4
    return hkdf(session, struct.pack("!Q", generation), info, length)


def sa(generation, source, target):
    (source_id, source_address), (target_id, target_address) = source, target
    low = generation % 128 << 24 if IS_OLD else generation % 32 << 26
    spi = 0x80000000 | low | source_id << 12 | target_id
    key = keymat(source_id, target_id, generation).hex()
    print(
        f"xfrm state add src {source_address} dst {target_address} proto esp spi {spi:#x}"
        f" reqid {REQID} mode transport aead rfc4106(gcm(aes)) 0x{key} 128"
        f" sel src {source_address} dst {target_address}"
    )
    return spi


def policy(direction, source, target, spi):
    print(
        f"xfrm policy add src {source[1]} dst {target[1]} proto udp dport 4789"
        f" dir {direction} priority 1000"
        f" tmpl src {source[1]} dst {target[1]} proto esp{spi} reqid {REQID} mode transport"
    )


NAME, KEY = sys.argv[1], bytes.fromhex(sys.argv[2])
GENERATION, CIPHER = int(sys.argv[3]), sys.argv[4]
IS_OLD = os.environ.get("SPI_LAYOUT") == "0.1"
REQID = 0x4D530000 | int.from_bytes(hashlib.sha256(NAME.encode("ascii")).digest()[:2], "big")
ENDS = [(int(number), address) for number, address in zip(sys.argv[5::2], sys.argv[6::2])]

HOST = ENDS[0]
for peer in ENDS[1:]:
    for inbound in range(max(GENERATION - 1, 0), GENERATION + 2):
        sa(inbound, peer, HOST)
    outbound = sa(GENERATION, HOST, peer)
    policy("out", HOST, peer, f" spi {outbound:#x}")
    policy("in", peer, HOST, "")
