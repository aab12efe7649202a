"""What is in a prepared data set: its records measured once each, and what its manifest tells."""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from etils import epath
from tqdm import tqdm

from input_pipeline.records import manifest
from input_pipeline.records.record import ADDRESS, DataError, Record
from input_pipeline.text.tokenizer import Tokenizer

PICKS = ("random", "largest_mask", "smallest_mask", "longest_text", "most_regions")
MEASURES = np.dtype([
    ("index", np.int64), ("label", np.int32), ("height", np.int32), ("width", np.int32),
    ("area", np.float64),  # share of the photo that is marked; NaN where nothing was looked for
    ("regions", np.int32), ("characters", np.int64),  # of the caption
    ("tokens", np.int64)])  # of the caption alone; -1 without a tokenizer
CHUNK = 256  # records handed to the threads at a time
EXAMPLES = 5  # items named for each reason
COUNTED = {"items", "published", "records", "regions", "label", "category", "generator", "skipped",
           "repaired", "dropped"}


@dataclasses.dataclass(frozen=True)
class Survey:
    """The records of a split that were looked at.

    Attributes:
        total: number of records in the split.
        rows: MEASURES of the usable ones.
        problems: {index: what is wrong} of the others.
    """

    total: int
    rows: np.ndarray
    problems: dict[int, str]

    @property
    def looked_at(self) -> int:
        """Number of records that were looked at, usable or not."""
        return len(self.rows) + len(self.problems)


@dataclasses.dataclass(frozen=True)
class Account:
    """What the manifest and the summary of a data set say.

    Attributes:
        summary: see `manifest.read_summary`; {} where it cannot be read.
        named: {(split, kind, reason): up to EXAMPLES (file, detail)}, kind as in the summary.
        groups: {split: number of groups}.
        shared: {(split, other split): groups that are in both}, both ways round.
        leaked: {split: groups that are in any other}.
    """

    summary: Mapping
    named: Mapping[tuple[str, str, str], Sequence[tuple[str, str]]]
    groups: Mapping[str, int]
    shared: Mapping[tuple[str, str], int]
    leaked: Mapping[str, int]

    def counts(self, split: str) -> Mapping:
        """The summary of one split, {} where there is none or one of another version."""
        counts = self.summary.get("splits", {}).get(split, {})
        return counts if COUNTED <= counts.keys() else {}


def survey(source: Sequence, *, title: str, limit: int | None = None, seed: int = 0,
           tokenizer: Tokenizer | None = None) -> Survey:
    """Reads every record once, or `limit` of them drawn at random."""
    looked = np.arange(len(source))
    if limit is not None and limit < len(source):
        looked = np.sort(np.random.default_rng(seed).choice(looked, limit, replace=False))
    rows, problems = np.zeros(len(looked), MEASURES), {}

    def row_or_problem(index):
        try:
            return int(index), *measure(source[int(index)], tokenizer)
        except Exception as error:  # whatever is wrong with a record, the others are looked at
            return describe(error)

    good = np.zeros(len(looked), bool)
    with ThreadPoolExecutor(4) as pool, tqdm(desc=title, total=len(looked), unit="record") as bar:
        for start in range(0, len(looked), CHUNK):
            part = looked[start:start + CHUNK]
            for k, measured in enumerate(pool.map(row_or_problem, part), start):
                good[k] = not isinstance(measured, str)
                if good[k]:
                    rows[k] = measured
                else:
                    problems[int(looked[k])] = measured
                bar.update()
    return Survey(len(source), rows[good], problems)


def measure(record: Record, tokenizer: Tokenizer | None = None) -> tuple:
    """The MEASURES of a record after its index. Raises whatever decoding its masks raises."""
    size = record.height, record.width
    union = record.marked(size)
    return (record.label, *size, np.nan if union is None else union.mean(),
            len(record.regions), len(record.caption),
            len(tokenizer.encode(record.caption, bos=False)) if tokenizer else -1)


def choose(measured: Survey, *, number: int, pick: str = "random", label: int | None = None,
           seed: int = 0) -> list[int]:
    """Indices of at most `number` usable records, in the order they are to be shown.

    `label` leaves only its records, `largest_mask` and `smallest_mask` only those with something
    marked. Equals come in the order of the split.
    """
    rows = measured.rows
    if label is not None:
        rows = rows[rows["label"] == label]
    if pick in ("largest_mask", "smallest_mask"):
        rows = rows[rows["area"] > 0]
    if pick == "random":
        order = np.random.default_rng(seed).permutation(len(rows))
    else:
        keys = {"largest_mask": -rows["area"], "smallest_mask": rows["area"],
                "longest_text": -rows["characters"], "most_regions": -rows["regions"]}
        order = np.argsort(keys[pick], kind="stable")
    return rows["index"][order[:number]].tolist()


def account(folder: epath.PathLike) -> Account:
    """Reads summary and manifest of a data set; a missing one is left out.

    Raises DataError when a line of the manifest is broken.
    """
    try:
        summary = manifest.read_summary(folder)
    except DataError:
        summary = {}
    named, splits, members = defaultdict(list), {}, {}
    for entry in manifest.read_manifest(folder):
        bit = 1 << splits.setdefault(entry["split"], len(splits))
        notes = entry["notes"]
        if entry["status"] == "skipped":
            notes = [*notes, {"kind": "skipped"} | entry]
        else:
            # One bit per split under the hash: millions of groups stay small.
            key = hash(entry["group_id"])
            members[key] = members.get(key, 0) | bit
        for note in notes:
            items = named[entry["split"], note["kind"], note["reason"]]
            if len(items) < EXAMPLES:
                items.append((entry["file"] or entry["id"], note["detail"]))
    held = Counter(members.values())
    both = {(a, b): sum(n for bits, n in held.items() if bits >> i & 1 and bits >> j & 1)
            for a, i in splits.items() for b, j in splits.items()}
    return Account(summary, dict(named),
                   {split: both[split, split] for split in splits},
                   {pair: n for pair, n in both.items() if pair[0] != pair[1]},
                   {split: sum(n for bits, n in held.items() if bits >> i & 1 and bits != 1 << i)
                    for split, i in splits.items()})


def describe(error: Exception) -> str:
    """An exception in one line, as it is shown to people; the same in every run."""
    words = ADDRESS.sub("", " ".join(str(error).split()))[:400]
    if isinstance(error, KeyError):
        return f"field {words} is missing"
    return words or type(error).__name__
