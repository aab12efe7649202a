"""tools/predict.py from its command line on, with a random model in place of the stub."""

import time

import commands
import numpy as np
import predict_jobs
import pytest
import small_checkpoint
from PIL import Image
from predict_jobs import arguments, everything
from stub_predict import lines

from input_pipeline.photos import regions

folder, tokenizer, photos = (
    small_checkpoint.folder, small_checkpoint.tokenizer, small_checkpoint.photos)
many = predict_jobs.many


def cli(folder, source, output, *extra):
    """The real command."""
    return ["tools.predict",
            *arguments(folder, source, output, "--write=json,mask,overlay", "--batch_size=2",
                       "--explain=always", *extra)]


def test_the_real_command(folder, photos, tmp_path):
    source = tmp_path / "photos"
    (source / "inner").mkdir(parents=True)
    Image.fromarray(photos[0]).save(source / "a.png")
    Image.fromarray(photos[1]).save(source / "a.jpg")
    Image.fromarray(photos[2]).save(source / "inner" / "b.png")
    whole = (source / "a.jpg").read_bytes()
    (source / "cut.jpg").write_bytes(whole[:len(whole) // 2])
    (source / "notes.txt").write_text("no image")
    done = commands.run_tool(*cli(folder, source, tmp_path / "out"))
    assert done.returncode == 2, done.stderr
    assert "cut.jpg" in done.stderr and "notes.txt" in done.stderr
    assert "Traceback" not in done.stderr
    assert "3 photos, 2 left out; 5 photos in" in done.stdout
    names = {f"{n}{s}" for n in ("a_png", "a_jpg", "inner/b")
             for s in (".json", "_mask.png", "_overlay.png")}
    assert set(everything(tmp_path / "out")) == names | {"results.jsonl", "failures.jsonl"}
    result = lines(tmp_path / "out" / "results.jsonl")[1]
    assert result["name"] == "a_png" and result["size"] == [40, 60]
    assert result["verdict"] in ("tampered", "real")
    mask = np.asarray(Image.open(tmp_path / "out" / "a_png_mask.png"))
    union = np.zeros((40, 60), bool)
    for artifact in result["artifacts"]:
        start, end = artifact["span"]
        assert result["explanation"][start:end] == artifact["phrase"]
        if artifact["rle"]:
            union |= regions.rle_to_mask(artifact["rle"]).astype(bool)
    np.testing.assert_array_equal(mask > 0, union)


@pytest.mark.slow
def test_the_real_command_killed_three_times(folder, many, tmp_path):
    def count(output):
        return sum(len(lines(part)) for part in (output / "parts").glob("part-*"))

    wanted, output = tmp_path / "unbroken", tmp_path / "out"
    done = commands.run_tool(*cli(folder, many, wanted))
    assert done.returncode == 2, done.stderr
    for _ in range(3):
        process = commands.start(*cli(folder, many, output, "--flush_seconds=0.05"))
        before = count(output)
        while count(output) < before + 20:
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
        process.wait()
    assert 60 <= count(output) < 200
    done = commands.run_tool(*cli(folder, many, output))
    assert done.returncode == 2, done.stderr
    assert lines(output / "failures.jsonl") == lines(wanted / "failures.jsonl")
    for one, other in zip(lines(output / "results.jsonl"), lines(wanted / "results.jsonl"),
                          strict=True):
        # Other neighbours in a batch may round a last digit otherwise.
        for key in ("probability", "fake_probability"):
            assert one.pop(key) == pytest.approx(other.pop(key), abs=2e-5)
        for line in (one, other):
            for artifact in line["artifacts"]:
                artifact.pop("score"), artifact.pop("rle")
        assert one == other
    assert {*everything(output)} == {*everything(wanted)}
