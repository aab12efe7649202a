"""Damage to JSON files: odd values in odd places, and text that is hardly JSON."""

import json

ODD = ("", "x", None, [], {}, [1], -1, 0, 1, True, 1e30, 10 ** 30, 0.5, float("nan"), 2 ** 63,
       "../x", "/x", "a\0b", "\ud800", "x" * 5000, [["x"]], {"x": {}}, "1", 7, 2 ** 31)
NAMES = ("", "x", "a\nb", "x" * 5000, "\ud800", "__metadata__", "model.layers.99999999999.norm",
         f"model.layers.{'9' * 5000}.mlp.up_proj.weight", "model.layers.00.mlp.up_proj.weight",
         "vision_model.encoder.layers.77777777777.mlp.fc1.weight", "model.layers.٣.norm.weight",
         "model.norm.weight\n", "../../x", "model.{i}.weight", "a.lora_A.weight", "lm_head.bias",
         "prediction_head.1.weight", "base_model.model.model.norm.weight",
         "model.norm.original_module.weight")


def nodes(value):
    """(container, name) of everything in a parsed file."""
    pairs = (value.items() if isinstance(value, dict) else
             enumerate(value) if isinstance(value, list) else ())
    for name, item in pairs:
        yield (value, name)
        yield from nodes(item)


def _shallow_first(rng, value):
    """Containers and names of one place; a large map counts no more than a field beside it."""
    while True:
        names = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not names:
            return None
        name = rng.choice(names)
        if not isinstance(value[name], dict | list) or not value[name] or rng.random() < 0.3:
            return value, name
        value = value[name]


def field(rng, file):
    value = json.loads(file.read_bytes())
    node = _shallow_first(rng, value)
    if node is None:
        return None
    parent, name = node
    before = parent[name]
    change = rng.choice(["drop", "odd", "odd", "odd", "other", "move"])
    if change == "drop":
        del parent[name]
    elif change == "other" and type(before) in (int, float):
        parent[name] = rng.choice([before + 1, before * 2, before * 10 ** 9, -before, str(before),
                                   float(before), [before], before - 1])
    elif change == "other" and type(before) is str:
        parent[name] = rng.choice([before + "x", "../" + before, before.upper(), [before]])
    elif change == "move" and isinstance(parent, dict):
        parent[rng.choice(NAMES)] = parent.pop(name)
    else:
        parent[name] = rng.choice(ODD)
    after = parent[name] if change != "drop" and name in parent else "-"
    file.write_text(json.dumps(value))
    return f"{change} {name!r}: {str(before)[:40]!r} -> {str(after)[:40]!r}"


def text(rng, file):
    content = file.read_bytes()
    middle = content.find(b":") + 1
    change = rng.choice(["deep", "deeper", "digits", "latin", "mark", "utf-16", "list", "nothing",
                         "twice", "exponent"])
    if change == "deep":
        content = content[:middle] + b"[" * 100_000 + b"]" * 100_000 + b"," + content[middle:]
    elif change == "deeper":
        content = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    elif change == "digits":
        content = content.replace(b"{", b'{"x": ' + b"9" * 5000 + b", ", 1)
    elif change == "exponent":
        content = content.replace(b"{", b'{"x": 1e999, ', 1)
    elif change == "latin":
        content = content.replace(b"{", b'{"\xe9": 1, ', 1)
    elif change == "mark":
        content = b"\xef\xbb\xbf" + content
    elif change == "utf-16":
        content = content.decode().encode("utf-16")
    elif change == "twice":
        content = content.replace(b"{", b'{"x": 1, "x": 2, ', 1)
    else:
        content = b"[1]" if change == "list" else b"null"
    file.write_bytes(content)
    return change


def numbers(rng, file):
    """A number at random becomes absurd, in the text itself."""
    content = json.loads(file.read_bytes())
    numbers_of_file = [p for p in nodes(content) if type(p[0][p[1]]) in (int, float)]
    if not numbers_of_file:
        return None
    parent, name = rng.choice(numbers_of_file)
    before = parent[name]
    parent[name] = rng.choice([0, -1, 10 ** 9, 10 ** 18, 10 ** 30, 1e30, True, "3", None, [], 3.0,
                               float("inf"), float("nan"), before * 2, before + 1])
    file.write_text(json.dumps(content))
    return f"{name!r}: {before} -> {parent[name]}"


JSON = (field, field, field, numbers, numbers, text)


def token(rng, file):
    added = json.loads(file.read_bytes())
    name = rng.choice(sorted(added))
    change = rng.choice(["drop", "repeat", "whole", "space", "piece", "large", "long"])
    if change == "drop":
        del added[name]
    elif change == "repeat":
        added[name] = added[rng.choice(sorted(added))]
    elif change == "large":
        added[name] = rng.choice([10 ** 30, -1, 2 ** 31, True, 1.0, "3"])
    else:
        other = {"whole": "<s>", "space": f" {name} ", "piece": name[:-1], "long": "x" * 5000}
        added[other[change]] = added.pop(name)
    file.write_text(json.dumps(added))
    return f"{change} {name}"


ADDED = (token, token, token, field, text)
