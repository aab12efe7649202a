"""The account of a prepared data set: a line per item, and counts beside the published ones."""

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from etils import epath

from input_pipeline import files, strict_json
from input_pipeline.records.dataset import DataSet, Item
from input_pipeline.records.record import LABELS, UNKNOWN, DataError

MANIFEST, SUMMARY = "manifest.jsonl", "summary.json"
NOTED = ("repaired", "dropped")
COUNTED = ("label", "category", "generator", "skipped", "repaired", "dropped")
# What the lines of a manifest and the counts of a split hold, where somebody else wrote them.
LINE = {"split": str, "id": str, "file": str, "status": str, "notes": list}
KEPT = {"group_id": str, "image": str, "regions": int, "label": int, "category": str,
        "generator": str}
REASONS = {"reason": str, "detail": str}
SPLIT = {"items": int, "published": int | None, "records": int, "regions": int,
         **dict.fromkeys(COUNTED, dict)}
WHOLE = {"dataset": str, "config": str, "digest": str, "content": str, "groups": int,
         "groups_in_several_splits": int, "images_with_several_labels": int, "splits": dict}
LISTING = "items.jsonl"  # what Beam's workers read from; gone when the data set is complete


def read_manifest(folder: epath.PathLike) -> Iterator[dict]:
    """Lines of the manifest of a prepared data set, split by split.

    Each is {split, id, file, status, notes} and, if status is "kept", {label, category, generator,
    group_id, image (SHA-256 of the file), regions}; if "skipped", {reason, detail}. A note is
    {kind, reason, detail} and, of a dropped region, its number.

    Raises DataError naming the line that holds anything else.
    """
    for part in sorted(epath.Path(folder).glob(f"*-{MANIFEST}*")):
        files.check_plain(part, DataError)
        with part.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                subject = f"{part}: line {number}"
                entry = strict_json.parse(line, subject, error=DataError, lone_surrogates=True)
                _check(entry, LINE, subject)
                _check(entry, REASONS if entry["status"] == "skipped" else KEPT, subject)
                for note in entry["notes"]:
                    _check(note, REASONS | {"kind": str}, f"{subject}: a note")
                    if note["kind"] not in NOTED:
                        raise DataError(f"{subject}: a note of kind {ascii(note['kind'])[:80]}")
                if entry["status"] != "skipped" and entry["label"] not in LABELS:
                    raise DataError(f"{subject}: label cannot be {ascii(entry['label'])[:80]}")
                yield entry


def _check(values: Any, fields: dict[str, type], subject: str) -> None:
    """Raises DataError where a field is missing or of another type."""
    if not isinstance(values, dict):
        raise DataError(f"{subject}: expected a JSON object, found {type(values).__name__}")
    for name, kind in fields.items():
        if name not in values:
            raise DataError(f"{subject}: {name} is missing")
        if not isinstance(values[name], kind) or isinstance(values[name], bool):
            raise DataError(f"{subject}: {name} cannot be {ascii(values[name])[:80]}")


def duplicate(entry: dict) -> dict:
    """The line of an item whose id was there before."""
    plain = {name: entry[name] for name in ("split", "id", "file")}
    return plain | {"status": "skipped", "reason": "duplicate id", "detail": entry["id"],
                    "notes": []}


def reasons(part: epath.Path) -> str:
    """Why the items of one part of a manifest were skipped, with counts and the first of each."""
    counts, first = Counter(), {}
    with part.open() as lines:
        for entry in map(json.loads, lines):
            if entry["status"] == "skipped":
                counts[entry["reason"]] += 1
                first.setdefault(entry["reason"], entry)
    return "; ".join(
        f"{number} {reason} (first {ascii(entry['file'] or entry['id'])[1:-1][:200]}"
        f"{': ' + entry['detail'][:200] if entry['detail'] not in ('', entry['file']) else ''})"
        for (reason, number), entry in zip(counts.items(), first.values(), strict=True))


