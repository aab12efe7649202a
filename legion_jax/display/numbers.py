"""Numbers as people read them: scores, shares, axis labels and durations."""


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


def signed(value: float) -> str:
    """+0.012 or −0.012, with the sign that minus has."""
    return f"{value:+.3f}".replace("-", "−")


def share(value: float) -> str:
    """Percent of a number from 0 to 1: 97 %, but never 0 % or 100 % for less than certainty."""
    if 0 < value < 0.005:
        return "< 1 %"
    if 0.995 <= value < 1:
        return "> 99 %"
    return f"{100 * value:.0f} %"


def percent(value: float) -> str:
    """Percent of a number from 0 to 1 with the two digits that count: 0.02 %, 1.5 %, 37 %."""
    if 0 < value < 1e-4:
        return "< 0.01 %"
    return f"{100 * value:.2g} %" if value < 0.995 else f"{100 * value:.0f} %"


def compact(value: float) -> str:
    """A number in at most three digits: 12, 0.35, 2e-5, 1.5k."""
    if value and not 1e-3 <= abs(value) < 1e6:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    if abs(value) >= 1000:
        return f"{value / 1000:.3g}k"
    return f"{value:.3g}"
