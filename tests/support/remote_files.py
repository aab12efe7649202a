"""gs:// in memory, by the file system that a real bucket would come through."""

import fsspec
import pytest
from etils.epath import backend
from fsspec.implementations.memory import MemoryFileSystem


class Bucket(MemoryFileSystem):
    """Everything below gs://; cannot append, as no object store can."""

    store, pseudo_dirs, protocol = {}, [""], "gs"

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).removeprefix("gs://"))

    def _open(self, path, mode="rb", **options):
        assert "a" not in mode and "+" not in mode
        return super()._open(path, mode, **options)


@pytest.fixture
def bucket(monkeypatch):
    """An empty gs://bucket."""
    Bucket.store.clear()
    Bucket.pseudo_dirs[:] = [""]
    files = Bucket()
    monkeypatch.setattr(fsspec, "filesystem", lambda name, **_: files)
    monkeypatch.setenv("EPATH_USE_TF", "false")
    backend.fsspec_backend._get_filesystem.cache_clear()
    yield files
    backend.fsspec_backend._get_filesystem.cache_clear()
