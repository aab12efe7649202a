"""Any data set -> records in ArrayRecord files, by TFDS, with an account of every item.

Beside the records lie `SPLIT-manifest.jsonl`, one line per item of the source (what became of it,
its label and group, repairs, dropped regions), and `summary.json`, their counts.
"""

import contextlib
import json
import logging
import os
import pathlib
from collections.abc import Iterator, Sequence

import tensorflow_datasets as tfds
from etils import epath
from tqdm import tqdm

from input_pipeline import buckets, files
from input_pipeline.errors import first_line
from input_pipeline.paths import is_link, is_uri, parse
from input_pipeline.records import manifest, record, shuffled
from input_pipeline.records.dataset import DataSet, Item, read_item
from input_pipeline.records.manifest import MANIFEST, SUMMARY
from input_pipeline.records.prepared import COMPLETE, check_described
from input_pipeline.records.record import DataError

LOG = logging.getLogger("input_pipeline")
VERSION = "2.0.0"
UNUSABLE = "unusable-"  # of the name of a manifest that was kept of a split without records


class UnusableError(DataError):
    """A split of which no record can be used; `account` is the manifest that says why."""

    def __init__(self, reason: str, account: epath.Path):
        """`reason`: in short."""
        super().__init__(f"{reason}; the reason for each is in {account}")
        self.reason, self.account = reason, account


class Prepared(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """TFDS' side of a data set; `prepare` makes one with the data set's name."""

    VERSION = tfds.core.Version(VERSION)
    # TFDS finds this itself by a package it only requires on older Pythons.
    code_path = epath.Path(__file__)

    def __init__(self, *, dataset: DataSet, splits: dict[str, list[Item]], beam: bool, **kwargs):
        """Takes TFDS' own arguments, the data set, its items, and whether Beam reads them."""
        self._dataset, self._splits, self._beam = dataset, splits, beam
        super().__init__(**kwargs)

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=record.features())

    def _split_generators(self, dl_manager):
        del dl_manager  # nothing is downloaded
        return {split: self._generate_examples(split) for split in self._splits}

    def _generate_splits(self, dl_manager, download_config):
        if self._beam:
            return super()._generate_splits(dl_manager, download_config)
        return [shuffled.write_split(split, self._generate_examples(split), self.info.features,
                                     self._get_filename_template(split_name=split))
                for split in self._splits]

    def _generate_examples(self, split):
        items = self._splits[split]
        # TFDS points data_path at the unfinished folder meanwhile: the manifest appears with it.
        if self._beam:
            from input_pipeline.records import cluster  # Apache Beam is an optional extra
            return cluster.read_items(self._dataset, split, items, self.data_path)
        return _read_items(self._dataset, split, items, self.data_path / f"{split}-{MANIFEST}")


def _read_items(dataset: DataSet, split: str, items: Sequence[Item],
                path: epath.Path) -> Iterator[tuple[str, dict]]:
    seen, usable = set(), 0
    with path.open("w") as lines:
        for item in tqdm(items, desc=f"reading {split}", unit="image"):
            entry, features = read_item(dataset, split, item)
            if item.id in seen:
                entry, features = manifest.duplicate(entry), None
            lines.write(json.dumps(entry) + "\n")
            seen.add(item.id)
            if features is not None:
                usable += 1
                yield features["id"], features
    if not usable:
        raise UnusableError(f"{dataset.source}: {split}: no usable record; "
                            f"{manifest.reasons(path) or 'it holds no items'}", _kept(path))


def _kept(path: epath.Path) -> epath.Path:
    """The manifest, copied to beside the unfinished folder, which is about to be removed."""
    return path.copy(path.parent.parent / f"{UNUSABLE}{path.name}", overwrite=True)


def prepare(dataset: DataSet, data_dir: epath.PathLike, *,
            beam: list[str] | None = None) -> tfds.core.DatasetBuilder:
    """Write a data set; does nothing where the same one is already complete.

    The folder gets its name when everything is written. Into a bucket, for which ArrayRecord has no
    writer, it is copied then, and needs room under TMPDIR.

    Args:
        data_dir: folder of all prepared data sets.
        beam: options of an Apache Beam pipeline (["--runner=DirectRunner"]), None for none.

    Returns:
        The builder of the prepared data set; `builder.data_path` is its folder.

    Raises:
        DataError: unusable source, or a data set prepared earlier from another one.
    """
    if is_uri(data_dir):
        _check_on_this_machine(beam, data_dir)
    splits = dataset.splits()
    if not splits:
        raise DataError(f"{dataset.source}: it holds no items")
    return (_prepare_in_bucket if is_uri(data_dir) else _prepare)(dataset, splits, data_dir, beam)


