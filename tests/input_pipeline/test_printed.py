"""What commands print of names from outside."""

import io
import re

import commands
import pytest
from rich.table import Table

from input_pipeline.printed import PlainStream, shown
from legion_jax.display.console import DataConsole

EVIL = "\x1b]0;title\x07\x1b[31m\x9b2J\u202egpj.exe\u2066\u200f\x7f\r\ud800[/red]"
PLAIN = (r"\x1b]0;title\x07\x1b[31m\x9b2J\u202egpj.exe\u2066\u200f\x7f\r\ud800[/red]")


def test_what_a_terminal_acts_on_is_written_out():
    assert shown(EVIL) == PLAIN
    assert shown("ä 写真 \U0001f600\ta\nb") == "ä 写真 \U0001f600\ta\nb"


def test_streams():
    stream = PlainStream(io.StringIO())
    print(EVIL, file=stream)
    assert stream.write("\r 3 of 4\n") == 9
    stream.writelines(["a\x07", "b"])
    assert stream.getvalue() == f"{PLAIN}\n\r 3 of 4\na\\x07b"


@pytest.mark.parametrize("terminal", [False, True])
def test_lines_and_cells(terminal):
    console = DataConsole(file=PlainStream(io.StringIO()), force_terminal=terminal, width=200)
    table = Table(title=EVIL)
    table.add_column(EVIL)
    table.add_row(EVIL)
    console.print(table)
    console.print(EVIL)
    printed = console.file.getvalue()
    assert re.sub(r"\x1b\[[0-9;]*m|\n", "", printed).count("[/red]") == 4
    for control in ("\x1b]", "\x1b[31m\x9b", "\x07", "\u202e", "\x9b", "\ud800"):
        assert control not in printed
    assert ("\x1b[" in printed) == terminal  # its own


@pytest.mark.parametrize("module, arguments", [
    ("tools.convert_from_torch", ["--checkpoint", EVIL[:-7], "--output", "x"]),
    ("tools.prepare_data", ["--dataset=jsonl/records", "--source", EVIL[:-7], "--data_dir=x"]),
    ("tools.inspect_data", ["--output=x", "--data_dir", EVIL[:-7]]),
    ("legion_jax.train", ["--config=tiny", "--workdir=x", EVIL[:-7]]),
    ("legion_jax.predict", ["--batch_size", EVIL[:-7]])])
def test_commands(module, arguments, tmp_path):
    done = commands.run_tool(module, *(a.replace("\ud800", "") for a in arguments), cwd=tmp_path)
    assert done.returncode and r"\x1b]0;title" in done.stderr
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & {*done.stdout, *done.stderr}
