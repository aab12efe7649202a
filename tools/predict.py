"""Verdict, explanation and masks for a photo or a folder of photos.

    python -m tools.predict --checkpoint DIR --images DIR_OR_FILE --output DIR

Writes per photo NAME.json, NAME_mask.png (union of all masks at the photo's size, 255 where an
artifact is) and NAME_overlay.png. Files that are no readable image are reported and skipped; the
exit code is then 2.
"""

import pathlib
import sys
from collections.abc import Iterator

import numpy as np
from absl import flags
from PIL import Image
from tqdm import tqdm

from input_pipeline import images, regions
from input_pipeline.errors import UserError
from legion_jax import command, report
from legion_jax.inference import Predictor
from legion_jax.overlay import draw_overlay
from legion_jax.predictions import Prediction

SKIPPED_SOME = 2


def find_files(source: str) -> tuple[pathlib.Path, list[pathlib.Path]]:
    """Root and files of a folder, all levels, hidden ones left out; or of a single file.

    Raises UserError when there is nothing to read.
    """
    path = pathlib.Path(source)
    if path.is_file():
        return path.parent, [path]
    if not path.is_dir():
        raise UserError(f"{source}: no such file or folder")
    files = sorted(p for p in path.rglob("*") if p.is_file()
                   and not any(part.startswith(".") for part in p.relative_to(path).parts))
    if not files:
        raise UserError(f"{source}: the folder holds no files")
    return path, files


def output_names(root: pathlib.Path, files: list[pathlib.Path]) -> dict[pathlib.Path, str]:
    """Output name of every file: its path without suffix, with it where two would be equal."""
    stems: dict[str, int] = {}
    for file in files:
        stem = file.relative_to(root).with_suffix("").as_posix()
        stems[stem] = stems.get(stem, 0) + 1
    names, taken = {}, set()
    for file in sorted(files, key=lambda f: stems[f.relative_to(root).with_suffix("").as_posix()]):
        relative = file.relative_to(root)
        stem = relative.with_suffix("").as_posix()
        name = first = stem if stems[stem] == 1 else f"{stem}_{relative.suffix.lstrip('.')}"
        number = 2
        while name in taken:  # n.jpg beside n.png beside n_jpg.png
            name, number = f"{first}_{number}", number + 1
        taken.add(name)
        names[file] = name
    return names


def check_output(source: str, output: pathlib.Path) -> None:
    """Make the output folder. Raises UserError when results would land among the photos."""
    photos = pathlib.Path(source)
    if photos.is_dir() and output.resolve().is_relative_to(photos.resolve()):
        raise UserError(f"{output}: lies in {source}, where the photos are; a second run would "
                        f"take the results for photos")
    output.mkdir(parents=True, exist_ok=True)


def as_json(image: str, prediction: Prediction) -> dict:
    """The result of one photo; spans count characters of the explanation."""
    artifacts = [
        {"phrase": r.phrase, "span": [r.start, r.end], "detail": r.detail,
         "rle": None if r.mask is None else regions.mask_to_rle(r.mask),
         "score": _rounded(r.score)} for r in prediction.regions]
    return {"image": image, "size": list(prediction.size), "verdict": prediction.verdict,
            "probability": _rounded(prediction.probability),
            "fake_probability": _rounded(prediction.fake_probability),
            "explanation": prediction.explanation, "answer": prediction.answer,
            "finished": prediction.finished, "artifacts": artifacts}


def _rounded(value: float | None) -> float | None:
    """Five digits: what is left is the same for every batch size."""
    return None if value is None else round(value, 5)


def overlay(image: np.ndarray, prediction: Prediction) -> Image.Image:
    """Photo with masks and phrases, headed by the verdict."""
    drawn = [r for r in prediction.regions if r.mask is not None]
    title = None
    if prediction.verdict is not None:
        title = f"{prediction.verdict} {prediction.probability:.0%}"
    return draw_overlay(image, [r.mask for r in drawn], [r.phrase for r in drawn], title=title)


def write(output: pathlib.Path, name: str, file: pathlib.Path, image, prediction) -> None:
    """The three files of a photo; the JSON comes last, so it marks a complete result."""
    target = output / name
    target.parent.mkdir(parents=True, exist_ok=True)
    mask = Image.fromarray(prediction.mask.astype(np.uint8) * 255)
    mask.save(target.with_name(f"{target.name}_mask.png"))
    overlay(image, prediction).save(target.with_name(f"{target.name}_overlay.png"))
    report.write_json(target.with_name(f"{target.name}.json"),
                      as_json(_printable(file), prediction))


def _printable(file: pathlib.Path) -> str:
    """Path as text; bytes that are no UTF-8 become question marks."""
    return str(file).encode("utf-8", "replace").decode()


def readable(files: list[pathlib.Path], failures: list[str], bar: tqdm) -> Iterator[tuple]:
    """(file, photo) of every readable file; the others are reported and counted."""
    for file in files:
        try:
            yield file, images.read_image(file)
        except images.ImageError as error:
            failures.append(str(error))
            bar.write(f"skipped: {error}", file=sys.stderr)
            bar.update()


def predict(predictor: Predictor, source: str, output: str) -> list[str]:
    """Predict every file; returns why files were skipped. Photos are read a batch at a time."""
    root, files = find_files(source)
    check_output(source, pathlib.Path(output))
    names, failures, group = output_names(root, files), [], []
    with tqdm(total=len(files), desc="predicting", unit="photo") as bar:
        def flush():
            for (file, image), result in zip(group, predictor([i for _, i in group]), strict=True):
                write(pathlib.Path(output), names[file], file, image, result)
                bar.update()
            group.clear()

        for item in readable(files, failures, bar):
            group.append(item)
            if len(group) == predictor.batch_size:
                flush()
        if group:
            flush()
    print(f"{output}: {len(files) - len(failures)} photos, {len(failures)} skipped; "
          f"{predictor.compiled_programs()} programs compiled")
    return failures


if __name__ == "__main__":
    CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Converted checkpoint or training run.")
    IMAGES = flags.DEFINE_string("images", None, "Photo, or folder of photos.")
    OUTPUT = flags.DEFINE_string("output", None, "Folder for the results.")
    BATCH_SIZE = flags.DEFINE_integer("batch_size", 4, "Photos per compiled call.", lower_bound=1)
    flags.mark_flags_as_required(["checkpoint", "images", "output"])

    def main() -> int:
        find_files(IMAGES.value)  # before minutes are spent on loading
        check_output(IMAGES.value, pathlib.Path(OUTPUT.value))
        predictor = Predictor.from_folder(CHECKPOINT.value, batch_size=BATCH_SIZE.value)
        return SKIPPED_SOME if predict(predictor, IMAGES.value, OUTPUT.value) else 0

    command.run(main)
