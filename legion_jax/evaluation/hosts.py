"""An evaluation on several hosts: each predicts its share with its own devices."""

import jax
from etils import epath

from input_pipeline.tokenizer import Tokenizer
from legion_jax import checkpoint, partition, sharding
from legion_jax.inference import Predictor, abstract_params
from legion_jax.predictions import Question


def predictor(folder: epath.PathLike, *, batch_size: int) -> Predictor:
    """`Predictor.from_folder` over the devices of this host. Raises as that does."""
    if jax.process_count() == 1:
        return Predictor.from_folder(folder, batch_size=batch_size)
    meta = checkpoint.read_meta(folder)
    mesh = sharding.make_mesh((1, -1, 1), jax.local_devices())
    abstract = partition.flatten(abstract_params(meta["config"], mesh))
    return Predictor(meta["config"], checkpoint.load_params(folder, abstract),
                     Tokenizer.from_folder(epath.Path(folder) / "tokenizer"),
                     question=Question(**meta.get("question", {})), batch_size=batch_size,
                     mesh=mesh)