def _prepare(dataset: DataSet, splits: dict[str, list[Item]], data_dir: epath.PathLike,
             beam: list[str] | None) -> Prepared:
    builder, digest = _builder(dataset, splits, data_dir, beam), dataset.digest(splits)
    with _alone(builder.data_path):
        if _is_prepared(builder, dataset, digest):
            return builder
        for stale in builder.data_path.parent.glob(f"incomplete.*_{VERSION}"):
            LOG.warning("removing %s, left by an interrupted run", stale)
            if is_link(stale):
                raise DataError(f"{stale}: a link where an interrupted run left its folder; remove "
                                f"it")
            stale.rmtree()
        for account in builder.data_path.parent.glob(f"{UNUSABLE}*-{MANIFEST}"):
            account.unlink()  # of an earlier try
        _write(builder, dataset, beam)
        manifest.write_summary(builder.data_path, dataset, splits, digest)
    return builder


def _prepare_in_bucket(dataset: DataSet, splits: dict[str, list[Item]], data_dir: epath.PathLike,
                       beam: list[str] | None) -> Prepared:
    """There are no locks: of two processes at once, the last to finish wins with the same files."""
    builder = _builder(dataset, splits, data_dir, beam)
    buckets.clear_unfinished(builder.data_path)
    if _is_prepared(builder, dataset, dataset.digest(splits)):
        return builder
    with files.new_folder(builder.data_path, last=COMPLETE) as folder:
        try:
            local = _prepare(dataset, splits, folder.parent / "data", beam)
        except UnusableError as error:
            account = builder.data_path.parent / error.account.name
            buckets.put(pathlib.Path(error.account), account)
            raise UnusableError(error.reason, account) from error
        folder.rmdir()
        local.data_path.rename(folder)
    return _builder(dataset, splits, data_dir, beam)


def _builder(dataset: DataSet, splits: dict[str, list[Item]], data_dir: epath.PathLike,
             beam: list[str] | None) -> Prepared:
    """Raises DataError where something is there already that TFDS cannot or may not be given."""
    there = parse(data_dir) / dataset.name / dataset.config / VERSION
    if (there / COMPLETE).exists():
        check_described(there)
    kind = type("Prepared", (Prepared,), {"name": dataset.name}, skip_registration=True)
    configs = [tfds.core.BuilderConfig(name=name, description=text)
               for name, text in dataset.configs.items()]
    kind.BUILDER_CONFIGS = configs
    try:
        return kind(dataset=dataset, splits=splits, beam=beam is not None, config=dataset.config,
                    data_dir=str(parse(data_dir)), file_format="array_record")
    except Exception as error:  # TFDS raises nearly anything on a damaged folder
        if not (there / COMPLETE).exists():
            raise
        raise DataError(f"{there}: not a readable data set: {first_line(error)}") from error


def _is_prepared(builder: Prepared, dataset: DataSet, digest: str) -> bool:
    """Whether the same data set is there. Raises DataError where another one is."""
    if not builder.data_path.exists():
        return False
    _check_same(builder.data_path, dataset, digest)
    LOG.warning("%s: already prepared; the source was not read again (remove the folder to have "
                "it read)", builder.data_path)
    return True


def _check_on_this_machine(beam: list[str] | None, data_dir: epath.PathLike) -> None:
    """Raises DataError for workers elsewhere, which would write to a disk of their own."""
    for option in beam or ():
        if option.startswith("--runner") and not option.endswith("DirectRunner"):
            raise DataError(f"--beam {option}: its workers write ArrayRecord files, which cannot "
                            f"be written to {data_dir}; name a folder that all of them mount")


@contextlib.contextmanager
def _alone(folder: epath.Path) -> Iterator[None]:
    """Keeps other processes of this machine from preparing the same data set meanwhile."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder.parent, os.O_RDONLY)  # a lock that leaves no file behind
    try:
        files.lock(descriptor, DataError(f"{folder}: another process is preparing it"))
        yield
    finally:
        os.close(descriptor)


def _write(builder: Prepared, dataset: DataSet, beam: list[str] | None) -> None:
    config = tfds.download.DownloadConfig(try_download_gcs=False, beam_options=_beam_options(beam))
    try:
        builder.download_and_prepare(download_config=config)
    except Exception as error:
        if beam is not None:
            from input_pipeline.records import cluster
            if known := cluster.as_data_error(error, dataset):
                raise known from error
        if isinstance(error, RuntimeError) and "write" in str(error):  # of ArrayRecord
            line = " ".join(str(error).split())[:300]
            raise DataError(f"{builder.data_path}: cannot be written: {line}") from error
        raise


def _check_same(folder: epath.Path, dataset: DataSet, digest: str) -> None:
    if not (folder / SUMMARY).exists():
        if not (folder / COMPLETE).exists():
            raise DataError(f"{folder}: exists and is not complete; remove it")
        manifest.write_summary(folder, dataset, dataset.splits(), digest)  # killed just before
    if manifest.read_summary(folder)["digest"] != digest:
        raise DataError(f"{folder}: was prepared from another source than {dataset.source}; "
                        f"choose another data_dir or remove it")


def _beam_options(options: list[str] | None):
    if options is None:
        return None
    try:
        import apache_beam as beam
    except ImportError as error:
        raise DataError("Apache Beam is not installed: pip install -e '.[beam]'") from error
    return beam.options.pipeline_options.PipelineOptions(options)
