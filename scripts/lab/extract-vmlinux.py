# SPDX-License-Identifier: Apache-2.0
"""Unpacks the ELF kernel inside a bzImage:  extract-vmlinux.py VMLINUZ VMLINUX. Needs the compressor that the kernel was made with."""
import os
import struct
import subprocess
import sys

COMPRESSORS = [                 # magic bytes, command
    (b"\x02\x21\x4c\x18", ["lz4", "-d", "-c", "-"]),
    (b"\x28\xb5\x2f\xfd", ["zstd", "-d", "-c"]),
    (b"\xfd7zXZ\x00", ["xz", "-d", "-c", "--single-stream"]),
    (b"\x1f\x8b\x08", ["gzip", "-d", "-c"]),
]


def main(source, target):
    with open(source, "rb") as f:
        image = f.read()
    if image[0x202:0x206] != b"HdrS" and image[0x202:0x206] != b"HdrS"[::-1]:
        raise SystemExit(f"{source}: not a bzImage")
    setup_bytes = ((image[0x1f1] or 4) + 1) * 512
    offset, length = struct.unpack_from("<II", image, 0x248)        # payload_offset, payload_length
    payload = image[setup_bytes + offset:setup_bytes + offset + length]
    for magic, command in COMPRESSORS:
        if payload.startswith(magic):
            break
    else:
        raise SystemExit(f"{source}: payload of unknown kind {payload[:6].hex()}")
    try:        # four bytes of length follow the compressed stream: the tool may complain about them
        elf = subprocess.run(command, input=payload[:-4], stdout=subprocess.PIPE, stderr=subprocess.PIPE).stdout
    except FileNotFoundError:
        raise SystemExit(f"{source}: is packed with {command[0]}, which is not installed") from None
    if not elf.startswith(b"\x7fELF"):
        raise SystemExit(f"{source}: {command[0]} brought no ELF file")
    with open(target, "wb") as f:
        f.write(elf)
    os.chmod(target, 0o644)


main(*sys.argv[1:])
