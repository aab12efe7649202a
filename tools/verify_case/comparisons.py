"""Comparisons with the arrays of a case: their rules, and the table of what they found."""

import dataclasses
import math
from collections.abc import Iterable, Mapping

import numpy as np
from rich.console import Console
from rich.table import Table

from input_pipeline.errors import UserError


class Stored:
    """Arrays of a case, remembering which have been asked for.

    Attributes:
        left_out: names of arrays that the full case has and this one is known to lack.
        unused: names of those nobody has asked for yet.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], left_out: Iterable[str] = ()):
        self._arrays, self.left_out = dict(arrays), frozenset(left_out)
        self.unused = set(self._arrays)

    def __getitem__(self, name: str) -> np.ndarray:
        """Raises UserError for an array that is not there."""
        if name not in self._arrays:
            raise UserError(f"{name}: the case has no such array, which the checks cannot do "
                            f"without")
        self.unused.discard(name)
        return self._arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def names(self, prefix: str) -> list[str]:
        """Names with that beginning, of arrays that are there and of those left out."""
        return [name for name in (*self._arrays, *sorted(self.left_out)) if name.startswith(prefix)]


@dataclasses.dataclass(frozen=True)
class Row:
    """One comparison: largest difference and the tolerance, in the unit the rule compares in."""

    quantity: str
    difference: float
    tolerance: float
    unit: str

    @property
    def passed(self) -> bool:
        return self.difference <= self.tolerance  # NaN fails


class Results:
    """All comparisons of a case.

    Every comparing method takes (name, ours) and the reference, by default the array of that name
    in the case. Of an array that a slim case has left out, only the name is noted.

    Attributes:
        rows: what was compared; left_out: names that could not be.
    """

    def __init__(self, *stored: Stored):
        """`stored`: where the references are looked up."""
        self.rows: list[Row] = []
        self.left_out: list[str] = []
        self._stored = stored

    def add(self, name: str, difference: float, tolerance: float, unit: str) -> None:
        """Note a comparison that was made elsewhere."""
        self.rows.append(Row(name, float(difference), float(tolerance), unit))

    def leave_out(self, name: str) -> None:
        """Note a comparison for which the case lacks the reference, and says so."""
        self.left_out.append(name)

    def _reference(self, name: str, want) -> np.ndarray | None:
        """`want`, or the array of that name in the case; None, noted, where it was left out."""
        if want is not None:
            return np.asarray(want)
        for stored in self._stored:
            if name in stored:
                return stored[name]
        if not any(name in stored.left_out for stored in self._stored):
            raise UserError(f"{name}: the case has no such array, and does not say that it was "
                            f"left out")
        self.leave_out(name)
        return None

    def equal(self, name, got, want=None, *, where=True) -> None:
        """Integers, flags, texts: number of entries that differ among those that count, `where`."""
        got, want = np.asarray(got), self._reference(name, want)
        if want is not None:
            wrong = (got.size + want.size if got.shape != want.shape
                     else int(((got != want) & where).sum()))
            self.add(name, wrong, 0, "entries")

    def within(self, name, got, want=None, *, tolerance: float) -> None:
        """Largest absolute difference."""
        want = self._reference(name, want)
        if want is not None:
            self.add(name, _largest(got, want), tolerance, "absolute")

    def scaled(self, name, got, want=None, *, rounding: float = 0.0, per: int = 1,
               where=True) -> None:
        """Features: 1e-4 of the largest reference magnitude, at least 1e-4.

        Args:
            rounding: relative spacing of a reference that was stored in less than float32.
            per: number of values of which each entry is the sum; their mean is compared.
            where: flags of what counts, broadcast to the feature's shape.
        """
        want = self._reference(name, want)
        if want is not None:
            got, want = (np.where(where, x, 0) / per for x in (got, want))
            magnitude = max(1.0, float(np.abs(want.astype(np.float64)).max(initial=0)))
            self.add(name, _largest(got, want), (1e-4 + rounding) * magnitude, "absolute")

    def of_largest(self, name, got, want=None, *, tolerance: float) -> None:
        """Gradients: largest difference, relative to the largest entry of the reference."""
        want = self._reference(name, want)
        if want is not None:
            scale = float(np.abs(want).max(initial=0)) or 1.0
            self.add(name, _largest(got / scale, want / scale), tolerance, "absolute")

    def relative(self, name, got, want=None, *, tolerance: float) -> None:
        """Scalars, relative to each reference value; zeros must be met exactly."""
        want = self._reference(name, want)
        if want is None:
            return
        got, want = np.asarray(got, np.float64), want.astype(np.float64)
        if got.shape != want.shape:
            self.add(f"{name} (shape {got.shape}, reference {want.shape})", np.inf, tolerance,
                     "relative")
            return
        difference = np.abs(got - want)
        scale = np.where(want == 0, 1, np.abs(want))
        self.add(name, (difference / scale).max(initial=0), tolerance, "relative")

    def stats(self, name, got, want=None, *, axes: int, tolerance: float = 1e-4) -> None:
        """[sum, sum of abs, sum of squares, min, max] over the last `axes` axes.

        Sums are measured against the sum of absolute values, extremes against the largest one.
        """
        want = self._reference(name, want)
        if want is None:
            return
        x = np.asarray(got, np.float64)
        x = x.reshape(*x.shape[:x.ndim - axes], -1)
        ours = np.stack([x.sum(-1), np.abs(x).sum(-1), (x ** 2).sum(-1), x.min(-1), x.max(-1)], -1)
        extreme = np.maximum(np.abs(want[..., 3]), np.abs(want[..., 4]))
        scale = np.stack([want[..., 1], want[..., 1], want[..., 2], extreme, extreme], -1)
        if ours.shape != want.shape:
            self.add(f"{name} (shape)", np.inf, tolerance, "relative")
            return
        self.add(name, (np.abs(ours - want) / np.maximum(scale, 1e-12)).max(initial=0), tolerance,
                 "relative")

    def signs(self, name, got, want) -> None:
        """Masks: share of pixels whose sign differs, at most one in ten thousand."""
        got, want = np.asarray(got, bool), np.asarray(want, bool)
        share = 1.0 if got.shape != want.shape else (got != want).mean() if got.size else 0.0
        self.add(name, share, 1e-4, "share of pixels")

    @property
    def failures(self) -> list[Row]:
        """Comparisons that did not pass."""
        return [row for row in self.rows if not row.passed]

    def print(self) -> None:
        """Show a table of all comparisons."""
        table = Table("quantity", "largest difference", "tolerance", "unit", "")
        for row in self.rows:
            table.add_row(row.quantity, f"{row.difference:.3g}", f"{row.tolerance:.3g}", row.unit,
                          "pass" if row.passed else "FAIL",
                          style=None if row.passed else "bold red")
        Console(width=None if Console().is_terminal else 120).print(table)

    def as_json(self) -> list[dict]:
        """Rows as dicts; a difference that is no number (wrong shape, NaN) becomes null."""
        return [dataclasses.asdict(row) | {
            "passed": row.passed,
            "difference": row.difference if math.isfinite(row.difference) else None}
            for row in self.rows]


def _largest(got, want) -> float:
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    if got.shape != want.shape:
        return np.inf
    return float(np.abs(got - want).max(initial=0))
