"""The rules of the house that no linter knows: names, sizes, pages at doors, true references."""

import ast
import collections
import importlib.util
import pathlib
import re

from repository import ROOT

PRODUCT = ("legion_jax", "input_pipeline", "experiments", "tools")
# The same thing wherever it stands: a package's own files, and a work from top to bottom.
SHARED_NAMES = {"__init__.py", "__main__.py", "run.py"}
LINES_OF_A_FILE, LINES_OF_A_FUNCTION = 400, 50


def product_files() -> list[pathlib.Path]:
    return [path for folder in PRODUCT for path in sorted((ROOT / folder).rglob("*.py"))]


def pages() -> list[pathlib.Path]:
    return [ROOT / "README.md", ROOT / "BUILD.md",
            *(page for folder in PRODUCT for page in sorted((ROOT / folder).rglob("*.md")))]


def test_a_file_name_means_one_thing():
    homes = collections.defaultdict(list)
    for path in product_files():
        if path.name not in SHARED_NAMES:
            homes[path.name].append(str(path.parent.relative_to(ROOT)))
    assert not {name: folders for name, folders in homes.items() if len(folders) > 1}
    assert "utils.py" not in homes


def test_files_and_functions_can_be_read_at_one_sitting():
    too_long, silent = {}, []
    for path in product_files():
        text, name = path.read_text(), str(path.relative_to(ROOT))
        tree = ast.parse(text)
        if text and not ast.get_docstring(tree):
            silent.append(name)
        if (lines := len(text.splitlines())) > LINES_OF_A_FILE:
            too_long[name] = lines
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                lines = node.end_lineno - node.lineno + 1
                if lines > LINES_OF_A_FUNCTION:
                    too_long[f"{name}: {node.name}"] = lines
    assert not too_long
    assert not silent, "files that do not say what they hold"


def test_every_room_has_a_page_at_its_door():
    rooms = {path.parent for path in product_files()}
    # What lies inside a room is explained where the room begins.
    missing = [str(room.relative_to(ROOT)) for room in sorted(rooms)
               if not any((folder / "README.md").exists() for folder in (room, room.parent)
                          if folder != ROOT)]
    assert not [room for room in missing if room != "tools"]
    # Those of the two measuring tools hold their measurements.
    assert not {str(page): lines for page in pages()[2:] if page.name == "README.md"
                and page.parent.name not in ("bench", "aot_report")
                and not 10 <= (lines := len(page.read_text().splitlines())) <= 40}


def test_documents_are_as_short_as_promised():
    assert len((ROOT / "BUILD.md").read_text().splitlines()) <= 250
    assert len((ROOT / "README.md").read_text().splitlines()) <= 80


def test_commands_and_files_that_pages_name_are_there():
    wrong = []
    for page in pages():
        text = page.read_text()
        for module in set(re.findall(r"python -m ([\w.]+)", text)) - {"pytest"}:
            if importlib.util.find_spec(module) is None:
                wrong.append(f"{page.relative_to(ROOT)}: python -m {module}")
        for link in re.findall(r"\]\(([^)#:]+)\)", text):
            if not (page.parent / link).exists():
                wrong.append(f"{page.relative_to(ROOT)}: ({link})")
        for name in set(re.findall(r"`((?:legion_jax|input_pipeline|experiments|tools|tests)"
                                   r"/[\w/.]+\.(?:py|md|sh|yaml))`", text)):
            if not (ROOT / name).exists():
                wrong.append(f"{page.relative_to(ROOT)}: {name}")
    assert not wrong
