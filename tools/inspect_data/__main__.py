"""Look at prepared data: a page of statistics and a contact sheet for every split.

    python -m tools.inspect_data --data_dir data --output sheet

writes sheet/index.html, which opens from disk, and a page for each split of each data set in
data_dir. Records are shown in the gallery of evaluations, as they are stored: photo, masks, caption
with its phrases in the colours of their masks, explanations, where it comes from; with what is
wrong where one is broken.
Statistics read each record once; the manifest tells what was repaired and left out.

--label and --pick choose what is shown. With --stats_limit, records are also chosen from those
looked at only.
"""

import dataclasses
import re

from absl import flags
from etils import epath

from input_pipeline import files, paths
from input_pipeline.errors import UserError
from input_pipeline.records import prepared
from input_pipeline.records.record import LABELS, DataError
from input_pipeline.text.tokenizer import Tokenizer
from legion_jax import command
from tools.inspect_data import survey
from tools.inspect_data.pages import Page, Request, write_index, write_split


@dataclasses.dataclass(frozen=True)
class DataFolder:
    """A prepared data set: its folder, what pages call it, and its splits."""

    path: epath.Path
    name: str
    splits: tuple[str, ...]


def find_all(data_dir: epath.PathLike) -> list[DataFolder]:
    """Every complete data set at or below data_dir, by path. Raises DataError without any."""
    folders = []
    for path in prepared.find_versions(data_dir):
        splits = tuple(prepared.open_folder(path).info.splits)
        folders.append(DataFolder(path, "/".join(path.parts[-3:-1]), splits))
    return folders


def plan(folders: list[DataFolder], split: str | None) -> list[Page]:
    """One page for each split wanted. Raises DataError where no data set has it."""
    pages, taken = [], {"index"}
    for folder in folders:
        for name in folder.splits:
            if split in (None, name):
                slug = base = re.sub(r"[^\w.-]+", "-", f"{folder.name}-{name}").strip("-.")
                again = 2
                while slug.lower() in taken:  # file names may not tell case apart
                    slug, again = f"{base}-{again}", again + 1
                taken.add(slug.lower())
                pages.append(Page(folder.path, folder.name, name, f"{slug}.html"))
    if not pages:
        known = sorted({name for folder in folders for name in folder.splits})
        raise DataError(f"no split {split!r} in {', '.join(str(f.path) for f in folders)}; "
                        f"available: {', '.join(known)}")
    return pages


def write_pages(data_dir: epath.PathLike, output: str, request: Request, *,
                split: str | None = None) -> list[Page]:
    """Writes index.html and the page of every split into `output`. Raises UserError."""
    folder = paths.folder(output, "--output")
    pages, account = plan(find_all(data_dir), split), None
    files.make_folder(folder)
    for number, page in enumerate(pages):
        if not number or pages[number - 1].folder != page.folder:
            account = survey.account(page.folder)
        siblings = [other for other in pages if other.folder == page.folder]
        write_split(folder / page.file, page, siblings, account, request)
    write_index(folder / "index.html", pages, str(data_dir))
    return pages


if __name__ == "__main__":
    DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of prepared data, or gs://.",
                                   required=True)
    OUTPUT = flags.DEFINE_string("output", None, "Folder for the pages.", required=True)
    SPLIT = flags.DEFINE_string("split", None, "Only this split of each data set.")
    NUMBER = flags.DEFINE_integer("number", 60, "Records shown of a split, at most.")
    SEED = flags.DEFINE_integer("seed", 0, "Of the random choice.")
    PICK = flags.DEFINE_enum("pick", "random", survey.PICKS, "Which records are shown.")
    LABEL = flags.DEFINE_enum("label", None, list(LABELS.values()), "Only records of this label.")
    TOKENIZER = flags.DEFINE_string("tokenizer", None, "Tokenizer folder; adds lengths in tokens.")
    LIMIT = flags.DEFINE_integer("stats_limit", None, "Look at this many records of a split only.")

    def main() -> None:
        """Writes the pages the flags ask for."""
        for flag, value in (("number", NUMBER.value), ("stats_limit", LIMIT.value)):
            if value is not None and value < 1:
                raise UserError(f"--{flag}: at least 1, got {value}")
        if SEED.value < 0:
            raise UserError(f"--seed: at least 0, got {SEED.value}")
        labels = {name: number for number, name in LABELS.items()}
        request = Request(
            number=NUMBER.value, pick=PICK.value, seed=SEED.value, limit=LIMIT.value,
            label=None if LABEL.value is None else labels[LABEL.value],
            tokenizer=TOKENIZER.value and Tokenizer.from_folder(TOKENIZER.value))
        pages = write_pages(DATA_DIR.value, OUTPUT.value, request, split=SPLIT.value)
        shown, unusable = (sum(getattr(page, name) for page in pages) for name in (
            "shown", "problems"))
        print(f"{OUTPUT.value}/index.html: {shown:,} records shown of {len(pages):,} "
              f"{'split' if len(pages) == 1 else 'splits'}"
              + (f"; {unusable:,} records cannot be used" if unusable else ""))

    command.run(main)
