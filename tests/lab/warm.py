# SPDX-License-Identifier: Apache-2.0
"""Runs in a guest, started before any clone was made, and draws random numbers without end:  warm.py uuid|openssl|name

Every 20 ms, or as often as the processor lets it, a line with the monotonic time in ns, taken before the draw, and what was drawn. uuid:
uuid4() and Python's own generator, with the hook forkd_reseed. openssl: nonces of 12 bytes by OpenSSL, with the provider that OPENSSL_CONF
names. name: nothing is drawn; the hostname is sent to everybody on the network.
"""
import random
import socket
import ssl
import sys
import time
import uuid


def main(what):
    if what == "name":
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            while True:
                s.sendto(socket.gethostname().encode(), ("255.255.255.255", 7777))
                time.sleep(0.2)
    if what == "uuid":
        import forkd_reseed     # noqa: F401
    with open(f"/run/{what}", "w", buffering=1, encoding="ascii") as out:
        while True:
            now = time.monotonic_ns()
            drawn = f"{uuid.uuid4().hex} {random.getrandbits(64):016x}" if what == "uuid" else ssl.RAND_bytes(12).hex()
            out.write(f"{now} {drawn}\n")
            time.sleep(0.02)


main(sys.argv[1])
