"""What frozen towers see, computed once per photo and kept on disk.

A frozen CLIP or SAM encoder gives the same output for the same photo in every epoch. A cache is one
array file per tower and split, `TOWER-SPLIT-KEY.npy`, read by memory map; KEY changes
with the weights, the architecture and the preprocessing. SAM ViT-H takes 2 MiB per photo, CLIP
1.1 MiB.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
import tempfile
from collections.abc import Sequence

import jax
import ml_dtypes
import numpy as np
from etils import epath
from tqdm import tqdm

from input_pipeline import buckets, files
from input_pipeline.batches import loader
from input_pipeline.batches.examples import ExampleSpec, blank_views, image_fields
from input_pipeline.errors import UserError
from input_pipeline.paths import is_uri
from input_pipeline.photos import images
from input_pipeline.records import manifest, prepared
from input_pipeline.records.record import RecordError
from legion_jax import sharding
from legion_jax.config import LegionConfig
from legion_jax.models import param_tree
from legion_jax.models.layers import numerics
from legion_jax.weights import checkpoint


@dataclasses.dataclass(frozen=True)
class Tower:
    """One tower whose output can be kept.

    Attributes:
        path: beginning of its parameter paths.
        image, features: what a batch holds without and with a cache.

    Its name is also that of its fields in LegionConfig and ExampleSpec: the architecture and the
    view that its output depends on.
    """

    path: str
    image: str
    features: str


TOWERS = {"vision": Tower("vision/", "vision_image", "seen"),
          "sam": Tower("sam_encoder/", "sam_image", "sam_embedding")}


class FeatureError(UserError):
    """A cache that is not there or not complete."""


def row_shape(config: LegionConfig, tower: str) -> tuple[int, ...]:
    """Shape of one photo's features."""
    if tower == "vision":
        return (1 + config.vision.num_patches, config.vision.width)
    return (config.sam.grid, config.sam.grid, config.sam.prompt_width)


@dataclasses.dataclass(frozen=True)
class Cache:
    """Where the features of one split are, and what they are computed with.

    Attributes:
        tower: one of `TOWERS`.
        data: folder of the prepared data set; split: of it.
        weights: folder the tower's parameters come from; weights_dtype: they are held in.
    """

    tower: str
    data: str
    split: str
    weights: str
    weights_dtype: str
    config: LegionConfig
    spec: ExampleSpec

    def file(self, folder: epath.PathLike) -> epath.Path:
        """The file below the folder of all caches."""
        base = checkpoint.base_of(self.weights)
        architecture = dataclasses.asdict(getattr(self.config, self.tower))
        parts = [base["fingerprint"], base["step"], self.weights_dtype, self.config.dtype,
                 architecture, self.spec.reduced_decoding,
                 dataclasses.asdict(getattr(self.spec, self.tower)),
                 manifest.read_summary(prepared.find_version(self.data))["content"]]
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
        name = "".join(c if c.isalnum() else "_" for c in self.split)
        return epath.Path(folder) / f"{self.tower}-{name}-{digest}.npy"

    def open(self, folder: epath.PathLike, records: int) -> np.ndarray:
        """The features [N, ...] in the model's dtype, mapped from the file.

        From a bucket it is copied first, and needs room under TMPDIR as long as it is used.

        Raises FeatureError when it is not there or not of this size.
        """
        file, shape = self.file(folder), (records, *row_shape(self.config, self.tower))
        if not file.exists():
            raise FeatureError(f"{file}: not there; tools.cache_features makes it for these "
                               f"weights and this preprocessing")
        with files.local_copy(file) as local:  # mapped, it stays although its name goes
            values = np.load(local, mmap_mode="r", allow_pickle=False)
        if values.shape != shape or values.dtype != _stored(self.config):
            raise FeatureError(f"{file}: {values.dtype} {values.shape}, wanted "
                               f"{_stored(self.config)} {shape}")
        return values.view(_dtype(self.config))


def _dtype(config: LegionConfig) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16 if config.dtype == "bfloat16" else np.float32)


def _stored(config: LegionConfig) -> np.dtype:
    """numpy's files know no bfloat16."""
    return np.dtype(np.uint16 if config.dtype == "bfloat16" else np.float32)


def make_cache(cache: Cache, folder: epath.PathLike, source: Sequence, *,
               batch_size: int = 8) -> None:
    """Compute and write the features of every record; on a disk, an interrupted run is continued.

    A photo that cannot be read has zeros; training leaves its record out anyway.
    """
    file = cache.file(folder)
    if file.exists():
        return
    if not is_uri(file):
        return _fill(cache, file, source, batch_size)
    with tempfile.TemporaryDirectory(prefix="legion-") as scratch:
        local = epath.Path(scratch) / file.name
        _fill(cache, local, source, batch_size)
        buckets.put(pathlib.Path(local), file)


def _fill(cache: Cache, file: epath.Path, source: Sequence, batch_size: int) -> None:
    config, shape = cache.config, (len(source), *row_shape(cache.config, cache.tower))
    partial = file.parent / f".{file.name}.writing"
    progress = file.parent / f".{file.name}.done"
    done = json.loads(progress.read_text()) if partial.exists() and progress.exists() else 0
    file.parent.mkdir(parents=True, exist_ok=True)
    values = np.lib.format.open_memmap(partial, "r+" if done else "w+", _stored(config), shape)
    run = _compiled(cache)
    with tqdm(total=len(source), initial=done, desc=file.name, unit="photo") as bar:
        items = range(done, len(source))
        for group, real in loader.padded_batches(items, batch_size):
            rows = loader.stack([_views(source, i, cache.spec) for i in group])
            features = np.array(jax.device_get(run(rows)).astype(_dtype(config)))
            features[~rows["readable"]] = 0
            values[group[0]:group[0] + real] = features[:real].view(_stored(config))
            values.flush()
            files.write_text(progress, json.dumps(group[0] + real))
            bar.update(real)
    del values
    partial.rename(file)
    progress.unlink()


def _views(source: Sequence, index: int, spec: ExampleSpec) -> dict:
    try:
        record = source[index]
        image = images.read_image(record.image, name=record.id)
    except (images.ImageError, RecordError):
        return blank_views(spec) | {"readable": np.bool_(False)}
    return image_fields(image, spec) | {"readable": np.bool_(True)}


def _compiled(cache: Cache):
    """rows of `_views` -> features, with the tower's parameters loaded over all devices."""
    mesh, config = sharding.make_mesh((1, -1, 1)), cache.config
    graph, wanted, rest = param_tree.split_params(
        param_tree.abstract_model(config), (f"^{TOWERS[cache.tower].path}",))
    abstract = sharding.shard_abstract(param_tree.cast(wanted, cache.weights_dtype), mesh)
    params = param_tree.unflatten(checkpoint.Checkpoint.open(
        cache.weights).load_some(param_tree.flatten(abstract)))

    def features(params, rows):
        merged = param_tree.merge(graph, params, rest)
        with numerics(config):
            if cache.tower == "vision":
                return merged.see(rows["vision_image"]).rows
            return merged.ground(rows["sam_image"], rows["resized_size"])

    compiled = jax.jit(features)

    def run(rows):
        spread = functools.partial(jax.device_put, device=jax.sharding.NamedSharding(
            mesh, sharding.fit(sharding.P(sharding.BATCH), (len(rows["readable"]),), mesh)))
        with jax.set_mesh(mesh):
            return compiled(params, {k: spread(v) for k, v in rows.items() if k != "readable"})
    return run
