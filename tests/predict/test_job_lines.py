"""legion_jax/predict/job_lines.py: lines in parts, and what they are merged to."""

import json
import threading
import time

import bucket_server
import numpy as np
import pytest
from etils import epath

from input_pipeline.errors import UserError
from legion_jax.predict import job_lines
from legion_jax.predict.job_lines import PART_LINES, Parts, Share

NAMES = [f"p{k}" for k in range(7)]
server, bucket = bucket_server.server, bucket_server.bucket


def result(name, **more):
    return {"image": f"/x/{name} \"q\" \u00e9.jpg", "name": name, "size": [1, 2]} | more


def failure(name, why="broken"):
    return {"image": f"/x/{name}", "name": name, "error": why}


ALL = Share()


def write(output, written, *, share=ALL):
    """One part with these lines."""
    with Parts(output, share, flush_seconds=100) as parts:
        for line in written:
            parts.add(line)


@pytest.fixture(params=["local", "bucket"])
def output(request, tmp_path):
    if request.param == "local":
        return epath.Path(tmp_path)
    return request.getfixturevalue("bucket") / "out"


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def files(output):
    return sorted(str(p)[len(str(output)) + 1:] for folder in (output, output / "parts")
                  if folder.exists() for p in folder.iterdir() if not p.is_dir())


def test_parts_are_merged_in_the_order_of_the_source(output):
    write(output, [result("p3"), failure("p1"), result("p0")])
    write(output, [result("p6"), result("p2"), result("p5"), failure("p4")])
    assert len(job_lines.part_files(output)) == 2
    assert job_lines.merge(output, NAMES, Share()) == (5, 2)
    assert lines(output / "results.jsonl") == [result(f"p{k}") for k in (0, 2, 3, 5, 6)]
    assert lines(output / "failures.jsonl") == [failure("p1"), failure("p4")]
    assert files(output) == ["failures.jsonl", "results.jsonl"]
    assert job_lines.merge(output, NAMES, Share()) == (5, 2)
    assert list(job_lines.Recorded(output, NAMES).state) == [2, 1, 2, 2, 1, 2, 2]


def test_nothing_is_merged_while_a_photo_has_no_line(output):
    write(output, [result(name) for name in NAMES[1:]])
    with pytest.raises(UserError, match="1 of 7 photos have no line"):
        job_lines.merge(output, NAMES, Share())
    assert len(files(output)) == 1


def test_a_result_replaces_a_failure_and_stays(output):
    write(output, [failure(name) for name in NAMES])
    job_lines.merge(output, NAMES, Share())
    assert lines(output / "results.jsonl") == []
    write(output, [result("p1"), failure("p2", "still broken")])
    write(output, [failure("p1")])
    assert job_lines.merge(output, NAMES, Share()) == (1, 6)
    assert lines(output / "results.jsonl") == [result("p1")]
    assert lines(output / "failures.jsonl")[1] == failure("p2", "still broken")
    write(output, [result(name) for name in NAMES])
    job_lines.merge(output, NAMES, Share())
    assert files(output) == ["results.jsonl"]


def test_shares_are_merged_alone_and_taken_over_by_another_division(output):
    for share in (Share(0, 2), Share(1, 2)):
        write(output, [result(NAMES[k]) for k in share.of(7)], share=share)
    job_lines.merge(output, NAMES, Share(0, 2))
    assert lines(output / "results-0-of-2.jsonl") == [result(f"p{k}") for k in (0, 2, 4, 6)]
    assert len(job_lines.part_files(output)) == 1  # the other host's
    job_lines.merge(output, NAMES, Share(1, 2))
    assert files(output) == ["results-0-of-2.jsonl", "results-1-of-2.jsonl"]
    for k in range(3):
        job_lines.merge(output, NAMES, Share(k, 3))
        assert ("results-0-of-2.jsonl" in files(output)) == (k < 2)
    assert files(output) == [f"results-{k}-of-3.jsonl" for k in range(3)]
    job_lines.merge(output, NAMES, Share())
    assert files(output) == ["results.jsonl"]
    assert lines(output / "results.jsonl") == [result(name) for name in NAMES]


