"""Numbers as people read them: scores, shares and durations."""





def duration(seconds: float) -> str:
    """12.3 s, 4 min 5 s or 2 h 3 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"


def score(value: float | None) -> str:
    """0.813, or a dash for None."""
    return "–" if value is None else f"{value:.3f}"


def share(value: float) -> str:
    """Percent of a number from 0 to 1: 97 %, but never 0 % or 100 % for less than certainty."""
    if 0 < value < 0.005:
        return "< 1 %"
    if 0.995 <= value < 1:
        return "> 99 %"
    return f"{100 * value:.0f} %"
