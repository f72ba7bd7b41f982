"""Reading GGUF, the file format of packed language models: metadata and tensors, three storage types.

    F32    x
    Q8_0   x = d q              blocks of 32 in 34 bytes: half-precision d, 32 signed bytes q
    Q4_1   x = d q + m          blocks of 32 in 20 bytes: half-precision d and m, 16 bytes of two nibbles, low ones first

Little-endian. Dimensions are written innermost first. Every length and offset is checked against the file before it is
used, so a truncated or altered file is refused by name. Reference: the GGUF specification, version 3.
"""

import math
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from learnlag_jax import checks

SCALARS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
STRING, ARRAY, ALIGNMENT = 8, 9, 32
LONGEST = 1 << 28  # no count or length in a real file reaches this; an altered one may claim anything


class Storage(NamedTuple):
    """A storage type: values and bytes of one block, and how to unpack many of them."""

    values: int
    bytes: int
    unpack: Callable[[np.ndarray], np.ndarray]


def _half(blocks: np.ndarray, at: int) -> np.ndarray:
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2").astype(np.float32)


def _q8(blocks: np.ndarray) -> np.ndarray:
    return _half(blocks, 0) * blocks[:, 2:].view(np.int8)


def _q4(blocks: np.ndarray) -> np.ndarray:
    nibbles = np.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], axis=1)
    return _half(blocks, 0) * nibbles + _half(blocks, 2)


STORAGE = {
    0: Storage(1, 4, lambda blocks: blocks.view("<f4").astype(np.float32)),
    3: Storage(32, 20, _q4),
    8: Storage(32, 34, _q8),
}


class Entry(NamedTuple):
    """Where a tensor lies: its shape (outermost first), storage type and first byte."""

    shape: tuple[int, ...]
    storage: int
    start: int


class File(NamedTuple):
    """An open GGUF file: metadata, and the tensors' places; read them with `tensor`."""

    metadata: Mapping[str, Any]
    entries: Mapping[str, Entry]
    raw: np.ndarray
    name: str


class _Cursor:
    """A place in the bytes; refuses to read past the end."""

    def __init__(self, raw: np.ndarray, name: str):
        self.raw, self.name, self.at = raw, name, 0

    def take(self, count: int) -> np.ndarray:
        _whole(self.at + count <= len(self.raw), self.name, f"an end at byte {len(self.raw)}")
        self.at += count
        return self.raw[self.at - count : self.at]

    def number(self, kind: int):
        return self.numbers(kind, 1)[0].item()

    def numbers(self, kind: int, count: int) -> np.ndarray:
        _whole(kind in SCALARS, self.name, f"value type {kind}")
        dtype = np.dtype(SCALARS[kind])
        return self.take(dtype.itemsize * count).view(dtype)

    def count(self) -> int:
        n = self.number(10)
        _whole(n < LONGEST, self.name, f"a length of {n}")
        return n

    def string(self) -> str:
        try:
            return self.take(self.count()).tobytes().decode("utf-8")
        except UnicodeDecodeError:
            _whole(False, self.name, "a string that is not UTF-8")
            raise

    def value(self):
        kind = self.number(4)
        if kind != ARRAY:
            return self.string() if kind == STRING else self.number(kind)
        kind, count = self.number(4), self.count()
        return [self.string() for _ in range(count)] if kind == STRING else self.numbers(kind, count).tolist()

    def entry(self) -> tuple[str, Entry]:
        name, rank = self.string(), self.number(4)
        _whole(1 <= rank <= 4, self.name, f"tensor {name} of rank {rank}")
        shape = tuple(int(n) for n in self.numbers(10, rank)[::-1])
        return name, Entry(shape, self.number(4), self.number(10))


def _whole(condition, name: str, got: str) -> None:
    checks.require(condition, name, got, "a whole GGUF version 3 file", "install or download it again")


def open_file(path: str | Path) -> File:
    """Read the header; the tensors stay on disk until they are asked for.

    Args:
        path: a GGUF file.

    Returns:
        `File`.

    Raises:
        InputError: not GGUF, truncated, or altered (a tensor of unknown storage, or beyond the end of the file).
        OSError: the file cannot be read.
    """
    name = Path(path).name
    _whole(Path(path).stat().st_size >= 24, name, f"{Path(path).stat().st_size} bytes")
    raw = np.memmap(path, np.uint8, mode="r")
    cursor = _Cursor(raw, name)
    magic, version = struct.unpack("<4sI", cursor.take(8).tobytes())
    _whole(magic == b"GGUF" and version == 3, name, f"magic {magic!r}, version {version}")
    tensors, pairs = cursor.count(), cursor.count()
    metadata = {cursor.string(): cursor.value() for _ in range(pairs)}
    listed = dict(cursor.entry() for _ in range(tensors))
    alignment: Any = metadata.get("general.alignment", ALIGNMENT)
    _whole(isinstance(alignment, int) and alignment > 0, name, f"alignment {alignment}")
    base = -(-cursor.at // alignment) * alignment
    entries = {key: entry._replace(start=base + entry.start) for key, entry in listed.items()}
    for key, entry in entries.items():
        _whole(entry.storage in STORAGE, name, f"tensor {key} of storage type {entry.storage}")
        end = entry.start + _bytes(entry, key, name)
        _whole(end <= len(raw), name, f"{len(raw)} bytes, but tensor {key} ends at {end}")
    return File(metadata, entries, raw, name)


def _bytes(entry: Entry, key: str, name: str) -> int:
    storage = STORAGE[entry.storage]
    blocks, rest = divmod(math.prod(entry.shape), storage.values)
    _whole(not rest, name, f"tensor {key} of shape {entry.shape}, not whole blocks")
    return blocks * storage.bytes


def tensor(file: File, name: str) -> np.ndarray:
    """One tensor, unpacked to float32.

    Raises:
        InputError: no tensor of that name, or weights that are not finite.
    """
    checks.require(name in file.entries, file.name, f"no tensor {name}", "a llama-type model", "use another file")
    entry = file.entries[name]
    packed = file.raw[entry.start : entry.start + _bytes(entry, name, file.name)]
    storage = STORAGE[entry.storage]
    values = storage.unpack(np.asarray(packed).reshape(-1, storage.bytes)).reshape(entry.shape)
    _whole(bool(np.isfinite(values).all()), file.name, f"NaN or infinity in tensor {name}")
    return values
