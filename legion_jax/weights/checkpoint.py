"""Everything on disk that holds parameters, opened once and loaded.

Orbax reads and writes them here and in `run_checkpoints` only; elsewhere nothing of it is used but
the barrier of `distributed`.

Two kinds of folder can be loaded, and both carry `legion.json` (architecture and origin) and
`tokenizer/`:

* a converted checkpoint: `params/TOWER.safetensors`, every parameter under its path, in the dtype
  of its source. Orbax reads the byte ranges that a host's shards need; a file of this kind can be
  written a layer at a time, which its own format cannot;
* a training run: `checkpoints/STEP/` with the trainable parameters and the optimizer state. What
  the run kept frozen stays in the folder it started from, of either kind, which `legion.json`
  names together with its fingerprint.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
from typing import Any

import jax
from absl import flags
from etils import epath
from orbax.checkpoint import utils as orbax_utils, v1 as ocp

from input_pipeline import files, strict_json
from input_pipeline.errors import first_line
from input_pipeline.files import listed, remove_tree
from input_pipeline.paths import absolute, is_uri, parse
from input_pipeline.text.dialogue import Dialogue, dialogue_named
from input_pipeline.text.tokenizer import Tokenizer
from legion_jax import distributed, memory
from legion_jax.models import param_tree
from legion_jax.weights import trust
from legion_jax.weights.checkpoint_error import CheckpointError, first_of, read_json
from legion_jax.weights.legion_json import META, Base, Meta, parse_meta

flags.disclaim_key_flags()  # --help lists --step as a flag of the command that defines it
LOG = logging.getLogger("legion_jax")
NEWEST, BEST = "newest", "best"  # of the checkpoints of a run
MOST_BASES = 16  # one after the other: stages of training
# What takes less memory while weights are loaded.
LESS = ("more devices, a mesh that divides the parameters over them, bfloat16 (training: "
        "config.frozen_dtype) or int8 (prediction: --int8)")
COMMITTED = "commit_success.txt"  # Orbax' last file of a checkpoint

@contextlib.contextmanager
def reading(folder: epath.Path):
    """Name the folder when Orbax cannot read it, whatever its own error is.

    Raises OutOfMemoryError where there is no room for what is in it, else CheckpointError.
    """
    try:
        yield
    except Exception as error:
        if full := memory.explained(error, f"loading {folder}", LESS):
            raise full from error
        raise CheckpointError(f"{folder}: damaged or incomplete checkpoint "
                              f"({type(error).__name__}: {first_line(error)[:200]})") from error


@dataclasses.dataclass(frozen=True, eq=False)
class Checkpoint:
    """A converted checkpoint or a training run whose legion.json has been read.

    Everything else is read when it is asked for, and once.

    Attributes:
        folder: as it was named, without file://.
        meta: content of its legion.json.
        fingerprint: SHA-256 of legion.json, which itself records the hashes of its sources, in
            hexadecimal digits.
        wanted_step: the step of a training run that is meant; None is the newest.
        trust_base: follow its base into any bucket, as --trust_base lets a command do.
        depth: of how many other checkpoints it is the base of a base.
    """

    folder: epath.Path
    meta: Meta
    fingerprint: str
    wanted_step: int | None = None
    trust_base: bool = False
    depth: int = 0

    @classmethod
    def open(cls, folder: epath.PathLike, *, step: int | None = None,
             trust_base: bool = False) -> "Checkpoint":
        """Read legion.json. Raises CheckpointError naming the folder and what is wrong."""
        folder = parse(folder)
        path = folder / META
        if not path.exists():
            raise CheckpointError(f"{folder}: no {META} here; this is neither a converted "
                                  f"checkpoint nor a training run")
        content = files.read_plain(path, largest=strict_json.LARGEST, error=CheckpointError)
        return cls(folder, parse_meta(path, content), hashlib.sha256(content).hexdigest(), step,
                   trust_base)

    @classmethod
    def open_together(cls, folder: epath.PathLike, step: str = NEWEST) -> "Checkpoint":
        """The same on every process of a job, at a step that the first one chooses.

        Beside a run that goes on, each would see another one as its newest. `step` and errors are
        of `find_step`.
        """
        return cls.open(folder, step=distributed.first_host(lambda: find_step(folder, step)))

    @functools.cached_property
    def step(self) -> int | None:
        """Which step of a training run is meant; None of a converted checkpoint or a new run."""
        if (epath.Path(self.folder) / "params").exists():
            return None
        return latest_step(self.folder) if self.wanted_step is None else self.wanted_step

    @functools.cached_property
    def base(self) -> "Checkpoint | None":
        """The checkpoint that a run started from, None if there is none.

        Raises CheckpointError when it is not there, has changed, or may not be asked for.
        """
        if (named := self.meta.base) is None:
            return None
        if not self.trust_base:
            trust.check_base(self.folder, named.path)
        if not (parse(named.path) / META).exists():
            raise CheckpointError(f"{named.path}: not there; {absolute(self.folder)} takes its "
                                  f"frozen parameters from it")
        opened = dataclasses.replace(Checkpoint.open(
            named.path, step=named.step, trust_base=self.trust_base), depth=self.depth + 1)
        if opened.depth > MOST_BASES:
            raise CheckpointError(f"{named.path}: the {opened.depth}th base of a base; "
                                  f"{MOST_BASES} are followed")
        if opened.fingerprint != named.fingerprint:
            raise CheckpointError(f"{named.path}: not the checkpoint this run started from "
                                  f"({META} has another SHA-256)")
        return opened

    @property
    def chain(self) -> "list[Checkpoint]":
        """This checkpoint, its base, the base of that, and so on to the first."""
        return [self, *(self.base.chain if self.base else [])]

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """By the rules of its dialogue. Raises TokenizerError."""
        return self.dialogue.open_tokenizer(epath.Path(self.folder) / "tokenizer")

    @property
    def dialogue(self) -> Dialogue:
        """How the model is spoken to."""
        return dialogue_named(self.meta.dialogue)

    @functools.cached_property
    def stored(self) -> dict[str, tuple[epath.Path, Any]]:
        """{path: (folder that holds it, its shape and dtype)} of this folder and its bases.

        Raises CheckpointError when a part of them is not there or damaged.
        """
        folder = absolute(self.folder) / "params"
        if not folder.exists():
            if self.step is None or not step_folder(self.folder, self.step).exists():
                under = "under checkpoints/" if self.step is None else self.step
                raise CheckpointError(f"{absolute(self.folder)}: no params/ and no finished "
                                      f"checkpoint {under}")
            folder = step_folder(absolute(self.folder), self.step)
        with_bases = dict(self.base.stored) if self.base else {}
        return with_bases | {path: (folder, a) for path, a in _described(folder).items()}

    @property
    def entries(self) -> dict[str, Any]:
        """{path: shape and dtype} of all parameters that are stored."""
        return {path: a for path, (_, a) in self.stored.items()}

    def as_base(self) -> Base:
        """How a run that starts from this checkpoint names it in its legion.json."""
        return Base(str(absolute(self.folder)), self.fingerprint, self.step)

    def load(self, abstract: dict[str, Any]) -> dict[str, Any]:
        """All parameters.

        Args:
            abstract: {path: ShapeDtypeStruct} of the whole model; dtype and sharding are obeyed.

        Returns:
            {path: array}.

        Raises:
            CheckpointError: naming folder, parameter path and both shapes, or a base that changed.
        """
        check_shapes(str(self.folder), self.entries, abstract)
        return self.load_some(abstract)

    def load_some(self, abstract: dict[str, Any]) -> dict[str, Any]:
        """The parameters in `abstract`, and nothing else is read. As `load` otherwise."""
        check_shapes(str(self.folder), {path: a for path, a in self.entries.items()
                                        if path in abstract}, abstract)
        params = {}
        for folder in {self.stored[path][0] for path in abstract}:
            part = {path: a for path, a in abstract.items() if self.stored[path][0] == folder}
            alone = all(a.sharding.is_fully_addressable for a in part.values())
            with reading(folder), _context(folder, alone=alone):
                if folder.name == "params":
                    params |= ocp.load(folder, part)
                else:
                    params |= param_tree.flatten(ocp.load_checkpointables(
                        folder, {"params": param_tree.unflatten(part)})["params"])
        return params


def read_meta(folder: epath.PathLike) -> Meta:
    """What legion.json says. Raises CheckpointError."""
    return Checkpoint.open(folder).meta


def base_of(folder: epath.PathLike) -> dict:
    """As `Checkpoint.as_base`, as a dict for JSON."""
    return dataclasses.asdict(Checkpoint.open(folder).as_base())


def check_shapes(folder: str, entries: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Compare {path: shape holder}. Raises CheckpointError naming each path and both shapes."""
    have, need = ({path: tuple(a.shape) for path, a in shapes.items()}
                  for shapes in (entries, wanted))
    problems = [f"{path}: not in the checkpoint, model {need[path]}"
                for path in sorted(need.keys() - have.keys())]
    problems += [f"{path}: checkpoint {have[path]}, not in the model"
                 for path in sorted(have.keys() - need.keys())]
    problems += [f"{path}: checkpoint {have[path]}, model {need[path]}"
                 for path in sorted(have.keys() & need.keys()) if have[path] != need[path]]
    if problems:
        raise CheckpointError(f"{folder}: {first_of(problems)}")


