"""Rows on disk while an evaluation goes on."""

import threading

import pytest
from made_rows import random_rows

from input_pipeline.errors import UserError
from legion_jax.evaluate import chunks


def test_chunks_come_back_in_order_and_once(tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "SIZE", 4)
    monkeypatch.setattr(chunks, "POLL_SECONDS", 0.01)
    rows = [row | {"explanation": "a\u2028b\x85c\nd"} for row in random_rows(0, 11)]
    stores = [chunks.Chunks(tmp_path, 11, host=host, hosts=2) for host in range(2)]
    for store in stores:
        store.begin({"step": 3})
    shares = [store.missing() for store in stores]
    assert shares == [[0, 1, 2, 3, 8, 9, 10], [4, 5, 6, 7]]
    for number in shares[0][::-1]:
        stores[0].add(number, rows[number])
    waiting = threading.Thread(target=stores[0].wait)
    waiting.start()
    for number in (5, 4, 7):
        stores[1].add(number, rows[number])
    waiting.join(0.1)
    assert waiting.is_alive()  # the other host lacks a row
    # It stops there, and three hosts go on; what was finished is not done again.
    again = [chunks.Chunks(tmp_path, 11, host=host, hosts=3) for host in range(3)]
    for store in again:
        store.begin({"step": 3})
    assert [store.missing() for store in again] == [[], [4, 5, 6, 7], []]
    for number in range(4, 8):
        again[1].add(number, rows[number])
    waiting.join(10)
    assert not waiting.is_alive() and list(again[2].rows()) == rows


def test_rows_of_other_settings_are_not_mixed(tmp_path):
    store = chunks.Chunks(tmp_path, 3)
    store.begin({"split": "test", "level": 0.0})
    chunks.Chunks(tmp_path, 3).begin({"split": "test", "level": 0})
    with pytest.raises(UserError, match=r"made with split 'test' \(now 'train'\)"):
        store.begin({"split": "train", "level": 0})
    (tmp_path / "settings.json").unlink()
    (tmp_path / "rows.jsonl").write_text("{\n")
    with pytest.raises(UserError, match="no settings.json to tell"):
        store.begin({"split": "test", "level": 0})
    with pytest.raises(UserError, match="rows.jsonl: line 1: not valid JSON"):
        list(chunks.read(tmp_path / chunks.ROWS))


def test_a_file_of_fewer_rows_than_records_is_not_the_whole(tmp_path):
    chunks.Chunks(tmp_path, 3).begin({"split": "test"})
    (tmp_path / "rows.jsonl").write_text("{}\n{}\n")
    with pytest.raises(UserError, match=r"rows.jsonl: 2 rows of 3 records; choose another output"):
        chunks.Chunks(tmp_path, 3).begin({"split": "test"})


@pytest.mark.parametrize("damaged", ["{", "[]", "\xff"])
def test_damaged_settings_are_named(tmp_path, damaged):
    (tmp_path / "settings.json").write_bytes(damaged.encode("latin-1"))
    with pytest.raises(UserError, match="settings.json"):
        chunks.Chunks(tmp_path, 3).begin({"split": "test"})
