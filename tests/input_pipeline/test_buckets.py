"""Files and folders in a bucket: whole or not there, by every function that the product has."""

import bucket_server
import pytest
from bucket_server import objects

from input_pipeline import buckets, files, paths
from input_pipeline.errors import UserError

server, bucket = bucket_server.server, bucket_server.bucket


def test_a_uri_stays_what_it_is():
    assert str(paths.absolute("gs://b/t/x")) == "gs://b/t/x"
    with pytest.raises(UserError, match=r"--output: gs://b/t: a sweep locks it, which needs a loc"):
        paths.local_only("gs://b/t", "--output", "a sweep locks it")


def test_files(bucket):
    files.write_text(bucket / "a.txt", "one")
    files.write_json(bucket / "deep" / "er" / "b.json", {"x": 1})
    with files.whole_file(bucket / "c.txt") as file:
        file.write("two")
        assert "c.txt" not in objects(bucket)
    with pytest.raises(KeyboardInterrupt), files.whole_file(bucket / "c.txt") as file:
        file.write("half")
        raise KeyboardInterrupt
    assert (bucket / "c.txt").read_text() == "two"
    assert objects(bucket) == {"a.txt": 3, "deep/er/b.json": 13, "c.txt": 3}
    assert buckets.read_all([bucket / "a.txt", bucket / "c.txt"]) == [b"one", b"two"]
    assert buckets.read_all([bucket / "a.txt"]) == [b"one"] and buckets.read_all([]) == []


def test_a_missing_folder_is_empty_and_listings_are_fresh(bucket):
    assert files.listed(bucket / "new") == [] and files.listed("/no/such/folder") == []
    files.make_folder(bucket / "new")
    files.remove_tree(bucket / "new")
    assert files.listed(bucket / "new") == []
    put_by_another_client(bucket, "new/x", b"1")
    assert [path.name for path in files.listed(bucket / "new")] == ["x"]
    put_by_another_client(bucket, "new/w", b"1")
    assert [path.name for path in files.listed(bucket / "new")] == ["w", "x"]
    files.remove_tree(bucket / "new")
    assert objects(bucket) == {}


def put_by_another_client(bucket, name, content):
    """As another process writes: the file systems of this one hear nothing of it."""
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage
    client = storage.Client(project="test", credentials=AnonymousCredentials())
    client.bucket(bucket.as_posix().removeprefix("gs://")).blob(name).upload_from_string(content)


def fill(folder):
    (folder / "inner").mkdir()
    (folder / "inner" / "part").write_bytes(b"12")
    (folder / "last.json").write_bytes(b"{}")


def test_a_folder_comes_whole_with_its_last_file_last(bucket, monkeypatch):
    sent, put = [], buckets.put
    monkeypatch.setattr(buckets, "put", lambda file, uri: (sent.append(uri.name), put(file, uri)))
    with files.new_folder(bucket / "made", last="last.json") as folder:
        fill(folder)
        assert objects(bucket) == {}
    assert sent == ["part", "last.json"]
    assert objects(bucket) == {"made/inner/part": 2, "made/last.json": 2}
    with pytest.raises(UserError, match="made: already exists"), files.new_folder(bucket / "made"):
        pass
    with files.local_copy(bucket / "made") as copy:
        assert (copy / "inner/part").read_bytes() == b"12" and copy.name == "made"
    assert not copy.exists()
    with files.local_copy(bucket / "made" / "last.json") as copy:
        assert copy.read_bytes() == b"{}" and copy.name == "last.json"
    with pytest.raises(FileNotFoundError, match="nowhere"), files.local_copy(bucket / "nowhere"):
        pass


def test_an_upload_that_fails_leaves_nothing(bucket, monkeypatch):
    put = buckets.put

    def fail(file, uri):
        if uri.name == "last.json":
            raise OSError("the bucket is full")
        put(file, uri)

    monkeypatch.setattr(buckets, "put", fail)
    with pytest.raises(OSError, match="full"), files.new_folder(
            bucket / "made", last="last.json") as folder:
        fill(folder)
    assert objects(bucket) == {}


def test_what_a_killed_upload_left_is_replaced_and_nothing_else(bucket, monkeypatch):
    files.write_text(bucket / "made" / buckets.UNFINISHED, '["inner/part", "last.json"]')
    files.write_text(bucket / "made" / "inner" / "part", "old")
    with files.new_folder(bucket / "made", last="last.json") as folder:
        fill(folder)
    assert objects(bucket) == {"made/inner/part": 2, "made/last.json": 2}
    files.write_text(bucket / "other" / buckets.UNFINISHED, '["inner/part"]')
    files.write_text(bucket / "other" / "of a person", "mine")
    with pytest.raises(UserError, match="other: already exists"), files.new_folder(
            bucket / "other"):
        pass
    assert objects(bucket / "other") == {"of a person": 4}


def test_a_name_that_leads_outside_is_not_fetched(bucket):
    put_by_another_client(bucket, "tree/../../outside", b"1")
    with pytest.raises(UserError, match="outside"), files.local_copy(bucket / "tree"):
        pass


@pytest.mark.parametrize("note", ["no JSON", "{}", "[1]", '["../mine"]', '["/mine"]', '[""]',
                                  "\xff"])
def test_a_note_that_no_upload_wrote_removes_nothing(bucket, note):
    files.write_text(bucket / "mine", "of a person")
    files.write_bytes(bucket / "made" / buckets.UNFINISHED, note.encode("latin-1"))
    with pytest.raises(UserError, match=r"made/\.uploading: not the list of names"):
        with files.new_folder(bucket / "made"):
            pass
    assert objects(bucket).keys() == {"mine", f"made/{buckets.UNFINISHED}"}