def test_what_another_division_knows_better_stays(output):
    for share in (Share(0, 2), Share(1, 2)):
        write(output, [failure(NAMES[k]) for k in share.of(7)], share=share)
        job_lines.merge(output, NAMES, share)
    write(output, [result(NAMES[k]) for k in Share(1, 3).of(7)], share=Share(1, 3))
    job_lines.merge(output, NAMES, Share(1, 3))
    job_lines.merge(output, NAMES, Share(0, 2))  # knows p4 as well now, and not p1
    assert "results-1-of-3.jsonl" in files(output)
    assert [line["name"] for line in lines(output / "results-0-of-2.jsonl")] == ["p4"]
    assert job_lines.merge(output, NAMES, Share()) == (2, 5)
    assert files(output) == ["failures.jsonl", "results.jsonl"]


def test_parts_of_a_killed_host_are_left_to_it(output):
    write(output, [result(NAMES[0])], share=Share(0, 2))
    write(output, [result(NAMES[k]) for k in Share(1, 2).of(7)], share=Share(1, 2))
    job_lines.merge(output, NAMES, Share(1, 2))
    assert list(job_lines.Recorded(output, NAMES).state) == [2, 2, 0, 2, 0, 2, 0]


def test_unfinished_lines_and_foreign_names_are_no_lines(tmp_path):
    output = epath.Path(tmp_path)
    write(output, [result("p0"), result("other")])
    part, = job_lines.part_files(output)
    whole = json.dumps(result("p1"))
    cut = whole.replace("p1", "p2")
    part.write_text(f"{part.read_text()}garbage\n\n[1]\n{whole}\n{cut}")
    (output / "parts/part-0-of-1-abc-000001.jsonl.writing").write_text(whole + "\n")
    assert list(job_lines.Recorded(output, NAMES).state) == [2, 2, 0, 0, 0, 0, 0]


def test_many_parts_need_few_open_files(tmp_path, monkeypatch):
    monkeypatch.setattr(job_lines, "OPEN_FILES", 2)
    output, names = epath.Path(tmp_path), [f"n{k}" for k in range(60)]
    order = np.random.default_rng(0).permutation(60)
    for some in order.reshape(20, 3):
        write(output, [result(names[k], answer="x" * int(k)) for k in some])
    assert job_lines.merge(output, names, Share()) == (60, 0)
    assert lines(output / "results.jsonl") == [
        result(name, answer="x" * k) for k, name in enumerate(names)]


def test_parts_are_written_by_time_by_number_and_at_an_error(tmp_path):
    output = epath.Path(tmp_path)

    def written():
        return sum(len(lines(part)) for part in job_lines.part_files(output))

    with pytest.raises(KeyError), Parts(output, Share(), flush_seconds=0.1) as parts:
        parts.add(result("p0"))
        deadline = time.monotonic() + 10
        while not written():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        parts.add(result("p1"))
        raise KeyError
    assert written() == 2
    with Parts(output, Share(), flush_seconds=1000) as parts:
        for k in range(PART_LINES):
            parts.add(result(f"q{k}"))
        deadline = time.monotonic() + 10
        while written() < PART_LINES:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_unfinished_files_of_the_same_share_are_removed(tmp_path):
    output = epath.Path(tmp_path)
    (output / "parts").mkdir()
    for name in ("unfinished-0-of-2-abc-mask", "unfinished-1-of-2-abc-mask"):
        (output / "parts" / name).write_text("half")
    with Parts(output, Share(0, 2), flush_seconds=9) as parts:
        assert parts.temporary.name.startswith("unfinished-0-of-2-")
    assert files(output) == ["parts/unfinished-1-of-2-abc-mask"]


def test_a_full_disk_stops_whoever_adds(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("input_pipeline.files.write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        with Parts(epath.Path(tmp_path), Share(), flush_seconds=0.01) as parts:
            for _ in range(500):
                parts.add(result("p0"))
                time.sleep(0.01)
            raise AssertionError("not told")
    assert not [t for t in threading.enumerate() if t.name == "parts"]
