"""What differs between the demos: recipe, data, aims, and what is shown."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping
from types import MappingProxyType, ModuleType

from experiments import tiny, tiny_fakevlm, tiny_sida
from input_pipeline.text.dialogue import SIDA_DESCRIBED, Dialogue, dialogue_named


@dataclasses.dataclass(frozen=True)
class System:
    """One demo.

    Attributes:
        name: of it on the command line; title: of its page.
        recipe: of its run.
        layout: of the scarred photos, see `scarred_photos.layouts`; dataset: what reads them.
        texts: (folder of the photos) -> what is said of the training photos.
        aims: (name, least value, key of `held_out.Scores.aimed`).
        scored_every: updates between two scores of the run.
        explain: of which photos what is said is shown, one of `prediction.EXPLAIN`.
    """

    name: str
    title: str
    recipe: ModuleType
    layout: str
    dataset: str
    texts: Callable[[pathlib.Path], list[str]]
    aims: tuple[tuple[str, float, str], ...]
    scored_every: int
    explain: str = "fakes"

    def folder(self, output: pathlib.Path) -> pathlib.Path:
        """Where its files are: LEGION's in the output itself, a relative's in one of its name."""
        return output if self.name == LEGION.name else output / self.name

    def dialogue(self, config) -> Dialogue:
        """Of a run's config."""
        return dialogue_named(config.data.dialogue)


def _synthscars_texts(photos: pathlib.Path) -> list[str]:
    annotations = json.loads((photos / "train/annotations/train.json").read_text())
    return [next(iter(item.values()))["caption"] for item in annotations]


def _fakeclue_texts(photos: pathlib.Path) -> list[str]:
    entries = json.loads((photos / "data_json/train.json").read_text())
    return [turn["value"] for entry in entries for turn in entry["conversations"]
            if turn["from"] == "gpt"]


def _sid_set_texts(photos: pathlib.Path) -> list[str]:
    folder = photos / "text_label_images/train/description"
    described = [text for file in sorted(folder.glob("*.json"))
                 for text in json.loads(file.read_text()).values()]
    # As often as they are said.
    return described + [opening for _, opening in SIDA_DESCRIBED.openings] * len(described)


LEGION = System(
    name="legion", title="LEGION learns on scarred photographs", recipe=tiny,
    layout="synthscars", dataset="synthscars/photos", texts=_synthscars_texts,
    aims=(("F1 on held-out photos, mean", 0.50, "f1"),
          ("verdict accuracy on held-out photos", 0.90, "accuracy")), scored_every=90)
FAKEVLM = System(
    name="fakevlm", title="FakeVLM learns to say what is wrong", recipe=tiny_fakevlm,
    layout="fakeclue", dataset="fakeclue/published", texts=_fakeclue_texts,
    aims=(("verdict accuracy on held-out photos", 0.90, "accuracy"),), scored_every=300,
    explain="always")
SIDA = System(
    name="sida", title="SIDA learns what is real, synthetic and tampered", recipe=tiny_sida,
    layout="sid_set", dataset="sid_set/folders", texts=_sid_set_texts,
    aims=(("accuracy among three classes on held-out photos", 0.85, "of_classes"),
          ("F1 on tampered held-out photos, mean", 0.50, "f1_with_artifacts")), scored_every=90)
SYSTEMS: Mapping[str, System] = MappingProxyType(
    {system.name: system for system in (LEGION, FAKEVLM, SIDA)})