def write_summary(folder: epath.Path, dataset: DataSet, splits: dict[str, list[Item]],
                  digest: str) -> None:
    """Count the manifest, write summary.json and remove what was needed till then."""
    for listing in folder.glob(f"*-{LISTING}"):
        listing.unlink()
    counts = {split: _empty(len(items), dataset.published().get(split)) | {
        "unlike_published": dataset.unlike_published(split, items)}
        for split, items in splits.items()}
    groups, labels, content = defaultdict(set), defaultdict(set), []
    for entry in read_manifest(folder):
        if entry["split"] not in counts:
            raise DataError(f"{folder}: the manifest names split {ascii(entry['split'])[:80]}, "
                            f"which the source has not")
        split = counts[entry["split"]]
        for note in entry["notes"]:
            split[note["kind"]][note["reason"]] += 1
        if entry["status"] == "skipped":
            split["skipped"][entry["reason"]] += 1
            continue
        split["records"] += 1
        split["regions"] += entry["regions"]
        for name in ("label", "category", "generator"):
            split[name][str(entry[name])] += 1
        groups[entry["group_id"]].add(entry["split"])
        labels[entry["image"]].add(entry["label"])
        content.append(f"{entry['split']} {entry['id']} {entry['image']}\n")
    shared = sum(len(splits) > 1 for splits in groups.values())
    summary = {"dataset": dataset.name, "config": dataset.config, "source": dataset.source,
               "digest": digest,
               "content": hashlib.sha256("".join(sorted(content)).encode()).hexdigest(),
               "groups": len(groups), "groups_in_several_splits": shared,
               "images_with_several_labels": sum(len(several) > 1 for several in labels.values()),
               "splits": {name: {k: dict(sorted(v.items())) if isinstance(v, Counter) else v
                                 for k, v in split.items()} for name, split in counts.items()}}
    files.write_text(folder / SUMMARY, json.dumps(summary, indent=1) + "\n")


def read_summary(folder: epath.PathLike) -> dict:
    """What preparing counted.

    Returns:
        {dataset, config, source, digest (of the items), content (hash of the images), groups,
        groups_in_several_splits, images_with_several_labels, splits: {split: {items, published
        (None if unknown), unlike_published (`DataSet.unlike_published`; absent of what was prepared
        before that was noted), records, regions, label, category, generator, skipped, repaired,
        dropped}}}, the last six as {value or reason: number}.

    Raises DataError for a damaged one, and for a data set that an older version prepared.
    """
    path = epath.Path(folder) / SUMMARY
    summary = strict_json.read(path, error=DataError)
    if "content" not in summary:
        raise DataError(f"{path}: by an older version; prepare the data set again")
    _check(summary, WHOLE, str(path))
    for split, counts in summary["splits"].items():
        subject = f"{path}: split {ascii(split)}"
        _check(counts | {"unlike_published": counts.get("unlike_published", "")},
               SPLIT | {"unlike_published": str}, subject)
        for name in COUNTED:
            _check(counts[name], dict.fromkeys(counts[name], int), f"{subject}: {name}")
        if strange := counts["label"].keys() - set(map(str, LABELS)):
            raise DataError(f"{subject}: label cannot be {ascii(min(strange))[:80]}")
    return summary


def known_labels(folder: epath.PathLike, split: str) -> list[str]:
    """Names of the labels that photos of a split have, without "unknown".

    Args:
        folder: of a prepared data set.
        split: as of `prepared.open_split`, several joined by +, or `all`. A slice counts as all of
            its split.

    Raises DataError as `read_summary` does.
    """
    splits = read_summary(folder)["splits"]
    names = list(splits) if split == "all" else [
        re.match(r"\w*", part.strip()).group() for part in split.split("+")]
    return [name for number, name in LABELS.items() if number != UNKNOWN and any(
        splits[part]["label"].get(str(number)) for part in names if part in splits)]


def _empty(items: int, published: int | None) -> dict:
    return {"items": items, "published": published, "records": 0, "regions": 0,
            **{name: Counter() for name in COUNTED}}
