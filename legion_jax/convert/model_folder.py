"""A folder that an export writes: small files, and weights files laid out before any value."""

import contextlib
import dataclasses
import json
import math
import pathlib

from input_pipeline.errors import UserError
from legion_jax.convert import streaming
from legion_jax.convert.origin import Tensor
from legion_jax.convert.torch_file import TorchWriter
from legion_jax.weights import tensor_file
from legion_jax.weights.tensor_file import SafetensorsWriter

WEIGHTS = {"bin": "pytorch_model.bin", "safetensors": "model.safetensors"}
SHARD_BYTES = 10 * 10 ** 9  # as transformers 4.28 cuts them


@dataclasses.dataclass
class ModelFolder:
    """Contents of a folder by relative path.

    Attributes:
        weights: {file: {name in the file: Tensor}}; the suffix decides the format.
        small: {file: bytes}.
    """

    weights: dict[str, dict[str, Tensor]] = dataclasses.field(default_factory=dict)
    small: dict[str, bytes] = dataclasses.field(default_factory=dict)

    def add_model(self, folder: str, tensors: dict[str, Tensor], *, file_format: str,
                  shard_bytes: int = SHARD_BYTES) -> None:
        """Place a model's tensors as `save_pretrained` does: one file, or shards and an index."""
        name = WEIGHTS[file_format]
        shards, room = [{}], shard_bytes
        for key, tensor in tensors.items():
            if nbytes(tensor) > room and shards[-1]:
                shards, room = [*shards, {}], shard_bytes
            shards[-1][key] = tensor
            room -= nbytes(tensor)
        if len(shards) == 1:
            self.weights[f"{folder}{name}"] = shards[0]
            return
        stem, suffix = name.split(".")
        weight_map = {}
        for number, shard in enumerate(shards, 1):
            file = f"{stem}-{number:05d}-of-{len(shards):05d}.{suffix}"
            self.weights[f"{folder}{file}"] = shard
            weight_map |= dict.fromkeys(shard, file)
        total = sum(nbytes(t) for t in tensors.values())
        self.small[f"{folder}{name}.index.json"] = encode(
            {"metadata": {"total_size": total}, "weight_map": weight_map})

    def add_small(self, folder: str, files: dict[str, bytes]) -> None:
        """Place small files, {name: content}, in a folder, which ends in a slash or is ""."""
        self.small |= {f"{folder}{name}": content for name, content in files.items()}

    def write(self, root: pathlib.Path, *, progress: bool) -> None:
        """Write everything below `root`; each parameter is read once."""
        for file in [*self.small, *self.weights]:
            (root / file).parent.mkdir(parents=True, exist_ok=True)
        for file, content in self.small.items():
            (root / file).write_bytes(content)
        everything = [(file, key, tensor) for file, tensors in self.weights.items()
                      for key, tensor in tensors.items()]
        everything.sort(key=lambda item: item[2].order)
        with contextlib.ExitStack() as stack:
            writers = {file: stack.enter_context(_writer(root / file, tensors))
                       for file, tensors in self.weights.items()}

            def transfer(item):
                file, key, tensor = item
                writers[file].write(key, tensor.read())

            streaming.run(transfer, everything, sizes=[nbytes(t) for _, _, t in everything],
                          beside={}, description="writing", progress=progress)


def nbytes(tensor: Tensor) -> int:
    """Bytes of a tensor's value."""
    return math.prod(tensor.shape) * tensor_file.numpy_dtype(tensor.dtype).itemsize


def encode(value: dict) -> bytes:
    """JSON as transformers writes it."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _writer(path: pathlib.Path, tensors: dict[str, Tensor]):
    described = {key: (t.shape, t.dtype) for key, t in tensors.items()}
    if path.suffix == ".safetensors":
        return SafetensorsWriter(path, described, metadata={"format": "pt"})
    try:
        return TorchWriter(path, described)
    except ImportError as error:
        raise UserError(f"{path.name}: writing it needs PyTorch (pip install torch==2.13.0); "
                        f"--format safetensors does without") from error
