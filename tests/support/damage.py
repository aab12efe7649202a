"""Random damage to checkpoint folders: `damage(rng, root)` changes one thing and says what."""

import os
import pathlib
import random
import re
import shutil

import safetensors.torch
import torch
from damage_formats import ARCHIVE, HEADER
from damage_json import ADDED, JSON, NAMES

UNREAD = ("generation", "preprocessor", "processor", "tokenizer", "special")
WEIGHTS = (".bin", ".pth", ".safetensors")
def damage(rng: random.Random, root: pathlib.Path) -> str:
    """Change one thing below `root`; returns a description."""
    files = sorted(p for p in root.rglob("*") if p.is_file())
    groups = {
        "weights": [f for f in files if f.suffix in WEIGHTS],
        "json": [f for f in files if f.suffix == ".json" and f.name != "added_tokens.json"
                 for _ in range(1 if f.name.startswith(UNREAD) else 6)],
        "tokenizer": [f for f in files if f.name in ("tokenizer.model", "added_tokens.json")]}
    while True:
        kind = rng.choice(["weights"] * 5 + ["json"] * 4 + ["tokenizer"])
        file = rng.choice(groups[kind])
        if rng.random() < 0.3:
            changes = BYTES
        elif file.suffix == ".json":
            changes = ADDED if kind == "tokenizer" and rng.random() < 0.6 else JSON
        elif kind == "weights":
            special = HEADER if file.suffix == ".safetensors" else ARCHIVE
            changes = special if rng.random() < 0.35 else TENSORS
        else:
            changes = BYTES
        change = rng.choice(changes)
        if (done := change(rng, file)) is not None:
            return f"{file.relative_to(root)}: {change.__name__} {done}"[:300]


def cut(rng, file):
    size = file.stat().st_size
    length = rng.choice([rng.randrange(size), rng.randrange(min(size, 300)),
                       max(0, size - rng.randrange(1, 300))])
    os.truncate(file, length)
    return f"to {length} of {size}"


def flip(rng, file):
    data = bytearray(file.read_bytes())
    start, end = rng.choice([(0, len(data)), (0, min(len(data), 1500)), (0, min(len(data), 64)),
                             (max(0, len(data) - 1500), len(data))])
    offsets = [rng.randrange(start, end) for _ in range(rng.choice([1, 1, 2, 8, 64]))]
    for offset in offsets:
        data[offset] ^= rng.randrange(1, 256)
    file.write_bytes(data)
    return f"at {offsets[:8]}"


def append(rng, file):
    number = rng.choice([1, 7, 8, 22, 4096])
    file.write_bytes(file.read_bytes() + rng.randbytes(number))
    return number


def empty(rng, file):
    file.write_bytes(b"")
    return ""


def to_folder(rng, file):
    file.unlink()
    file.mkdir()
    return ""


def to_link(rng, file):
    file.unlink()
    file.symlink_to(rng.choice(["nowhere", file.name, "."]))
    return ""


def gone(rng, file):
    file.unlink()
    return ""


def other_name(rng, file):
    name = rng.choice(["model.safetensors", "pytorch_model.bin", "x.pth", "config.json", "a b"])
    if (file.parent / name).exists():
        return None
    file.rename(file.parent / name)
    return name


def other_content(rng, file):
    """The content of another file of the folder."""
    others = [f for f in sorted(file.parent.iterdir()) if f.is_file() and f != file]
    if not others:
        return None
    other = rng.choice(others)
    shutil.copyfile(other, file)
    return other.name


BYTES = (cut, cut, flip, flip, flip, append, empty, to_folder, to_link, gone, other_name,
         other_content)


def load_state(file: pathlib.Path) -> dict:
    if file.suffix == ".safetensors":
        return safetensors.torch.load_file(file)
    return torch.load(file, weights_only=True)


def save_state(file: pathlib.Path, state: dict) -> bool:
    """False when the format cannot hold it."""
    if file.suffix != ".safetensors":
        torch.save(state, file)
        return True
    try:
        state = {k: v.clone().contiguous() for k, v in state.items()}
        safetensors.torch.save_file(state, file)
    except Exception:
        return False
    return True


def renamed(rng, state, key):
    digits = re.sub(r"\d+", lambda m: str(rng.choice([int(m[0]) + 1, 9, 10 ** 12])), key, count=1)
    name = rng.choice([*NAMES, digits, key + "x", "module." + key, key.replace(".", "..", 1)])
    state[name] = state.pop(key)
    return f"{name[:60]!r}"


def copied(rng, state, key):
    name = rng.choice([*NAMES, rng.choice(sorted(state)), "module." + key])
    state[name] = state[key]
    return f"to {name[:60]!r}"


def dropped(rng, state, key):
    del state[key]
    return ""


def reshaped(rng, state, key):
    t = state[key]
    shapes = [(-1,), (1, *t.shape), (*t.shape, 1), t.shape[::-1], (1,) * 70 + tuple(t.shape)]
    state[key] = t.reshape(rng.choice(shapes))
    return list(state[key].shape)[:4]


def sliced(rng, state, key):
    t = state[key]
    choices = [t[:-1], t[:0], t.flatten()[0], torch.cat([t, t]), t.new_empty((0, 2 ** 20, 2 ** 20))]
    state[key] = rng.choice(choices)
    return list(state[key].shape)


def restrided(rng, state, key):
    """The same values in another order of memory, or a view of few values as many."""
    t = state[key]
    state[key] = rng.choice([
        t.T.contiguous().T if t.ndim == 2 else t, t.new_ones(1).expand(2 ** 20, 2 ** 16),
        t.new_ones(1).expand(tuple(t.shape) or (1,)),
        torch.as_strided(t.flatten(), (len(t.flatten()), 8), (1, 0))])
    return list(state[key].stride())


def cast(rng, state, key):
    kinds = (torch.int64, torch.bool, torch.complex64, torch.float64, torch.float8_e4m3fn,
             torch.uint16, torch.float16, torch.bfloat16)
    state[key] = state[key].to(rng.choice(kinds))
    return state[key].dtype


def not_finite(rng, state, key):
    t = state[key].clone()
    if not t.is_floating_point():
        return None
    t.view(-1)[rng.randrange(t.numel())] = rng.choice([float("nan"), float("inf"), -float("inf")])
    state[key] = t
    return ""


def no_tensor(rng, state, key):
    t = state[key]
    parameter = torch.nn.Parameter(t, requires_grad=t.is_floating_point())
    state[key] = rng.choice([None, 3, "x", [t], {"a": t}, t.to_sparse() if t.ndim else t,
                             t.to("meta"), parameter, torch.Size([1]),
                             torch.conj(torch.complex(t.float(), t.float()))])
    return type(state[key])


def odd_key(rng, state, key):
    state[rng.choice([3, None, (1, 2), b"x", 1.5])] = state.pop(key)
    return ""


def wrapped(rng, state, key):
    inner = dict(state)
    state.clear()
    state[rng.choice(["state_dict", "model", "module"])] = inner
    return ""


def _on_tensors(function):
    def change(rng, file):
        state = load_state(file)
        if not state:
            return None
        key = rng.choice(sorted(state))
        done = function(rng, state, key)
        if done is None or not save_state(file, state):
            return None
        return f"{key[:80]!r} {done}"
    change.__name__ = function.__name__
    return change


TENSORS = tuple(map(_on_tensors, (
    renamed, renamed, copied, copied, dropped, reshaped, reshaped, sliced, restrided, cast, cast,
    not_finite, no_tensor, odd_key, wrapped)))
