"""Filled polygons, pixel by pixel those of OpenCV's fillPoly on whole points.

LEGION's published evaluation draws its truth by that function. It draws every edge as a line of
8-connected pixels, and fills in each row the pixels that begin and end between two edges, whose
places are kept in 1/65536 of a pixel. Edges that leave the image are cut to it first, in whole
pixels, which moves them a little: a polygon may not simply be drawn on a larger canvas. Reference:
OpenCV 4.14 and 5.0, modules/imgproc/src/drawing.cpp.
"""

import numpy as np

ONE = 1 << 16  # of the places along x, per pixel


def fill_polygon(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """The pixels of one polygon, by even and odd where it crosses itself.

    Args:
        points: int[N, 2], x and y; outside of the image, too.

    Returns:
        bool[height, width].
    """
    end = np.asarray(points, np.int64)
    start = np.roll(end, 1, axis=0)
    start_cut, end_cut, visible = _cut(start, end, height, width)
    inside = np.zeros((height, width), bool)
    _draw_lines(inside, start_cut[visible], end_cut[visible])
    # Where nothing or a level line is left of an edge, its ends keep their rows.
    first, last = start_cut.copy(), end_cut.copy()
    level = first[:, 1] == last[:, 1]
    first[level, 1], last[level, 1] = start[level, 1], end[level, 1]
    rises = start[:, 1] != end[:, 1]
    _fill_rows(inside, start[rises, 1], end[rises, 1], first[rises], last[rises])
    return inside


def _quotient(dividend: np.ndarray, divisor: np.ndarray) -> np.ndarray:
    """Whole quotients, towards zero."""
    return np.where(dividend < 0, -1, 1) * np.where(divisor < 0, -1, 1) * (
        np.abs(dividend) // np.abs(divisor))


def _cut(start: np.ndarray, end: np.ndarray, height: int,
         width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The parts of lines in the image, in whole pixels, and of which lines there is one.

    Both ends go to the image's upper or lower border first, then to its sides, each along the line
    as the steps before have left it. Lines that have no part in it come back as far as they came.
    """
    start, end = start.copy(), end.copy()
    limits = np.array([width - 1, height - 1])

    def sides(points):
        return np.where(points < 0, -1, np.where(points > limits, 1, 0))

    def apart():  # both ends beyond the same border
        first, second = sides(start), sides(end)
        return ((first == second) & (first != 0)).any(axis=1)

    for axis in (1, 0):
        going = ~apart()
        for near in (start, end):
            side = sides(near)[:, axis]
            moves = going & (side != 0)
            border = np.where(side < 0, 0, limits[axis])
            step = end - start  # of the line as it is now
            along, across = step[:, axis], step[:, 1 - axis]
            share = (border - near[:, axis]).astype(np.float64) * across / np.where(
                moves, along, 1)
            near[moves, 1 - axis] += np.trunc(share[moves]).astype(np.int64)
            near[moves, axis] = border[moves]
    return start, end, ~apart()


def _draw_lines(inside: np.ndarray, start: np.ndarray, end: np.ndarray) -> None:
    """8-connected lines, from left to right, ends included."""
    swap = end[:, 0] < start[:, 0]
    start, end = (np.where(swap[:, None], b, a) for a, b in ((start, end), (end, start)))
    step = end - start
    size = np.abs(step)
    steep = size[:, 1] > size[:, 0]
    long, short = size.max(axis=1), size.min(axis=1)
    line = np.repeat(np.arange(len(start)), long + 1)
    number = np.arange(len(line)) - np.repeat(np.cumsum(long + 1) - long - 1, long + 1)
    long, short, steep = long[line], short[line], steep[line]
    # The least number of steps aside that keeps the error from falling below zero.
    aside = np.maximum(-((long - 2 * short * number) // np.maximum(2 * long, 1)), 0)
    sign = np.where(step < 0, -1, 1)[line]
    x = start[line, 0] + sign[:, 0] * np.where(steep, aside, number)
    y = start[line, 1] + sign[:, 1] * np.where(steep, number, aside)
    inside[y, x] = True


def _fill_rows(inside: np.ndarray, top: np.ndarray, bottom: np.ndarray, first: np.ndarray,
               last: np.ndarray) -> None:
    """Between the first edge of a row and the second, the third and the fourth, and so on.

    Args:
        top, bottom: int[E], rows of the ends of the edges, not equal, in any order.
        first, last: int[E, 2], the same ends, x and y, where they may have been cut.
    """
    height, width = inside.shape
    slope = _quotient(ONE * (last[:, 0] - first[:, 0]), last[:, 1] - first[:, 1])
    down = top < bottom
    upper = np.where(down[:, None], first, last)
    rows = np.minimum(top, bottom), np.minimum(np.maximum(top, bottom), height)
    begin = ONE * upper[:, 0] + (rows[0] - upper[:, 1]) * slope
    skipped = np.maximum(-rows[0], 0)  # above the image nothing is filled
    length = np.maximum(rows[1] - rows[0] - skipped, 0)
    edge = np.repeat(np.arange(len(length)), length)
    below = np.arange(len(edge)) - np.repeat(np.cumsum(length) - length, length) + skipped[edge]
    y, place = rows[0][edge] + below, begin[edge] + below * slope[edge]
    order = np.lexsort((place, y))
    place, row = place[order], y[order][::2]
    left, right = -(-place[::2] // ONE), place[1::2] // ONE
    shown = (left < width) & (right >= 0)
    change = np.zeros((height, width + 1), np.int32)
    np.add.at(change, (row[shown], np.maximum(left[shown], 0)), 1)
    np.add.at(change, (row[shown], np.minimum(right[shown], width - 1) + 1), -1)
    inside |= np.cumsum(change[:, :-1], axis=1) > 0
