"""layout.json of a converted checkpoint: every tensor of every file that it came from."""

import dataclasses
import pathlib
from typing import Any

from etils import epath

from legion_jax.convert.roles import ROLES, Source
from legion_jax.convert.tensor_folder import Entry
from legion_jax.convert.weight_sets import INDEXES
from legion_jax.weights import tensor_file
from legion_jax.weights.checkpoint_error import CheckpointError, read_json

LAYOUT = "layout.json"
CARRIED = "carried.safetensors"  # beside it: the tensors that no parameter is made of


@dataclasses.dataclass(frozen=True)
class RecordedTensor(Entry):
    """A tensor of a file.

    Attributes:
        published: its published name; None of a tensor that a conversion leaves where it is.
    """

    published: str | None


@dataclasses.dataclass(frozen=True)
class RecordedFolder:
    """A folder, or a single file, that a conversion read.

    Attributes:
        spelling: name of the layout it is in.
        files: names of its weights files.
        index_name: name of its index file; None where there is none.
        index: content of the index file.
        tensors: {name in the files: RecordedTensor}.
    """

    spelling: str
    files: list[str]
    index_name: str | None
    index: dict[str, Any] | None
    tensors: dict[str, RecordedTensor]


def record(source: Source) -> RecordedFolder:
    """What layout.json holds of an open folder."""
    folder = source.folder
    return RecordedFolder(source.spelling, folder.files, folder.index_name, folder.index, {
        key: RecordedTensor(entry.file, entry.shape, entry.dtype, source.published.get(key))
        for key, entry in folder.entries.items()})


def read_layout(path: epath.Path) -> dict[str, RecordedFolder]:
    """{role: folder} of a layout.json; {} where there is none, of a model that came from no files.

    Raises CheckpointError naming the file and the role, for what no conversion would have written.
    """
    folders = {}
    for role, described in (read_json(path) if path.exists() else {}).items():
        if role not in ROLES:
            raise CheckpointError(f"{path}: {role!r} is none of {', '.join(ROLES)}")
        if problem := _problem_of(described):
            raise CheckpointError(f"{path}: {role}: {problem}")
        folders[role] = RecordedFolder(
            described["spelling"], described["files"], described["index_name"],
            described["index"], {
                key: RecordedTensor(t["file"], tuple(t["shape"]), t["dtype"], t["published"])
                for key, t in described["tensors"].items()})
    return folders


def _problem_of(described: Any) -> str | None:
    """What a conversion would not have recorded."""
    fields = {"spelling", "files", "index_name", "index", "tensors"}
    if not isinstance(described, dict) or not fields <= described.keys():
        return f"not an object with {', '.join(sorted(fields))}"
    files, tensors, index = described["files"], described["tensors"], described["index"]
    if not isinstance(described["spelling"], str) or not isinstance(tensors, dict):
        return "spelling must be a name and tensors an object"
    if not isinstance(files, list) or len(set(map(str, files))) < len(files):
        return "files must be a list without repetition"
    for name in files:
        if not isinstance(name, str) or "\0" in name or pathlib.PurePath(name).name != name:
            return f"{name!r} is not a file name"
    published = set()
    for key, tensor in tensors.items():
        if not _is_tensor(tensor, files) or tensor["published"] in published:
            return f"tensors: {key} cannot be {tensor!r}"
        published |= {tensor["published"]} - {None}
    if index is None and described["index_name"] is None:
        return None
    if not isinstance(index, dict) or described["index_name"] not in INDEXES:
        return f"index_name {described['index_name']!r} with an index of {type(index).__name__}"
    if index.get("weight_map") != {key: tensor["file"] for key, tensor in tensors.items()}:
        return "index and tensors disagree about the files"
    return None


def _is_tensor(value: Any, files: list[str]) -> bool:
    return (isinstance(value, dict) and {"file", "shape", "dtype", "published"} <= value.keys()
            and value["file"] in files and isinstance(value["shape"], list)
            and all(type(n) is int and n >= 0 for n in value["shape"])
            and isinstance(value["dtype"], str) and value["dtype"] in tensor_file.NAMES
            and isinstance(value["published"], str | None))
