"""Rows of parquet files: listed by their light columns, read one by one."""

from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath

from input_pipeline.records.record import DataError, RecordError


class Rows:
    """Parquet files below a folder. Picklable.

    A row group is read whole and the last one kept: reading rows in their order reads the files
    once, reading them in any other order reads a group per row.
    """

    def __init__(self, source: str):
        """Raises DataError when pyarrow, an optional package, is not installed."""
        self.source, self._kept = source, (None, None)
        _parquet()

    def index(self, name: str, columns: Sequence[str]) -> Iterator[tuple[int, int, dict]]:
        """(row group, row in it, {column: value}) of every row; None for columns not there.

        Raises DataError naming a file that is not readable.
        """
        try:
            with (epath.Path(self.source) / name).open("rb") as opened:
                file = _parquet().ParquetFile(opened)
                present = [c for c in columns if c in file.schema_arrow.names]
                for group in range(file.num_row_groups):
                    rows = file.read_row_group(group, present).to_pylist() if present else (
                        [{}] * file.metadata.row_group(group).num_rows)
                    for number, row in enumerate(rows):
                        yield group, number, dict.fromkeys(columns) | row
        except _errors() as error:
            raise DataError(f"{self.source}/{name}: not a readable parquet file ({error})"
                            ) from error

    def read(self, name: str, group: int, row: int) -> dict[str, Any]:
        """{column: value} of a row. Raises RecordError when its group cannot be read."""
        if self._kept[0] != (name, group):
            try:
                with (epath.Path(self.source) / name).open("rb") as opened:
                    table = _parquet().ParquetFile(opened).read_row_group(group)
            except _errors() as error:
                raise RecordError("file unreadable", f"{name}: {error}") from error
            self._kept = (name, group), table
        return self._kept[1].slice(row, 1).to_pylist()[0]

    def __getstate__(self):
        return {"source": self.source, "_kept": (None, None)}


def _parquet():
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise DataError("parquet files need pyarrow: pip install pyarrow") from error
    return pyarrow.parquet


def _errors() -> tuple[type[Exception], ...]:
    import pyarrow
    return OSError, pyarrow.ArrowException
