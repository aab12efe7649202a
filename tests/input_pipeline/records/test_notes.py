"""What is kept of regions that are partly bad, and what is said of the rest."""

import numpy as np
import pytest

from input_pipeline.records.dataset import Notes
from input_pipeline.records.record import Region

SIZE = 40, 60
SQUARE, TRIANGLE = [5, 5, 25, 5, 25, 15, 5, 15], [30, 20, 50, 20, 40, 39]
BAD = {"fewer than 3 points": [1, 1, 2, 2], "odd number": [1, 2, 3, 4, 5, 6, 7],
       "wholly outside": [70, 5, 90, 5, 90, 20], "covers no pixel": [3, 3, 9, 3, 6, 3],
       "not finite": [1, 1, float("nan"), 5, 9, 9], "far outside": [1, 1, 1e6, 5, 9, 9],
       "polygon has fewer than 3 points: 0": [], "not a flat list": [[1, 2], [3, 4], [5, 6]]}


@pytest.mark.parametrize("seed", range(20))
def test_bad_polygons_cost_nothing_but_themselves(seed):
    rng = np.random.default_rng(seed)
    bad = list(rng.permutation(np.array(list(BAD), object))[:rng.integers(1, 5)])
    rings = [(ring, None) for ring in (SQUARE, TRIANGLE)] + [(BAD[name], name) for name in bad]
    rings = [rings[place] for place in rng.permutation(len(rings))]
    notes = Notes()
    region = Region("x", polygons=[ring for ring, _ in rings])
    kept = notes.keep_usable([region, Region("y", polygons=[SQUARE])], SIZE)
    assert kept.keys() == {0, 1} and kept[1].polygons == [SQUARE]
    wanted = np.zeros(SIZE, np.uint8)
    wanted[5:15, 5:25] = 1  # the square, by hand
    wanted |= Region("", polygons=[TRIANGLE]).pixels(SIZE)
    np.testing.assert_array_equal(kept[0].pixels(SIZE), wanted)
    said = [(note["kind"], note["reason"], note["detail"]) for note in notes.entries]
    expected = [(number, name) for number, (_, name) in enumerate(rings) if name]
    assert len(said) == len(expected)
    for (kind, reason, detail), (number, name) in zip(said, expected, strict=True):
        assert (kind, reason) == ("repaired", "polygon left out")
        assert detail.startswith(f"{number} of region 0: ") and name in detail


@pytest.mark.parametrize("rings", [[BAD["odd number"]], list(BAD.values())])
def test_a_region_of_bad_polygons_alone_is_dropped(rings):
    notes = Notes()
    assert not notes.keep_usable([Region("x", polygons=rings)], SIZE)
    note, = notes.entries
    assert (note["kind"], note["reason"], note["region"]) == ("dropped", "unusable region", 0)
