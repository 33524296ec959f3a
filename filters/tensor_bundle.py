"""Variables of a TensorFlow SavedModel without TensorFlow.

They lie in two files: `variables.index`, a LevelDB table from each variable's name to its dtype, shape,
offset and size (a `BundleEntryProto`), and `variables.data-00000-of-00001`, raw little-endian values.  See
LevelDB's doc/table_format.md, TensorFlow's core/protobuf/tensor_bundle.proto.
"""

import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

_INDEX, _DATA = "variables/variables.index", "variables/variables.data-00000-of-00001"
_MAGIC, _FOOTER_BYTES = 0xDB4775248B80FB57, 48
_DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8"}  # tensorflow/core/framework/types.proto
_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"


class BundleError(ValueError):
    """A file that is no SavedModel with readable variables."""


def read_saved_model(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """Variables of a zipped SavedModel by name (without Keras' suffix), and every name in its index.

    Raises BundleError naming the file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            (root,) = {name.removesuffix(_INDEX) for name in archive.namelist() if name.endswith(_INDEX)}
            index, data = archive.read(root + _INDEX), archive.read(root + _DATA)
        entries = dict(_table(index))
        variables = {}
        for name, value in entries.items():
            if name.endswith(_SUFFIX):
                variables[name.removesuffix(_SUFFIX)] = _tensor(value, data)
    except (OSError, ValueError, KeyError, IndexError, struct.error, zipfile.BadZipFile) as error:
        raise BundleError(f"{path}: expected a zipped SavedModel with variables: {error}") from error
    return variables, sorted(entries)


def _table(raw: bytes) -> Iterator[tuple[str, bytes]]:
    """Keys and values of a LevelDB table: its footer names an index block, which names the data blocks."""
    footer = raw[-_FOOTER_BYTES:]
    if struct.unpack("<Q", footer[-8:])[0] != _MAGIC:
        raise ValueError("the index is no LevelDB table")
    _, _, position = _handle(footer, 0)  # of the metaindex block, which is empty
    offset, size, _ = _handle(footer, position)
    for _, handle in _block(raw, offset, size):
        start, length, _ = _handle(handle, 0)
        for key, value in _block(raw, start, length):
            yield key.decode(), value


def _block(raw: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Entries of a block; each key shares its first bytes with the one before."""
    if raw[offset + size] != 0:
        raise ValueError("the index is compressed")
    block = raw[offset : offset + size]
    restarts = struct.unpack("<I", block[-4:])[0]
    end, position, key = len(block) - 4 * (restarts + 1), 0, b""
    while position < end:
        shared, position = _varint(block, position)
        unshared, position = _varint(block, position)
        length, position = _varint(block, position)
        key = key[:shared] + block[position : position + unshared]
        position += unshared
        yield key, block[position : position + length]
        position += length


def _tensor(entry: bytes, data: bytes) -> np.ndarray:
    """The array that a BundleEntryProto describes: 1 dtype, 2 shape, 4 offset, 5 size."""
    fields = dict(_fields(entry))
    shape = [
        int(dict(_fields(dimension)).get(1, 0))
        for number, dimension in _fields(bytes(fields.get(2, b"")))
        if number == 2 and isinstance(dimension, bytes)
    ]
    offset, size = int(fields.get(4, 0)), int(fields[5])
    return np.frombuffer(data[offset : offset + size], _DTYPES[int(fields[1])]).reshape(shape)


def _fields(message: bytes) -> Iterator[tuple[int, "int | bytes"]]:
    """Field numbers and values of a protobuf message; fixed-width fields (a checksum) are passed over."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, position = _varint(message, position)
            yield number, value
        elif wire == 2:
            length, position = _varint(message, position)
            yield number, message[position : position + length]
            position += length
        else:
            position += {1: 8, 5: 4}[wire]


def _handle(raw: bytes, position: int) -> tuple[int, int, int]:
    """Offset and size of a block, and where its handle ends."""
    offset, position = _varint(raw, position)
    size, position = _varint(raw, position)
    return offset, size, position


def _varint(raw: bytes, position: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = raw[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
