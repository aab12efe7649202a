"""Damage that knows archives of PyTorch and headers of safetensors."""

import json
import os
import pickle
import struct
import zipfile

import torch
from damage_json import NAMES, ODD

MARKER = "executed"  # what the payload of a pickle would leave behind


class Payload:
    """Runs a command when it is unpickled by anything that trusts it."""

    def __reduce__(self):
        return os.system, (f"touch {MARKER}",)


def _records(file):
    with zipfile.ZipFile(file) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def _write(file, records, kind=zipfile.ZIP_STORED):
    with zipfile.ZipFile(file, "w", kind) as archive:
        for name, content in records:
            archive.writestr(name, content)


def payload_alone(rng, file):
    file.write_bytes(pickle.dumps(rng.choice([Payload(), {"a": Payload()}]),
                                  protocol=rng.choice([0, 2, 4])))
    return ""


def payload_inside(rng, file):
    records = _records(file)
    name = next(n for n in records if n.endswith("data.pkl"))
    _write(file, (records | {name: pickle.dumps({"a": Payload()}, protocol=2)}).items())
    return ""


def compressed(rng, file):
    _write(file, _records(file).items(), zipfile.ZIP_DEFLATED)
    return ""


def changed_record(rng, file):
    records = _records(file)
    name = rng.choice(sorted(records))
    content = records[name]
    change = rng.choice(["short", "long", "gone", "twice", "big", "pickle"])
    if change == "big":
        name = next(n for n in records if n.endswith("byteorder"))
        records[name] = b"big"
    elif change == "pickle":
        name = next(n for n in records if n.endswith("data.pkl"))
        data = bytearray(records[name])
        for _ in range(rng.choice([1, 2, 8])):
            data[rng.randrange(len(data))] ^= rng.randrange(1, 256)
        records[name] = bytes(data)
    elif change == "gone":
        del records[name]
    else:
        records[name] = content[:len(content) // 2] if change == "short" else content * 2
    pairs = list(records.items())
    if change == "twice":
        pairs = [*records.items(), (name, bytes(len(content)))]
    _write(file, pairs)
    return f"{change} {name}"


def claimed(rng, file):
    """A directory that claims other sizes or places than there are."""
    data = bytearray(file.read_bytes())
    offset = data.rfind(b"PK\x01\x02", 0, rng.randrange(len(data) // 2, len(data) + 1))
    if offset < 0:
        return None
    field = rng.choice([8, 10, 16, 20, 24, 28, 30, 42])
    size = 2 if field in (8, 10, 28, 30) else 4
    value = rng.choice([0, 1, 8, 2 ** 15 - 1, 2 ** 16 - 1, 2 ** 31 - 1, 2 ** 32 - 1,
                        rng.randrange(len(data))]) % 2 ** (8 * size)
    data[offset + field:offset + field + size] = value.to_bytes(size, "little")
    file.write_bytes(data)
    return f"{field} of {offset} is {value}"


def claimed_values(rng, file):
    """A pickle that claims more values, or another shape, than its record holds."""
    records = _records(file)
    name = next(n for n in records if n.endswith("data.pkl"))
    data = bytearray(records[name])
    offsets = [i for i in range(len(data) - 5) if data[i:i + 1] in (b"K", b"M", b"J")]
    offset = rng.choice(offsets)
    width = {b"K": 1, b"M": 2, b"J": 4}[bytes(data[offset:offset + 1])]
    value = rng.choice([0, 1, 255, 2 ** 16 - 1, 2 ** 31 - 1, -1]) % 2 ** (8 * width)
    data[offset + 1:offset + 1 + width] = value.to_bytes(width, "little")
    if rng.random() < 0.5:  # eight bytes: LONG1
        big = rng.choice([2 ** 40, 2 ** 62, 2 ** 63 - 1, -1, 2 ** 33])
        data[offset:offset + 1 + width] = b"\x8a\x09" + big.to_bytes(9, "little", signed=True)
    _write(file, (records | {name: bytes(data)}).items())
    return f"at {offset} of {len(data)}"


def old_format(rng, file):
    state = torch.load(file, weights_only=True)
    torch.save(state, file, _use_new_zipfile_serialization=False)
    if rng.random() < 0.3:
        return "whole"
    data = bytearray(file.read_bytes())
    if rng.random() < 0.5:
        del data[rng.randrange(len(data)):]
        done = f"cut to {len(data)}"
    else:
        offset = rng.choice([rng.randrange(len(data)), rng.randrange(min(len(data), 3000))])
        data[offset] ^= rng.randrange(1, 256)
        done = f"flipped at {offset}"
    file.write_bytes(data)
    return done


ARCHIVE = (payload_alone, payload_inside, compressed, changed_record, changed_record, claimed,
           claimed, claimed_values, claimed_values, claimed_values, old_format)


def header_field(rng, file):
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + length])
    names = [n for n in header if n != "__metadata__"]
    if not names:
        return None
    name = rng.choice(names)
    entry = header[name]
    field = rng.choice(["dtype", "shape", "data_offsets", "name", "extra", "all", "metadata"])
    if field == "dtype":
        entry["dtype"] = rng.choice(["F32", "BF16", "F16", "I64", "F8_E4M3", "X", 3, None, "BOOL",
                                     "F4", "C64"])
    elif field == "shape":
        entry["shape"] = rng.choice([entry["shape"][::-1], [*entry["shape"], 1], [2 ** 62, 4], [],
                                     [0], [-1], [2 ** 70], "x", [1.5], [True], [2 ** 32, 2 ** 32]])
    elif field == "data_offsets":
        start, end = entry["data_offsets"]
        entry["data_offsets"] = rng.choice([[start, end + 4], [start + 2, end + 2], [end, start],
                                            [0, 0], [2 ** 63, 2 ** 63], [2 ** 64, 1], [start], "x",
                                            [0, end - start]])
    elif field == "name":
        header[rng.choice(NAMES)] = header.pop(name)
    elif field == "extra":
        entry["x"] = 1
    elif field == "all":
        header[name] = rng.choice(ODD)
    else:
        header["__metadata__"] = rng.choice(ODD)
    text = json.dumps(header).encode()
    if rng.random() < 0.2:
        text = text[:-1] + b', "' + name.encode() + b'": ' + json.dumps(entry).encode() + b"}"
        field += " twice"
    text += b" " * (-len(text) % 8)
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length:])
    return f"{field} of {name}"


def header_length(rng, file):
    data = file.read_bytes()
    length = rng.choice([0, 1, 8, len(data), len(data) - 8, 2 ** 31, 10 ** 8, 2 ** 63, 2 ** 64 - 1])
    file.write_bytes(struct.pack("<Q", length) + data[8:])
    return length


HEADER = (header_field, header_field, header_field, header_length)
