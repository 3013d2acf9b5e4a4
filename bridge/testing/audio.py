"""A silent FLAC file, so that audio outputs are real bytes without an audio library."""

from __future__ import annotations

import functools
import struct

_BLOCK = 4096


def _table(polynomial: int, bits: int) -> tuple[int, ...]:
    top, mask = 1 << (bits - 1), (1 << bits) - 1
    table = []
    for value in range(256):
        rest = value << (bits - 8)
        for _ in range(8):
            rest = ((rest << 1) ^ polynomial if rest & top else rest << 1) & mask
        table.append(rest)
    return tuple(table)


_CRC8 = _table(0x07, 8)
_CRC16 = _table(0x8005, 16)


def _crc8(data: bytes) -> int:
    rest = 0
    for byte in data:
        rest = _CRC8[rest ^ byte]
    return rest


def _crc16(data: bytes) -> int:
    rest = 0
    for byte in data:
        rest = ((rest << 8) & 0xFFFF) ^ _CRC16[(rest >> 8) ^ byte]
    return rest


def _frame(number: int, samples: int, channels: int) -> bytes:
    # Block size as 16 bits at the header's end, sample rate as in STREAMINFO, 16 bits a sample (RFC 9639, section 9).
    index = chr(number).encode("utf-8", "surrogatepass")
    header = struct.pack(">HBB", 0xFFF8, 0x70, ((channels - 1) << 4) | 0x08) + index + struct.pack(">H", samples - 1)
    header += bytes([_crc8(header)])
    silence = header + b"\x00\x00\x00" * channels
    return silence + struct.pack(">H", _crc16(silence))


@functools.lru_cache(maxsize=8)
def silent_flac(seconds: float, rate: int, channels: int) -> bytes:
    """A FLAC file of `seconds` of 16-bit silence."""
    total = max(1, min(int(seconds * rate), _BLOCK * 0xFFFF))
    packed = (rate << 44) | ((channels - 1) << 41) | (15 << 36) | total
    info = struct.pack(">HH", _BLOCK, _BLOCK) + bytes(6) + packed.to_bytes(8, "big") + bytes(16)
    frames = [
        _frame(number, min(_BLOCK, total - start), channels) for number, start in enumerate(range(0, total, _BLOCK))
    ]
    return b"fLaC" + b"\x80" + len(info).to_bytes(3, "big") + info + b"".join(frames)