def step_folder(run: epath.PathLike, step: int) -> epath.Path:
    """Folder of one checkpoint of a training run."""
    return epath.Path(run) / "checkpoints" / str(step)


def latest_step(run: epath.PathLike) -> int | None:
    """Newest complete checkpoint of a training run, or None.

    In a bucket a checkpoint has its name before it is complete, so Orbax is asked. Raises
    CheckpointError where all checkpoints lack what tells that, and yet were complete once.
    """
    steps = _steps(run)
    for step in steps:
        if orbax_utils.is_checkpoint_finalized(step_folder(run, step)):
            return step
    for folder in (step_folder(run, step) for step in steps):
        if _was_complete(folder):
            raise CheckpointError(
                f"{folder}: has no {COMMITTED}, but was complete once; if it was copied here and "
                f"all of it arrived, write that file (any content), else remove the folder")
    return None


def find_step(run: epath.PathLike, wanted: str) -> int | None:
    """The step that `wanted`, as of `define_step_flag`, means; None of a converted checkpoint.

    Raises CheckpointError where the run has none such.
    """
    if wanted == NEWEST:
        return latest_step(run)
    run = parse(run)
    if not (run / META).exists() and not _steps(run):
        return None  # whoever opens it says what is wrong
    if (run / "params").exists():
        raise CheckpointError(f"{run}: --step={wanted[:20]}, but this is a converted checkpoint, "
                              f"which has no steps")
    whole = [step for step in _steps(run)
             if orbax_utils.is_checkpoint_finalized(step_folder(run, step))]
    there = f"; there are {', '.join(map(str, sorted(whole)))}" if whole else ""
    if wanted == BEST:
        if (best := best_step(run)) is None:
            raise CheckpointError(f"{run}: --step=best, but no checkpoint here was scored when it "
                                  f"was written (config.eval.every){there}")
        return best
    if wanted not in map(str, whole):
        raise CheckpointError(f"{run}: no checkpoint of --step={wanted[:20]}{there}")
    return int(wanted)


