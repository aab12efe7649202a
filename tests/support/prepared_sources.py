"""Tiny sources prepared as data sets, in this process or by the command, and read back."""

import tensorflow_datasets as tfds
from commands import run_tool
from etils import epath

from input_pipeline.datasets import open_dataset
from input_pipeline.records import builder
from input_pipeline.records.prepared import open_split
from input_pipeline.records.record import Record


def prepare(name: str, source, data_dir, *, beam: list[str] | None = None
            ) -> tfds.core.DatasetBuilder:
    """The data set `name` (KIND or KIND/CONFIG) of a source; `beam`: the options of a cluster."""
    return builder.prepare(open_dataset(name, str(source)), data_dir, beam=beam)


def by_id(built: tfds.core.DatasetBuilder, split: str = "train") -> dict[str, Record]:
    return {record.id: record for record in open_split(built.data_path, split)}


def write_times(folder: epath.Path) -> dict[epath.Path, int]:
    """Of every file of a folder, which a second run must not change."""
    return {path: path.stat().mtime for path in folder.iterdir()}


def printed_by_the_tool(name: str, source, data_dir) -> str:
    """What `tools.prepare_data` prints of a data set that it prepares."""
    done = run_tool("tools.prepare_data", f"--dataset={name}", f"--source={source}",
                    f"--data_dir={data_dir}", timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout
