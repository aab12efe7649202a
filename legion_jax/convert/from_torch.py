"""PyTorch checkpoints -> a converted checkpoint (see `weights.checkpoint`), tensor by tensor."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable

import numpy as np

from input_pipeline import files
from legion_jax.config import LegionConfig
from legion_jax.convert import streaming
from legion_jax.convert.names import is_known
from legion_jax.convert.plan import Options, Plan, make_plan
from legion_jax.convert.roles import Sources, open_sources
from legion_jax.convert.table import Rule
from legion_jax.convert.tensor_folder import SourceError
from legion_jax.weights import legion_json, params_files, tensor_file

LAYOUT, CARRIED = "layout.json", "carried.safetensors"


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a conversion found: unmodelled tensors that are known, and those that are not."""

    config: LegionConfig
    parameters: int
    carried: list[str]
    unknown: list[str]
    absent: list[str]
    nonfinite: list[str]


def convert(main: str, output: str, *, clip: str | None = None, sam: str | None = None,
            head: str | None = None, adapter: str | None = None,
            options: Options | None = None, progress: bool = True) -> Summary:
    """Write a converted checkpoint; `output` is a new folder, whole or not there at all.

    The folders are those of `sources.open_sources`. Memory holds a few tensors at a time.

    Raises:
        SourceError, TokenizerError: naming file and tensor.
    """
    options = (options or Options()).resolved()
    plan = make_plan(open_sources(main, clip=clip, sam=sam, head=head, adapter=adapter),
                     options)
    with files.new_folder(output) as folder:
        nonfinite, hashes = _write_tensors(plan, folder, progress)
        if nonfinite and not options.allow_nonfinite:
            more = f" and {len(nonfinite) - 5} more" if len(nonfinite) > 5 else ""
            raise SourceError(f"NaN or infinite values in {', '.join(nonfinite[:5])}{more}; "
                              f"--allow_nonfinite converts them as they are")
        for role in plan.sources.roles:
            (folder / "source" / role).mkdir()
        for name, content in source_files(plan, options).items():
            (folder / "source" / name).write_bytes(content)
        plan.tokenizer.save(folder / "tokenizer")
        legion_json.write_meta(
            folder, plan.config, base=None, trained=[], absent=plan.absent,
            vocabulary=plan.vocabulary(), options=dataclasses.asdict(options), sources={
                role: {"path": str(source.folder.path.resolve()), "sha256": hashes[role]}
                for role, source in plan.sources.roles.items()})
    unknown = [name for name in plan.rest if not is_known(name)]
    return Summary(plan.config, sum(math.prod(shape) for shape, _ in plan.params.values()),
                   [name for name in plan.rest if name not in unknown], unknown, plan.absent,
                   nonfinite)


def jobs(plan: Plan) -> dict[str, Callable[[Callable], None]]:
    """{published name: what to do with it}: `job(put)` calls put(path, index, array) on its value.

    The array has the layout and dtype of the parameter; index is () or its place in the stack.
    """
    def one(rule: Rule, key: str, index: tuple[int, ...]):
        dtype = plan.params[rule.path][1]

        def job(put):
            value = plan.sources.read(key)
            if key in plan.adapters:
                value = (value.astype(np.float32) + plan.adapters[key]()).astype(value.dtype)
            put(rule.path, index, streaming.cast(rule.layout.to_jax(value), dtype))
        return job

    return {key: one(rule, key, index) for rule in plan.table
            for index, key in np.ndenumerate(rule.keys)}


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
    described, files = {}, {}
    for role, source in plan.sources.roles.items():
        published = {key: name for name, key in source.names.items()}
        described[role] = {
            "spelling": source.spelling, "files": source.folder.files,
            "index_name": source.folder.index_name, "index": source.folder.index,
            "tensors": {key: dataclasses.asdict(entry) | {"published": published.get(key)}
                        for key, entry in source.folder.entries.items()}}
        files |= {f"{role}/{name}": path.read_bytes()
                  for name, path in source.small_files().items()}
    if options.config:
        files["main/config.json"] = pathlib.Path(options.config).read_bytes()
    if options.sam:
        files["main/sam_config.json"] = _json(options.sam)
    return files | {LAYOUT: _json(described)}


def _json(value: dict) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
