"""Small git checkouts with the launch scripts in them."""

import pathlib
import shutil
import subprocess

from repository import ROOT


def git(folder: pathlib.Path, *words: str) -> str:
    """What git prints."""
    return subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True,
                          text=True).stdout


def launch_checkout(folder: pathlib.Path, **files: str) -> pathlib.Path:
    """A checkout of one commit that holds tools/launch and `files`, name=text of a .py file."""
    shutil.copytree(ROOT / "tools" / "launch", folder / "tools" / "launch")
    (folder / ".gitignore").write_text("data/\n")
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "-c", "user.name=n", "-c", "user.email=n@n", "commit", "--quiet", "-m", "first")
    return folder
