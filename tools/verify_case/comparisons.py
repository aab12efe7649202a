"""Comparisons with the arrays of a case: their rules, and the table of what they found."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

import numpy as np
from rich.table import Table

from input_pipeline.errors import UserError
from legion_jax.display.console import DataConsole

NOISE_FACTOR = 10  # times the reference's own rounding
FEATURE = 1e-4  # of features, states and logits, of the largest one of an array


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


def unpacked(stored: Stored, name: str, shape_name: str | None = None) -> np.ndarray:
    """Masks that are stored as bits of the flattened array, uint8[N, H, W].

    Their shape is the array `shape_name`, by default `{name}_shape`.
    """
    shape = stored[shape_name or f"{name}_shape"]
    return np.unpackbits(stored[name], count=int(np.prod(shape))).reshape(shape)


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


def _largest(got, want, scale=1.0) -> float:
    """Largest difference, each measured against its `scale`."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    if got.shape != want.shape:
        return np.inf
    return float((np.abs(got - want) / scale).max(initial=0))


def _equal(got, want, *, where=True):
    """Integers, flags, texts: number of entries that differ among those that count, `where`."""
    if got.shape != want.shape:
        return got.size + want.size, 0, "entries"
    return ((got != want) & where).sum(), 0, "entries"


def _within(got, want, *, tolerance: float, rounding: float = 0.0):
    """Largest absolute difference."""
    return _largest(got, want), max(tolerance, rounding), "absolute"


def _scaled(got, want, *, spacing: float = 0.0, per: int = 1, where=True, rounding: float = 0.0):
    """Features: 1e-4 of the largest reference magnitude, at least 1e-4.

    Args:
        spacing: relative, of a reference that was stored in less than float32.
        per: number of values of which each entry is the sum; their mean is compared.
        where: flags of what counts, broadcast to the feature's shape.
    """
    got, want = (np.where(where, x, 0) / per for x in (got, want))
    magnitude = max(1.0, float(np.abs(want.astype(np.float64)).max(initial=0)))
    return _largest(got, want), max((1e-4 + spacing) * magnitude, rounding), "absolute"


def _of_largest(got, want, *, tolerance: float, rounding: float = 0.0):
    """Arrays: largest difference, relative to the largest entry of the reference."""
    scale = float(np.abs(want).max(initial=0)) or 1.0
    return _largest(got / scale, want / scale), max(tolerance, rounding / scale), "absolute"


def _relative(got, want, *, tolerance: float, rounding: float = 0.0):
    """Scalars, relative to each reference value; zeros must be met exactly."""
    scale = np.where(want == 0, 1, np.abs(want.astype(np.float64)))
    scale = np.maximum(scale, rounding / tolerance) if rounding else scale
    return _largest(got, want, scale), tolerance, "relative"


def _stats(got, want, *, axes: int, tolerance: float = 1e-4, rounding: float = 0.0):
    """[sum, sum of abs, sum of squares, min, max] over the last `axes` axes.

    Sums are measured against the sum of absolute values, extremes against the largest one.
    """
    x = got.astype(np.float64)
    x = x.reshape(*x.shape[:x.ndim - axes], math.prod(x.shape[x.ndim - axes:]))
    ours = np.stack([x.sum(-1), np.abs(x).sum(-1), (x ** 2).sum(-1), x.min(-1), x.max(-1)], -1)
    extreme = np.maximum(np.abs(want[..., 3]), np.abs(want[..., 4]))
    scale = np.stack([want[..., 1], want[..., 1], want[..., 2], extreme, extreme], -1)
    scale = np.maximum(scale, max(1e-12, rounding / tolerance))
    return _largest(ours, want, scale), tolerance, "relative"


def _signs(got, want):
    """Masks: share of pixels whose sign differs, at most one in ten thousand."""
    got, want = got.astype(bool), want.astype(bool)
    share = 1.0 if got.shape != want.shape else (got != want).mean() if got.size else 0.0
    return share, 1e-4, "share of pixels"


def _comparing(rule: Callable, *, exact: bool = False) -> Callable:
    """The method that notes what `rule(ours, reference)` says: difference, tolerance and unit.

    A rule that is not `exact` is also told how far rounding alone may take us from the reference.
    """
    @functools.wraps(rule)
    def compare(self, name: str, got, want=None, **options) -> None:
        want = self._reference(name, want)
        if want is not None:
            noise = {} if exact else {"rounding": NOISE_FACTOR * self._noise.get(name, 0.0)}
            self.add(name, *rule(np.asarray(got), want, **noise, **options))

    return compare


class Results:
    """All comparisons of a case.

    Every comparing method takes (name, ours) and the reference, by default the array of that name
    in the case. Of an array that a slim case has left out, only the name is noted. Other shapes
    differ infinitely.

    Attributes:
        rows: what was compared; left_out: names that could not be.
        left_to_curve: names of arrays of a training run that was not followed.
    """

    def __init__(self, *stored: Stored, noise: Mapping[str, float] = MappingProxyType({})):
        """`stored`: where the references are looked up; `noise`: see `Case`."""
        self.rows: list[Row] = []
        self.left_out: list[str] = []
        self.left_to_curve: list[str] = []
        self._stored, self._noise = stored, noise

    def add(self, name: str, difference: float, tolerance: float, unit: str) -> None:
        """Note a comparison that was made elsewhere."""
        self.rows.append(Row(name, float(difference), float(tolerance), unit))

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
        self.left_out.append(name)
        return None

    equal = _comparing(_equal, exact=True)
    within = _comparing(_within)
    scaled = _comparing(_scaled)
    of_largest = _comparing(_of_largest)
    relative = _comparing(_relative)
    stats = _comparing(_stats)
    signs = _comparing(_signs, exact=True)

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
        DataConsole(width=None if DataConsole().is_terminal else 120).print(table)

    def as_json(self) -> list[dict]:
        """Rows as dicts; a difference that is no number (wrong shape, NaN) becomes null."""
        return [dataclasses.asdict(row) | {
            "passed": row.passed,
            "difference": row.difference if math.isfinite(row.difference) else None}
            for row in self.rows]
