"""A tiny tree in RichHF-18K's layout, written without the code that reads it."""

import io

import numpy as np
from fake_loki import encode_image
from PIL import Image
from tensorboardX.record_writer import RecordWriter
from tensorflow_datasets.proto import tf_example_pb2

IMAGES = {
    "0a1b.png": encode_image(10, size=(48, 32)),
    "turned.jpg": encode_image(20, form="JPEG", orientation=6),
    "grey.png": encode_image(30, mode="L"),
    "palette.png": encode_image(40, mode="P"),
    "deep.png": encode_image(50, mode="I;16"),
    "été 照片.jpg": encode_image(60, form="JPEG", mode="CMYK"),
    "torn.png": encode_image(70)[:60],
}
SCORES = {"aesthetics_score": .25, "artifact_score": .5, "misalignment_score": .75,
          "overall_score": 1.0}


def heat(*boxes, side=512):
    """Heat map with boxes x1, y1, x2, y2 and their value."""
    values = np.zeros((side, side), np.uint8)
    for x1, y1, x2, y2, value in boxes:
        values[y1:y2, x1:x2] = value
    return values


MAP = heat((0, 0, 256, 128, 60), (128, 256, 256, 512, 200))


def encode_map(values, form="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, form)
    return buffer.getvalue()


def serialize_tensor(values, kind=4):
    """Bytes of TensorFlow's TensorProto with the shape 512 x 512 x 1."""
    shape = b"\x12\x03\x08\x80\x04" * 2 + b"\x12\x02\x08\x01"
    return (bytes([8, kind, 0x12, len(shape)]) + shape + b"\x22\x80\x80\x10" + values.tobytes())


def example(filename, artifact_map, **changed):
    """A serialized tf.train.Example; a value of None leaves its feature out."""
    features = {"filename": filename, "artifact_map": artifact_map,
                "misalignment_map": encode_map(heat()), "prompt_misalignment_label": b"1 0 1",
                **SCORES, **changed}
    made = tf_example_pb2.Example()
    for name, value in features.items():
        if isinstance(value, str | bytes):
            value = value.encode() if isinstance(value, str) else value
            made.features.feature[name].bytes_list.value.append(value)
        elif value is not None:
            made.features.feature[name].float_list.value.append(value)
    return made.SerializeToString()


PNG = encode_map(MAP)
TRAIN = [
    example("train/0a1b.png", PNG),
    example("train/turned.png", MAP.tobytes()),  # stored as turned.jpg
    example("train/grey.png", serialize_tensor(MAP)),
    example("train/palette.png", encode_map(heat())),
    example("train/deep.png", encode_map(MAP, "JPEG"), overall_score=None, artifact_score=1.5),
    example("train/été 照片.png", encode_map(heat((0, 0, 512, 512, 100)))),
    example("train/0a1b.png", PNG),  # the same image once more
    example("train/gone.png", PNG),
    example("train/torn.png", PNG),
    example("train/0a1b.png", encode_map(heat(side=256))),
    example("train/0a1b.png", serialize_tensor(MAP, kind=3)),
    example("train/0a1b.png", PNG[:90]),
    example("train/0a1b.png", b"\xff\xff no map"),
    example("train/0a1b.png", None),
    example(None, PNG),
    example(b"\xff\xfe", PNG),
    b"\x0a\xff not an example",
    example("train/0a1b.png", PNG, overall_score=0.0),  # damaged below
    example("train/0a1b.png", PNG),  # truncated below
]
SKIPPED = {"damaged record": 1, "file missing": 1, "heat map of another size": 1,
           "malformed record": 7, "truncated file": 1, "unreadable image": 1}


def write_records(path, records):
    """A TFRecord file, by the writer of TensorBoard's events."""
    writer = RecordWriter(str(path))
    for record in records:
        writer.write(record)
    writer.close()
    return path.read_bytes()


def make_fake(root, images="images"):
    """train with every defect, dev and test with one record each."""
    root.mkdir(parents=True, exist_ok=True)
    content = bytearray(write_records(root / "train.tfrecord", TRAIN))
    content[len(content) - 16 - len(TRAIN[-1]) - 4 - len(TRAIN[-2]) // 2] ^= 1
    (root / "train.tfrecord").write_bytes(bytes(content[:-7]))
    write_records(root / "dev.tfrecord", TRAIN[3:4])
    write_records(root / "test.tfrecord", TRAIN[:1])
    for name, content in IMAGES.items():
        path = root / images / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root
