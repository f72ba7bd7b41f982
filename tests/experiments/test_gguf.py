"""The file reader: every storage type against its definition, and every kind of damage refused by name."""

import struct

import numpy as np
import pytest

from learnlag_jax import InputError
from learnlag_jax.experiments.language import gguf


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def _file(tensors: dict[str, tuple[tuple[int, ...], int, bytes]], metadata: bytes = b"", pairs: int = 0) -> bytes:
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), pairs) + metadata
    body, offset = b"", 0
    for name, (shape, storage, packed) in tensors.items():
        header += _string(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape[::-1])
        header += struct.pack("<IQ", storage, offset)
        body += packed + b"\0" * (-len(packed) % 32)
        offset = len(body)
    return header + b"\0" * (-len(header) % 32) + body


@pytest.fixture
def written(tmp_path):
    def write(raw: bytes):
        path = tmp_path / "model.gguf"
        path.write_bytes(raw)
        return path

    return write


RNG = np.random.default_rng(0)
Q = RNG.integers(0, 16, (2, 32), dtype=np.uint8)
D, M = np.array([0.5, -0.25], np.float16), np.array([1.5, 3.0], np.float16)
Q4 = b"".join(
    d.tobytes() + m.tobytes() + (q[:16] | (q[16:] << 4)).astype(np.uint8).tobytes()
    for d, m, q in zip(D, M, Q, strict=True)
)
Q8 = b"".join(d.tobytes() + q.astype(np.int8).tobytes() for d, q in zip(D, Q.astype(int) - 8, strict=True))
GOOD = _file(
    {"four": ((2, 32), 3, Q4), "eight": ((2, 32), 8, Q8), "plain": ((3, 1), 0, np.float32([1, 2, 3]).tobytes())}
)


def test_every_storage_type_follows_its_definition(written):
    file = gguf.open_file(written(GOOD))
    four = D.astype(np.float32)[:, None] * Q + M.astype(np.float32)[:, None]
    assert np.array_equal(gguf.tensor(file, "four"), four)
    assert np.array_equal(gguf.tensor(file, "eight"), D.astype(np.float32)[:, None] * (Q.astype(np.float32) - 8))
    assert np.array_equal(gguf.tensor(file, "plain"), np.float32([[1], [2], [3]]))
    swapped = np.concatenate([Q[:, 16:], Q[:, :16]], axis=1)  # the control: high nibbles first is another tensor
    assert not np.array_equal(gguf.tensor(file, "four"), D.astype(np.float32)[:, None] * swapped)


def test_metadata_of_every_kind_is_read(written):
    pairs = [
        _string("a") + struct.pack("<If", 6, 0.5),
        _string("b") + struct.pack("<I", 8) + _string("word"),
        _string("c") + struct.pack("<IIQ", 9, 8, 2) + _string("x") + _string("yz"),
        _string("d") + struct.pack("<IIQ3i", 9, 5, 3, 1, -2, 3),
        _string("e") + struct.pack("<I?", 7, True),
    ]
    file = gguf.open_file(written(_file({}, b"".join(pairs), len(pairs))))
    assert file.metadata == {"a": 0.5, "b": "word", "c": ["x", "yz"], "d": [1, -2, 3], "e": True}


@pytest.mark.parametrize("length", [0, 3, 23, 24, 40, 100, len(GOOD) - 40])
def test_a_truncated_file_is_refused(written, length):
    with pytest.raises(InputError, match="model.gguf: got"):
        gguf.open_file(written(GOOD[:length]))


@pytest.mark.parametrize(
    "raw, message",
    [
        (b"XXXX" + GOOD[4:], "magic"),
        (GOOD[:4] + struct.pack("<I", 2) + GOOD[8:], "version 2"),
        (GOOD[:8] + struct.pack("<Q", 1 << 60) + GOOD[16:], "a length of"),
        (GOOD[:24] + struct.pack("<Q", 1 << 50) + GOOD[32:], "a length of"),
        (_file({"x": ((2, 32), 77, b"\0" * 64)}), "storage type 77"),
        (_file({"x": ((1, 31), 3, b"\0" * 64)}), "not whole blocks"),
        (_file({"x": ((1 << 20, 32), 3, b"\0" * 64)}), "ends at"),
        (_file({}, _string("k") + struct.pack("<I", 99), 1), "value type 99"),
    ],
)
def test_an_altered_file_is_refused_by_what_is_wrong(written, raw, message):
    with pytest.raises(InputError, match=message):
        gguf.open_file(written(raw))


def test_weights_that_are_not_finite_and_tensors_that_are_absent_are_refused(written):
    file = gguf.open_file(written(_file({"x": ((2, 1), 0, np.float32([1, np.nan]).tobytes())})))
    with pytest.raises(InputError, match="NaN or infinity in tensor x"):
        gguf.tensor(file, "x")
    with pytest.raises(InputError, match="no tensor y"):
        gguf.tensor(file, "y")
