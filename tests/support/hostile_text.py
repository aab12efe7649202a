"""Markup behind every text of a JSON value, as a stranger would put it there."""

MARKUP = """'"><script>window.ran = 5</script><img src="HOST/x.png" onerror="window.ran = 6">
{{ 7*7 }}<!--</script></style></title></svg><svg onload="window.ran = 8">
<a href="javascript:0" id="evil">"""
NAMED = (".categories", ".groups")  # whose parts are called as somebody liked
FIXED = ("size", "rle", "truth_rle", "kind")  # numbers, run lengths, and kinds of notes


def hostile(value, markup: str, seen: set, path: str = ""):
    """The same JSON with markup behind every text and every chosen name; `seen`: where."""
    if isinstance(value, dict):
        named = path.endswith(NAMED)
        return {(f"{name}{markup}" if named else name): part if name in FIXED else hostile(
            part, markup, seen, f"{path}.{'*' if named else name}") for name, part in value.items()}
    if isinstance(value, list):
        return [hostile(part, markup, seen, f"{path}[]") for part in value]
    if isinstance(value, str):
        seen.add(path)
        return value + markup
    return value
