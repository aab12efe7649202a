"""Paths of users go through `input_pipeline.paths` and `files`: elsewhere nobody parses them.

`pathlib` and `os` take gs://bucket/x for a folder called "gs:" of this machine, and say nothing.
"""

import ast

import pytest
from repository import ROOT

PACKAGES = ("legion_jax", "input_pipeline", "tools", "experiments")
LOCAL = "files that a command has copied to this machine, or refuses in a bucket"
ALLOWED = {
    "input_pipeline/files.py": "the door",
    "input_pipeline/paths.py": "the door",
    "input_pipeline/buckets.py": "the door",
    "input_pipeline/photos/photo_files.py": "walks and opens photos, and knows URIs",
    "input_pipeline/photos/images.py": "a photo that the caller holds as a file",
    "input_pipeline/records/builder.py": "locks a local folder",
    "input_pipeline/records/tree.py": "asks a local file for its kind",
    "input_pipeline/scarred_photos/samples.py": "the photos inside scikit-image",
    "legion_jax/convert/family.py": LOCAL,
    "legion_jax/convert/from_torch.py": LOCAL,
    "legion_jax/convert/local_copies.py": "makes the copies",
    "legion_jax/convert/plan.py": LOCAL,
    "legion_jax/convert/roles.py": LOCAL,
    "legion_jax/convert/tensor_folder.py": LOCAL,
    "legion_jax/convert/torch_file.py": LOCAL,
    "legion_jax/convert/vocabulary.py": LOCAL,
    "legion_jax/convert/weight_sets.py": LOCAL,
    "legion_jax/display/web.py": "templates of the package",
    "legion_jax/evaluate/report/comparison.py": "templates of the package",
    "legion_jax/evaluate/report/page.py": "templates of the package",
    "legion_jax/predict/job.py": "locks a local folder",
    "legion_jax/predict/photo_sources.py": "patterns of local files",
    "legion_jax/train/frozen_features.py": "a file to be copied into a bucket",
    "legion_jax/train/metrics_log.py": "files to be copied into a bucket",
    "legion_jax/train/recipes.py": "Python files, which are imported",
    "legion_jax/train/speed.py": "a trace to be copied into a bucket",
    "legion_jax/weights/params_files.py": "new folders, which are local until they are copied",
    "legion_jax/weights/tensor_file.py": "new files, which are local until they are copied",
    "tools/aot_report/topology_table.py": "a temporary folder",
    "tools/bench_input/__main__.py": "a temporary folder",
    "tools/bench_input/input_contest.py": "/proc",
    "tools/bench_input/synthetic.py": "the photos inside scikit-image",
    "tools/demo/demo_page.py": "templates of the package",
    "tools/inspect_data/pages.py": "templates of the package",
    "tools/sweep/process.py": "the log of a run of a sweep, which is local",
    "tools/verify_case/fakevlm/fakevlm_inputs.py": "the golden case of the repository",
    "tools/verify_case/slim.py": "a temporary folder",
}
OF_OS = {"path", "open", "scandir", "listdir", "walk", "stat", "mkdir", "makedirs", "rename",
         "replace", "remove", "unlink", "rmdir"}


def uses(source: str) -> list[int]:
    """Lines of a module that take a path for one of this machine."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            call = ast.unparse(node.func)
            appends = call.endswith(".open") and any(
                isinstance(a, ast.Constant) and "a" in str(a.value) for a in node.args)
            if call in ("pathlib.Path", "Path", "open") or call.endswith(".resolve") or appends:
                lines.append(node.lineno)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "os" and node.attr in OF_OS:
                lines.append(node.lineno)
    return sorted(lines)


@pytest.mark.parametrize("line", [
    "pathlib.Path(x)", "Path(x)", "open(x)", "os.path.exists(x)", "epath.Path(x).resolve()",
    "os.listdir(x)", "folder.open('a')", "folder.open('ab')"])
def test_what_is_looked_for(line):
    assert uses(line) == [1]


@pytest.mark.parametrize("line", ["epath.Path(x).open('rb')", "files.listed(x)", "os.environ",
                                  "pathlib.PurePath(x)"])
def test_what_is_fine(line):
    assert uses(line) == []


def test_paths_go_through_the_door():
    found = {path.relative_to(ROOT).as_posix(): lines for package in PACKAGES
             for path in (ROOT / package).rglob("*.py") if (lines := uses(path.read_text()))}
    strangers = {name: lines for name, lines in found.items() if name not in ALLOWED}
    assert not strangers, "use input_pipeline.paths and files, or say why not in ALLOWED"
    assert not ALLOWED.keys() - found.keys(), "these need no exception any more"
