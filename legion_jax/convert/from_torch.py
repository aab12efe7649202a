"""PyTorch checkpoints -> a converted checkpoint, tensor by tensor, and the comparison of both."""

import dataclasses
import logging
import math
import pathlib
import typing
from collections.abc import Callable

import numpy as np
from etils import epath

from input_pipeline import files, paths
from legion_jax.config import LegionConfig
from legion_jax.convert import agreement, streaming
from legion_jax.convert.config_files import encode
from legion_jax.convert.family import LEGION
from legion_jax.convert.layout_json import CARRIED, LAYOUT, record
from legion_jax.convert.local_copies import LocalCopies
from legion_jax.convert.names import is_known
from legion_jax.convert.plan import Options, Plan, make_plan
from legion_jax.convert.roles import Sources, open_sources, reopen
from legion_jax.convert.table import Rule
from legion_jax.convert.tensor_folder import open_safetensors, sha256
from legion_jax.convert.weight_sets import PARTS
from legion_jax.weights import legion_json, params_files, tensor_file, trust
from legion_jax.weights.checkpoint import Checkpoint
from legion_jax.weights.checkpoint_error import CheckpointError
from legion_jax.weights.legion_json import META

LOG = logging.getLogger("legion_jax")


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a conversion made.

    Attributes:
        config: architecture of the model.
        parameters: number of values in all parameters.
        carried: published names of tensors that no parameter is made of, known ones.
        unknown: the same of tensors of which nothing is known.
        absent: towers that are not there.
        nonfinite: published names of tensors with NaN or infinite values.
        system: which member of the family it is.
    """

    config: LegionConfig
    parameters: int
    carried: list[str]
    unknown: list[str]
    absent: list[str]
    nonfinite: list[str]
    system: str = LEGION.name


def convert(main: str, output: str, *, clip: str | None = None, sam: str | None = None,
            head: str | None = None, adapter: str | None = None,
            options: Options | None = None, progress: bool = True) -> Summary:
    """Write a converted checkpoint; `output` is a new folder, whole or not there at all.

    The folders are those of `roles.open_sources`; what lies in a bucket is copied to the local
    disk first. Memory holds a few tensors at a time.

    Raises:
        CheckpointError, TokenizerError: naming file and tensor.
    """
    options = (options or Options()).resolved()
    files.check_free(output)
    with LocalCopies() as copies:
        plan = make_plan(open_sources(
            copies.of(main), clip=copies.of(clip), sam=copies.of(sam), head=copies.of(head),
            adapter=copies.of(adapter)), copies.of_options(options))
        plan.check()
        for note in plan.notes:
            LOG.warning("%s", copies.renamed(note))
        ignored = _unread(plan.sources, copies, progress)
        return _write(plan, options, copies, output, ignored, progress)


def _unread(sources: Sources, copies: LocalCopies, progress: bool) -> dict[str, dict[str, str]]:
    """{role: {name: why it is not read}}, also logged. Raises CheckpointError as `check` does."""
    compared = agreement.check(sources, progress=progress)
    unread = {role: {name: copies.renamed(why)
                     for name, why in (names | compared.get(role, {})).items()}
              for role, names in sources.ignored.items()}
    for role, source in sources.roles.items():
        if role in PARTS:
            LOG.info("%s: %d tensors that were trained whole are read too",
                     copies.named(source.folder.path), len(source.names))
    for role, names in unread.items():
        for name, why in names.items():
            LOG.warning("%s: not read: %s",
                        copies.named(sources.roles[role].folder.root / name), why)
    return unread


def _write(plan: Plan, options: Options, copies: LocalCopies, output: str,
           ignored: dict[str, dict[str, str]], progress: bool) -> Summary:
    with files.new_folder(output, last=META) as folder:
        nonfinite, hashes = _write_tensors(plan, folder, progress)
        if nonfinite and not options.allow_nonfinite:
            more = f" and {len(nonfinite) - 5} more" if len(nonfinite) > 5 else ""
            raise CheckpointError(f"NaN or infinite values in {', '.join(nonfinite[:5])}{more}; "
                                  f"--allow_nonfinite converts them as they are")
        for role in plan.sources.roles:
            (folder / "source" / role).mkdir()
        for name, content in source_files(plan, copies.of_options(options)).items():
            (folder / "source" / name).write_bytes(content)
        plan.tokenizer.save(folder / "tokenizer")
        legion_json.write_meta(
            folder, plan.config, dialogue=plan.system.dialogue.name, base=None, trained=[],
            absent=plan.absent,
            vocabulary=dataclasses.asdict(plan.vocabulary()),
            options=dataclasses.asdict(options), sources={
                role: {"path": copies.named(source.folder.path), "sha256": hashes[role],
                       "ignored": ignored.get(role, {})}
                for role, source in plan.sources.roles.items()})
    return Summary(plan.config, sum(math.prod(shape) for shape, _ in plan.params.values()),
                   carried=[name for name in plan.rest if is_known(name)],
                   unknown=[name for name in plan.rest if not is_known(name)],
                   absent=plan.absent, nonfinite=nonfinite, system=plan.system.name)


def jobs(plan: Plan) -> dict[str, Callable[[Callable], None]]:
    """{published name: what to do with it}: `job(put)` calls put(path, index, array) on its value.

    The array has the layout and dtype of the parameter; index is () or its place in the stack.
    """
    made_of: dict[str, list[tuple[Rule, tuple[int, ...]]]] = {}
    for rule in plan.table:
        for index, key in np.ndenumerate(rule.keys):
            made_of.setdefault(key, []).append((rule, index))

    def job_of(key: str, targets: list[tuple[Rule, tuple[int, ...]]]):
        def job(put):
            value = plan.sources.read(key)
            if key in plan.adapters:
                value = (value.astype(np.float32) + plan.adapters[key]()).astype(value.dtype)
            for rule, index in targets:
                put(rule.path, index,
                    streaming.cast(rule.layout.to_jax(value), plan.params[rule.path][1]))
        return job

    return {key: job_of(key, targets) for key, targets in made_of.items()}


def _write_tensors(plan: Plan, folder: pathlib.Path, progress: bool):
    """Write params/ and the carried tensors; returns (non-finite names, hashes by role)."""
    (folder / "source").mkdir(parents=True)
    unmodelled = {carried_name(plan.sources, name): plan.sources.entries[name]
                  for name in plan.rest}
    nonfinite = []
    with params_files.ParamsWriter(folder, plan.params) as params, tensor_file.SafetensorsWriter(
            folder / "source" / CARRIED,
            {name: (e.shape, e.dtype) for name, e in unmodelled.items()}) as rest:

        def transfer(name):
            def put(path, index, array):
                if not streaming.is_finite(array):
                    nonfinite.append(name)
                params.write(path, array, index)
            if name in work:
                work[name](put)
            else:
                rest.write(carried_name(plan.sources, name), plan.sources.read(name))

        work = jobs(plan)
        order = plan.sources.in_file_order([*work, *plan.rest])
        hashes = streaming.run(
            transfer, order, sizes=[plan.sources.entries[name].nbytes for name in order],
            beside={role: source.hashes for role, source in plan.sources.roles.items()},
            description="converting", progress=progress)
    return sorted(nonfinite), hashes


def carried_name(sources: Sources, name: str) -> str:
    """Where a tensor that no rule uses is kept."""
    role = sources.owner[name]
    return f"{role}/{sources.roles[role].names[name]}"


def source_files(plan: Plan, options: Options) -> dict[str, bytes]:
    """{name below source/: content} of what export needs to write the folders back, but tensors."""
    roles = plan.sources.roles
    small = {f"{role}/{name}": path.read_bytes() for role, source in roles.items()
             for name, path in source.small_files.items()}
    if options.config:
        small["main/config.json"] = pathlib.Path(options.config).read_bytes()
    if options.sam:
        small["main/sam_config.json"] = encode(options.sam)
    return small | {LAYOUT: encode(
        {role: dataclasses.asdict(record(source)) for role, source in roles.items()})}


def verify(folder: epath.PathLike, *, progress: bool = True) -> list[str]:
    """Re-read sources and checkpoint; returns one sentence per difference.

    Raises CheckpointError when there is nothing to compare with.
    """
    meta = Checkpoint.open(folder).meta
    sources = meta.sources
    if not sources:
        raise CheckpointError(f"{folder}: not converted from PyTorch files; nothing to compare "
                              f"with")
    recorded_options(folder, meta)
    for role, described in sources.items():
        hashes = described.get("sha256")
        if not isinstance(hashes, dict) or not all(isinstance(h, str) for h in hashes.values()):
            raise CheckpointError(f"{folder}: {META}: sources.{role}.sha256 cannot be {hashes!r}")
        trust.check_place(folder, described["path"], "was converted from")
        if not paths.parse(described["path"]).exists():
            raise CheckpointError(f"{described['path']}: not there; {folder} came from it")
    with LocalCopies() as copies:
        opened = Checkpoint.open(copies.of(folder))
        problems = _compare_hashes(opened.meta.sources, copies) or _compare_values(
            opened, copies, progress)
        return [copies.renamed(problem) for problem in problems]


def recorded_options(folder: epath.PathLike, meta: legion_json.Meta) -> Options:
    """What a conversion was asked, as its legion.json tells. Raises CheckpointError."""
    hints = typing.get_type_hints(Options)
    for name, value in meta.options.items():
        if name not in hints or not isinstance(value, hints[name]) and not (
                hints[name] is float and type(value) is int):
            raise CheckpointError(f"{folder}: {META}: options.{name} cannot be {value!r}")
        if name in ("tokenizer", "config") and value:
            trust.check_place(folder, value, "was converted with")
    return Options(**meta.options)


def _compare_hashes(sources: dict, copies: LocalCopies) -> list[str]:
    problems = []
    for described in sources.values():
        path = pathlib.Path(copies.of(described["path"]))
        root = path.parent if path.is_file() else path
        for name, wanted in described["sha256"].items():
            if pathlib.PurePath(name).name != name:
                problems.append(f"{META}: {name!a} is not a file name")
                continue
            if not (root / name).is_file():
                problems.append(f"{root / name}: not there any more")
            elif (now := sha256(root / name)) != wanted:
                problems.append(f"{root / name}: SHA-256 {now[:16]}..., {wanted[:16]}... when it "
                                f"was converted")
    return problems


def _compare_values(opened: Checkpoint, copies: LocalCopies, progress: bool) -> list[str]:
    folder, meta = pathlib.Path(opened.folder), opened.meta
    options = copies.of_options(recorded_options(folder, meta))
    sources = reopen({role: copies.of(s["path"]) for role, s in meta.sources.items()})
    sources.leftovers.clear()  # what has come since changes nothing of what was read
    plan = make_plan(sources, options)
    plan.check()
    reader = params_files.Reader(opened)
    if meta.config != plan.config:
        return [f"{folder / META}: another architecture than the sources have"]
    if lost := sorted(plan.params.keys() - reader.entries.keys()):
        return [f"{folder / 'params'}: {path} is not there" for path in lost]
    work, problems = jobs(plan), []

    def compare(name):
        def put(path, index, array):
            stored = reader.read(path, index)
            if tensor_file.raw_bytes(stored) != tensor_file.raw_bytes(array):
                number = "".join(f"[{i}]" for i in index)
                problems.append(f"{path}{number}: other values than {name} in the sources")
        work[name](put)

    order = plan.sources.in_file_order(work)
    streaming.run(compare, order, sizes=[plan.sources.entries[n].nbytes for n in order],
                  beside={}, description="comparing", progress=progress)
    if meta.dialogue != plan.system.dialogue.name:
        problems.append(f"{folder / META}: dialogue {meta.dialogue}, of the sources "
                        f"{plan.system.dialogue.name}")
    problems += _compare_records(opened, plan, options) + _compare_carried(folder, plan)
    return sorted(problems)


def _compare_carried(folder: pathlib.Path, plan: Plan) -> list[str]:
    """The tensors that the model does not hold."""
    path, problems = folder / "source" / CARRIED, []
    if not path.exists():
        return [f"{path}: not there"]
    carried = open_safetensors(path)
    for name in plan.rest:
        inside = carried_name(plan.sources, name)
        if inside not in carried.tensors:
            problems.append(f"{path}: {name} is not there")
        elif tensor_file.raw_bytes(carried.read(inside)) != tensor_file.raw_bytes(
                plan.sources.read(name)):
            problems.append(f"{path}: {name}: other values than in the sources")
    return problems


def _compare_records(opened: Checkpoint, plan: Plan, options: Options) -> list[str]:
    """The tokenizer, and what an export needs beside the tensors."""
    folder = pathlib.Path(opened.folder)
    wanted = {folder / "tokenizer" / name: content
              for name, content in plan.tokenizer.files.items()}
    wanted |= {folder / "source" / name: content
               for name, content in source_files(plan, options).items()}
    problems = [f"{path}: {'differs' if path.exists() else 'not there'}"
                for path, content in wanted.items()
                if not path.exists() or path.read_bytes() != content]
    recorded, vocabulary = opened.meta.vocabulary, plan.vocabulary()
    if recorded != vocabulary:
        problems.append(f"{folder / META}: vocabulary {recorded and dataclasses.asdict(recorded)}, "
                        f"of the sources {dataclasses.asdict(vocabulary)}")
    return problems
