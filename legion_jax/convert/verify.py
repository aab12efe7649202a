"""A converted checkpoint against the files it came from: hashes, then values, bit for bit."""

import pathlib

from etils import epath

from legion_jax.convert import from_torch, streaming
from legion_jax.convert.plan import Options, Plan, make_plan
from legion_jax.convert.roles import reopen
from legion_jax.convert.tensor_folder import SourceError, open_safetensors, sha256
from legion_jax.weights import checkpoint, params_files, tensor_file


def verify(folder: epath.PathLike, *, progress: bool = True) -> list[str]:
    """Re-read sources and checkpoint; returns one sentence per difference.

    Raises SourceError when there is nothing to compare with.
    """
    folder = pathlib.Path(folder)
    meta = checkpoint.read_meta(folder)
    if not meta.get("sources"):
        raise SourceError(f"{folder}: not converted from PyTorch files; nothing to compare with")
    for described in meta["sources"].values():
        if not pathlib.Path(described["path"]).exists():
            raise SourceError(f"{described['path']}: not there; {folder} came from it")
    problems = _compare_hashes(meta["sources"])
    return problems or _compare_values(folder, meta, progress)


def _compare_hashes(sources: dict) -> list[str]:
    problems = []
    for described in sources.values():
        path = pathlib.Path(described["path"])
        root = path.parent if path.is_file() else path
        for name, wanted in described["sha256"].items():
            if not (root / name).is_file():
                problems.append(f"{root / name}: not there any more")
            elif (found := sha256(root / name)) != wanted:
                problems.append(f"{root / name}: SHA-256 {found[:16]}..., {wanted[:16]}... when it "
                                f"was converted")
    return problems


def _compare_values(folder: pathlib.Path, meta: dict, progress: bool) -> list[str]:
    plan = make_plan(reopen({role: s["path"] for role, s in meta["sources"].items()}),
                     Options(**meta["options"]))
    reader = params_files.Reader(folder)
    if meta["config"] != plan.config:
        return [f"{folder / checkpoint.META}: another architecture than the sources have"]
    if lost := sorted(plan.params.keys() - reader.entries.keys()):
        return [f"{folder / 'params'}: {path} is not there" for path in lost]
    work, problems = from_torch.jobs(plan), []

    def compare(name):
        def put(path, index, array):
            stored = reader.read(path, index)
            if tensor_file.raw_bytes(stored) != tensor_file.raw_bytes(array):
                place = "".join(f"[{i}]" for i in index)
                problems.append(f"{path}{place}: other values than {name} in the sources")
        work[name](put)

    order = plan.sources.in_file_order(work)
    streaming.run(compare, order, sizes=[plan.sources.entries[n].nbytes for n in order],
                  beside={}, description="comparing", progress=progress)
    problems += _compare_records(folder, meta, plan)
    file = folder / "source" / from_torch.CARRIED
    if not file.exists():
        return sorted([*problems, f"{file}: not there"])
    kept = open_safetensors(file)
    for name in plan.rest:
        if from_torch.carried_name(plan.sources, name) not in kept.tensors:
            problems.append(f"{file}: {name} is not there")
            continue
        value = kept.read(from_torch.carried_name(plan.sources, name))
        if tensor_file.raw_bytes(value) != tensor_file.raw_bytes(plan.sources.read(name)):
            problems.append(f"{file}: {name}: other values than in the sources")
    return sorted(problems)


def _compare_records(folder: pathlib.Path, meta: dict, plan: Plan) -> list[str]:
    """The tokenizer, and what an export needs beside the tensors."""
    wanted = {folder / "tokenizer" / name: content
              for name, content in plan.tokenizer.files.items()}
    wanted |= {folder / "source" / name: content for name, content in from_torch.source_files(
        plan, Options(**meta["options"])).items()}
    problems = [f"{path}: {'differs' if path.exists() else 'not there'}"
                for path, content in wanted.items()
                if not path.exists() or path.read_bytes() != content]
    if meta.get("vocabulary") != plan.vocabulary():
        problems.append(f"{folder / checkpoint.META}: vocabulary {meta.get('vocabulary')}, of the "
                        f"sources {plan.vocabulary()}")
    return problems
