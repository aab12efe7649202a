"""TFRecord files and what is in them, read without TensorFlow.

A file is a row of frames: length uint64, its checksum, the record, its checksum; all little-endian.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from google.protobuf.message import DecodeError
from tensorflow_datasets.proto import tf_example_pb2

from input_pipeline.records.record import RecordError

_HEADER = struct.Struct("<QI")
_UINT8 = 4  # DT_UINT8 of TensorFlow's types


class Frame(NamedTuple):
    """Where a record lies in its file.

    `checksum` is the one stored beside it. `problem` says why the record cannot be had, '' if it
    can; after a frame with a problem there is no other, as nobody knows where it would begin.
    """

    start: int
    length: int
    checksum: int
    problem: str = ""


def frames(content: bytes) -> Iterator[Frame]:
    """The frames of a file in their order; records themselves are not looked at."""
    offset = 0
    while offset < len(content):
        start = offset + _HEADER.size
        if start > len(content):
            yield Frame(start, 0, 0, "truncated file")
            return
        length, checksum = _HEADER.unpack_from(content, offset)
        if masked_crc32c(content[offset:offset + 8]) != checksum:
            yield Frame(start, 0, 0, "damaged file")
            return
        offset = start + length + 4
        if offset > len(content):
            yield Frame(start, length, 0, "truncated file")
            return
        yield Frame(start, length, *struct.unpack_from("<I", content, offset - 4))


def read_frame(content: bytes, frame: Frame) -> bytes:
    """The record in a frame. Raises RecordError when it is not whole."""
    if frame.problem:
        raise RecordError(frame.problem, f"from byte {frame.start} on")
    data = content[frame.start:frame.start + frame.length]
    if masked_crc32c(data) != frame.checksum:
        raise RecordError("damaged record", f"wrong checksum at byte {frame.start}")
    return data


def parse_example(data: bytes) -> dict[str, list]:
    """{feature: its values} of a tf.train.Example. Raises RecordError when it is none."""
    try:
        features = tf_example_pb2.Example.FromString(data).features.feature
    except DecodeError as error:
        raise RecordError("malformed record", "not a tf.train.Example") from error
    kinds = {name: feature.WhichOneof("kind") for name, feature in features.items()}
    return {name: list(getattr(features[name], kind).value) if kind else []
            for name, kind in kinds.items()}


def parse_tensor(data: bytes) -> np.ndarray:
    """uint8 array of what `tf.io.serialize_tensor` wrote. Raises RecordError when it is none."""
    from tensorboardX.proto.tensor_pb2 import TensorProto  # slow to import, seldom needed
    try:
        tensor = TensorProto.FromString(data)
    except DecodeError as error:
        raise RecordError("malformed record", "not a serialized tensor") from error
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    values = np.frombuffer(tensor.tensor_content, np.uint8)
    if tensor.dtype != _UINT8 or any(n < 0 for n in shape) or values.size != np.prod(shape):
        raise RecordError("malformed record", f"tensor of type {tensor.dtype}, shape {shape} and "
                                              f"{values.size} bytes")
    return values.reshape(shape)


def masked_crc32c(data: bytes) -> int:
    """Checksum of TFRecord files: CRC-32C, rotated by 15 bits and shifted."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _remainder(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)  # Castagnoli's polynomial, reflected
    return byte


_TABLE = [_remainder(byte) for byte in range(256)]
