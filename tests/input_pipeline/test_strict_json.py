"""input_pipeline/strict_json.py: what is taken as JSON, and what is said of the rest."""

import time

import pytest

from input_pipeline import strict_json
from input_pipeline.errors import UserError


class RefusedError(UserError):
    """A class of its own."""


@pytest.mark.parametrize("content, kind, value", [
    (b'{"a": [1, 2.5, null]}', dict, {"a": [1, 2.5, None]}),
    ('"ä"'.encode("utf-16"), str, "ä"), (b"\xef\xbb\xbf[1]", list, [1]), ("[]", list, []),
    (b'"\\ud83d\\ude00"', str, "\U0001f600"), (b"7", object, 7)])
def test_values(content, kind, value):
    assert strict_json.parse(content, "x.json", kind) == value


@pytest.mark.parametrize("content, words", [
    (b"{", r"not valid JSON \(.*line 1"), (b"\xff", "not valid JSON"), (b"", "not valid JSON"),
    (b"[" * 200_000, "not valid JSON"), (b"[1]", "expected a JSON object, found list"),
    (b'{"a": 1, "b": 2, "a": 1}', "a is there twice"), (b'{"a": NaN}', "NaN is no number"),
    (b'{"a": -Infinity}', "-Infinity is no number"), (b'{"a": "\\ud800"}', "not valid JSON"),
    (b"1" * 5000, "not valid JSON"), (b'{"a": {"b": 1, "b": 2}}', "b is there twice")])
def test_what_is_refused(content, words):
    with pytest.raises(RefusedError, match=f"^x.json: {words}"):
        strict_json.parse(content, "x.json", error=RefusedError)


def test_a_name_twice_among_very_many_is_found_soon():
    content = "{" + "".join(f'"{n}": 0, ' for n in range(200_000)) + '"7": 1}'
    began = time.monotonic()
    with pytest.raises(RefusedError, match="7 is there twice"):
        strict_json.parse(content, "x", error=RefusedError)
    assert time.monotonic() - began < 10


def test_numbers_that_are_not_finite_where_they_are_taken():
    assert strict_json.parse('{"a": NaN}', "x", not_finite=lambda _: None) == {"a": None}


def test_files(tmp_path):
    path = tmp_path / "x.json"
    with pytest.raises(RefusedError, match=f"{path}: not found"):
        strict_json.read(path, error=RefusedError)
    path.write_text('{"a": 1}')
    assert strict_json.read(str(path), largest=8) == {"a": 1}
    with pytest.raises(RefusedError, match=f"{path}: 8 bytes; such a file has at most 7"):
        strict_json.read(path, error=RefusedError, largest=7)
    with pytest.raises(RefusedError, match=f"{tmp_path}: not a plain file"):
        strict_json.read(tmp_path, error=RefusedError)
