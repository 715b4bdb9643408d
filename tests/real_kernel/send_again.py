"""Sends the ESP frames of a recording again. Arguments: recording, device, MAC address.

Only frames to that address are sent; prints how many.
"""

import socket
import struct
import sys

ETHERTYPE_IPV4 = b"\x08\x00"
IPPROTO_ESP = 50


def frames(path):
    """The frames of a file as tcpdump writes it."""
    with open(path, "rb") as file:
        order = {0xA1B2C3D4: "<", 0xD4C3B2A1: ">"}[struct.unpack("<I", file.read(4))[0]]
        file.read(20)
        while len(header := file.read(16)) == 16:
            yield file.read(struct.unpack(order + "IIII", header)[2])


def is_esp_to(frame, mac):
    return frame[:6] == mac and frame[12:14] == ETHERTYPE_IPV4 and frame[23] == IPPROTO_ESP


recording, device, address = sys.argv[1:]
wanted = bytes.fromhex(address.replace(":", ""))
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind((device, 0))
again = [frame for frame in frames(recording) if is_esp_to(frame, wanted)]
for frame in again:
    wire.send(frame)
print(len(again))
