"""Collecting comparisons and printing them."""

import dataclasses
import math

import numpy as np
from rich.console import Console
from rich.table import Table


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
    """All comparisons of a case. Every method takes (name, ours, reference)."""

    def __init__(self):
        self.rows: list[Row] = []

    def add(self, name: str, difference: float, tolerance: float, unit: str) -> None:
        self.rows.append(Row(name, float(difference), float(tolerance), unit))

    def equal(self, name, got, want) -> None:
        """Integers, flags, texts: number of entries that differ."""
        got, want = np.asarray(got), np.asarray(want)
        wrong = got.size + want.size if got.shape != want.shape else int((got != want).sum())
        self.add(name, wrong, 0, "entries")

    def within(self, name, got, want, tolerance: float) -> None:
        """Largest absolute difference."""
        self.add(name, _largest(got, want), tolerance, "absolute")

    def scaled(self, name, got, want, *, rounding: float = 0.0) -> None:
        """Features: 1e-4 of the largest reference magnitude, at least 1e-4.

        `rounding` is the relative spacing of a reference that was stored in less than float32.
        """
        magnitude = max(1.0, float(np.abs(np.asarray(want, np.float64)).max(initial=0)))
        self.add(name, _largest(got, want), (1e-4 + rounding) * magnitude, "absolute")

    def relative(self, name, got, want, tolerance: float) -> None:
        """Scalars, relative to each reference value; zeros must be met exactly."""
        got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
        if got.shape != want.shape:
            self.add(f"{name} (shape {got.shape}, reference {want.shape})", np.inf, tolerance,
                     "relative")
            return
        difference = np.abs(got - want)
        scale = np.where(want == 0, 1, np.abs(want))
        self.add(name, (difference / scale).max(initial=0), tolerance, "relative")

    def stats(self, name, got, want, *, axes: int, tolerance: float = 1e-4) -> None:
        """[sum, sum of abs, sum of squares, min, max] over the last `axes` axes.

        Sums are measured against the sum of absolute values, extremes against the largest one.
        """
        x = np.asarray(got, np.float64)
        x = x.reshape(*x.shape[:x.ndim - axes], -1)
        ours = np.stack([x.sum(-1), np.abs(x).sum(-1), (x ** 2).sum(-1), x.min(-1), x.max(-1)], -1)
        want = np.asarray(want)
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
        return [row for row in self.rows if not row.passed]

    def print(self) -> None:
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
