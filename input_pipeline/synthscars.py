"""SynthScars as a TFDS data set in ArrayRecord files, read without TensorFlow."""

import dataclasses
import json
import re

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from etils import epath

from input_pipeline.annotations import (
    AnnotationError,
    SkipLog,
    find_splits,
    load_annotations,
    read_records,
)

SKIPPED, SUMMARY = "skipped.jsonl", "summary.json"


@dataclasses.dataclass
class SynthScarsConfig(tfds.core.BuilderConfig):
    """A flavour of the data set.

    Attributes:
        photos: images without refs are real photos, those with refs are tampered.
    """

    photos: bool = False


class SynthScars(tfds.core.GeneratorBasedBuilder):
    """Images with explained and outlined artifacts, in SynthScars' annotation format."""

    VERSION = tfds.core.Version("1.0.0")
    # TFDS finds this itself by a package it only requires on older Pythons.
    code_path = epath.Path(__file__)
    BUILDER_CONFIGS = [
        SynthScarsConfig(name="published", description="Synthetic images, every one scarred."),
        SynthScarsConfig(name="photos", description="Real photos, some tampered.", photos=True),
    ]

    def __init__(self, *, source: epath.PathLike | None = None, **kwargs):
        """Takes TFDS' own arguments, and `source`: the folder to prepare from."""
        self._source = source
        super().__init__(**kwargs)

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "id": tfds.features.Text(),
                    # The file as it is: an image feature would decode and encode it again.
                    "image": tfds.features.Tensor(shape=(), dtype=np.object_),
                    "height": tfds.features.Scalar(np.int32),
                    "width": tfds.features.Scalar(np.int32),
                    "label": tfds.features.Scalar(np.int32),
                    "group_id": tfds.features.Text(),
                    "file_name": tfds.features.Text(),
                    "caption": tfds.features.Text(),
                    "regions": tfds.features.Sequence(
                        {
                            "phrase": tfds.features.Text(),
                            "start": tfds.features.Scalar(np.int32),
                            "end": tfds.features.Scalar(np.int32),
                            "explanation": tfds.features.Text(),
                            "polygons": tfds.features.Text(),
                        }
                    ),
                }
            ),
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # nothing is downloaded
        self._skipped, self._summary = [], {"sources": {}, "splits": {}}
        return {files.name: self._generate_examples(files) for files in find_splits(self._source)}

    def _generate_examples(self, files):
        items, digest = load_annotations(files.annotations)
        log, regions, records = SkipLog(files.name), 0, 0
        for record in read_records(items, files, photos=self.builder_config.photos, log=log):
            records, regions = records + 1, regions + len(record["regions"])
            yield record["id"], record
        skipped, dropped = log.counts(refs=False), log.counts(refs=True)
        if not records:
            raise AnnotationError(f"{files.annotations}: no usable record; skipped: {skipped}")
        self._skipped += log.entries
        self._summary["sources"][files.name] = digest
        self._summary["splits"][files.name] = {
            "annotations": len(items),
            "records": records,
            "regions": regions,
            "skipped": skipped,
            "dropped": dropped,
        }
        # TFDS points data_path at the unfinished folder meanwhile: these appear with the data.
        lines = (json.dumps(entry) + "\n" for entry in self._skipped)
        (self.data_path / SKIPPED).write_text("".join(lines))
        (self.data_path / SUMMARY).write_text(json.dumps(self._summary, indent=1) + "\n")
        if log.entries:
            logging.warning(
                "%s: skipped %d of %d records %s, dropped %d regions %s",
                *(files.name, sum(skipped.values()), len(items), skipped),
                *(sum(dropped.values()), dropped),
            )


def read_summary(builder: tfds.core.DatasetBuilder) -> dict:
    """Reads what preparing counted.

    Returns:
        {"sources": {split: SHA-256 of its annotation file}, "splits": {split: {"annotations": int,
        "records": int, "regions": int, "skipped": {reason: records}, "dropped": {reason:
        regions}}}}.
    """
    return json.loads((builder.data_path / SUMMARY).read_text())


def prepare(
    source: epath.PathLike, data_dir: epath.PathLike, *, config: str
) -> tfds.core.DatasetBuilder:
    """Writes a data set; does nothing where the same one is already complete.

    The folder gets its name when everything is written, `skipped.jsonl` (one line per skipped
    record or dropped ref) and `summary.json` included.

    Args:
        source: folder in SynthScars' layout.
        data_dir: folder of all prepared data sets.
        config: 'published' or 'photos'.

    Returns:
        The builder of the prepared data set; `builder.data_path` is its folder.

    Raises:
        AnnotationError: unknown config, unusable source, or a data set prepared earlier from other
            annotation files.
    """
    if config not in SynthScars.builder_configs:
        known = ", ".join(SynthScars.builder_configs)
        raise AnnotationError(f"no config {config!r} of SynthScars; known: {known}")
    digests = {f.name: load_annotations(f.annotations)[1] for f in find_splits(source)}
    builder = SynthScars(
        source=source, config=config, data_dir=str(data_dir), file_format="array_record"
    )
    if builder.data_path.exists():
        if not (builder.data_path / SUMMARY).exists():
            raise AnnotationError(f"{builder.data_path}: exists and is not complete; remove it")
        if read_summary(builder)["sources"] != digests:
            raise AnnotationError(
                f"{builder.data_path}: was prepared from other annotations than {source};"
                " choose another data_dir or remove it"
            )
        return builder
    options = tfds.download.DownloadConfig(try_download_gcs=False)
    builder.download_and_prepare(download_config=options)
    return builder


def _find_version(data_dir):
    """Returns the one complete data set folder at or below data_dir."""
    root = epath.Path(data_dir)
    if (root / "dataset_info.json").exists():
        return root
    found = sorted(
        path.parent
        for depth in ("*", "*/*", "*/*/*")
        for path in root.glob(f"{depth}/dataset_info.json")
        if re.fullmatch(r"\d+\.\d+\.\d+", path.parent.name)  # unfinished ones have a longer name
    )
    if not found:
        raise AnnotationError(f"{root}: no prepared data set here")
    if len(found) > 1:
        names = ", ".join(str(path) for path in found)
        raise AnnotationError(f"{root}: several data sets here, name one of: {names}")
    return found[0]


def open_split(data_dir: epath.PathLike, split: str):
    """Opens a split for random access.

    Args:
        data_dir: folder of a prepared data set (`.../synth_scars/photos/1.0.0`), or a folder above
            it that holds only this one.
        split: name, or a TFDS slice of it such as 'train[:10%]'.

    Returns:
        A sequence of records. Texts come back as bytes in UTF-8, `image` as the encoded file,
        `regions` as a dict of parallel arrays.

    Raises:
        AnnotationError: no data set there, more than one, or it has no such split.
    """
    builder = tfds.builder_from_directory(str(_find_version(data_dir)))
    name = re.match(r"\w*", split).group()
    if name not in builder.info.splits:
        known = ", ".join(builder.info.splits)
        raise AnnotationError(f"{builder.data_path}: no split {split!r}; available: {known}")
    try:
        source = builder.as_data_source(split=split)
    except (ValueError, AssertionError) as error:
        raise AnnotationError(f"{builder.data_path}: split {split!r}: {error}") from error
    if not len(source):
        raise AnnotationError(f"{builder.data_path}: split {split!r} holds no records")
    return source
