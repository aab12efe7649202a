"""Rows of parquet files: listed by their light columns, read one by one."""

from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath

from input_pipeline.files import check_plain
from input_pipeline.photos.images import MAX_BYTES
from input_pipeline.records.record import DataError, RecordError

LISTED = 256  # rows that are listed at a time
LARGEST = 2 * MAX_BYTES  # bytes of a row: a photo and a mask


class Rows:
    """Parquet files below a folder. Picklable.

    Rows are decoded one at a time: a file of kilobytes may hold a group of gigabytes. Reading rows
    in their order reads the files once; one before the row that was read last begins its group
    anew.
    """

    def __init__(self, source: str):
        """Raises DataError when pyarrow, an optional package, is not installed."""
        self.source, self._open, self._place, self._left = source, None, None, None
        _parquet()

    def index(self, name: str, columns: Sequence[str]) -> Iterator[tuple[int, int, dict]]:
        """(row group, row in it, {column: value}) of every row; None for columns not there.

        Raises DataError naming a file that is not readable.
        """
        check_plain(epath.Path(self.source) / name, DataError)
        try:
            with (epath.Path(self.source) / name).open("rb") as opened:
                file = _parquet().ParquetFile(opened)
                present = [c for c in columns if c in file.schema_arrow.names]
                for group in range(file.num_row_groups):
                    rows = (row for batch in file.iter_batches(LISTED, [group], present)
                            for row in batch.to_pylist()) if present else (
                        {} for _ in range(file.metadata.row_group(group).num_rows))
                    for number, row in enumerate(rows):
                        yield group, number, dict.fromkeys(columns) | row
        except _errors() as error:
            raise DataError(f"{self.source}/{name}: not a readable parquet file ({error})"
                            ) from error

    def read(self, name: str, group: int, row: int) -> dict[str, Any]:
        """{column: value} of a row. Raises RecordError when it cannot be read or is too large."""
        try:
            if self._left is None or self._place[:2] != (name, group) or self._place[2] > row:
                self._close()
                self._open = (epath.Path(self.source) / name).open("rb")
                self._place = name, group, 0
                self._left = _parquet().ParquetFile(self._open).iter_batches(1, [group])
            for _ in range(self._place[2], row):
                next(self._left)
            cells = next(self._left)
        except (*_errors(), StopIteration) as error:
            self._left = None
            raise RecordError("file unreadable", f"{name}: {error}") from error
        self._place = name, group, row + 1
        if cells.nbytes > LARGEST:
            raise RecordError("file unreadable", f"{name}: a row of {cells.nbytes} bytes, limit "
                                                 f"{LARGEST}")
        return cells.to_pylist()[0]

    def _close(self) -> None:
        if self._open:
            self._open.close()

    def __getstate__(self):
        return {"source": self.source, "_open": None, "_place": None, "_left": None}


def _parquet():
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise DataError("parquet files need pyarrow: pip install pyarrow") from error
    return pyarrow.parquet


def _errors() -> tuple[type[Exception], ...]:
    import pyarrow
    return OSError, pyarrow.ArrowException