@dataclasses.dataclass(frozen=True)
class Rank:
    """How good a run was by a metric when a checkpoint was written; more is better."""

    metric: str
    rank: float


def best_step(run: epath.PathLike) -> int | None:
    """The complete checkpoint of highest rank, of equal ones the newest; None where none has one.

    Where the metric was changed, the one of the newest counts. Raises CheckpointError for a rank
    that is none.
    """
    ranks = {}
    for step in _steps(run):  # the newest first
        path = step_folder(run, step) / "metrics/metrics"
        if path.exists() and orbax_utils.is_checkpoint_finalized(step_folder(run, step)):
            found = read_json(path)
            if found.keys() == {"loss"}:  # of a run from before there were ranks
                continue
            if not (isinstance(found.get("metric"), str)
                    and type(found.get("rank")) in (int, float)):
                raise CheckpointError(f"{path}: a metric's name and a rank are wanted, "
                                      f"not {found!r:.200}")
            ranks[step] = Rank(found["metric"], found["rank"])
    counted = next(iter(ranks.values()), None)
    return max((step for step in ranks if ranks[step].metric == counted.metric),
               key=lambda step: (ranks[step].rank, step), default=None)


def define_step_flag() -> flags.FlagHolder[str]:
    """The flag of commands that read a training run."""
    return flags.DEFINE_string("step", NEWEST, "Which checkpoint of a training run: newest, best "
                               "(by config.eval.metric) or the step of one that is there.")


def remove_unfinished(run: epath.PathLike) -> None:
    """Remove checkpoints in a bucket that a killed run has begun, so that they can be written anew.

    On a disk they have other names, and Orbax removes them. Raises as `latest_step` rather than
    remove what may be complete.
    """
    latest = latest_step(run)
    for folder in listed(epath.Path(run) / "checkpoints"):
        if is_uri(folder) and not orbax_utils.is_checkpoint_finalized(folder):
            LOG.warning("removing %s, left unfinished; %s", folder,
                        "nothing was saved before" if latest is None else f"step {latest} is whole")
            remove_tree(folder)


def _steps(run: epath.PathLike) -> list[int]:
    """Steps of the checkpoints there are, complete or not, the newest first."""
    return sorted((int(path.name) for path in listed(epath.Path(run) / "checkpoints")
                   if path.name.isdecimal()), reverse=True)


def _was_complete(folder: epath.Path) -> bool:
    """Whether Orbax has noted in a checkpoint when it was completed."""
    metadata = folder / "_CHECKPOINT_METADATA"
    try:
        return bool(json.loads(metadata.read_text()).get("commit_timestamp_nsecs"))
    except (OSError, ValueError, AttributeError, RecursionError):
        return False


def _described(folder: epath.Path) -> dict[str, Any]:
    """{path: shape and dtype} of one folder: a step of a run, or params/."""
    files.check_plain_below(folder, CheckpointError)  # Orbax would wait for a pipe for ever
    with reading(folder), _context(folder):
        if folder.name == "params":
            return dict(ocp.metadata(folder).metadata)
        return param_tree.flatten(ocp.checkpointables_metadata(folder).metadata["params"])


def _context(folder: epath.Path, *, alone: bool = False) -> ocp.Context:
    """`alone`: this process loads for its own devices, whatever the others do meanwhile."""
    context = ocp.Context()
    if alone and jax.process_count() > 1:
        host = jax.process_index()
        context.multiprocessing.primary_host = host
        context.multiprocessing.active_processes = {host}
        context.multiprocessing.barrier_sync_key_prefix = f"host{host}"
    if folder.name == "params":
        context.checkpoint_layout = ocp.options.CheckpointLayout.SAFETENSORS
        if not is_uri(folder):
            # Many small reads cost little on a file system; on object storage Orbax weighs them
            # against reading what lies between.
            context.safetensors.max_over_read_ratio = 1.0
    else:
        context.pytree.loading.partial_load = True
    return context
