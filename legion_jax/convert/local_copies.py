"""Sources of a conversion that lie in a bucket, as files of this machine."""

import contextlib
import dataclasses
import pathlib

from etils import epath

from input_pipeline import files, paths
from legion_jax.convert.plan import Options


class LocalCopies(contextlib.ExitStack):
    """Local copies of what URIs name, each made once and removed with the context.

    PyTorch's files are read at offsets, in an order of their own. A local path stands for itself.
    """

    def __init__(self):
        """No copy is made yet."""
        super().__init__()
        self._copies: dict[str, pathlib.Path] = {}

    def of(self, path: epath.PathLike | None) -> str | None:
        """Where a file or folder lies on this machine. Raises FileNotFoundError of a URI."""
        if path is None or not paths.is_uri(path):
            return None if path is None else str(paths.parse(path))
        if str(path) not in self._copies:
            self._copies[str(path)] = self.enter_context(files.local_copy(path))
        return str(self._copies[str(path)])

    def of_options(self, options: Options) -> Options:
        """The options of a conversion with local copies of the files they name."""
        return dataclasses.replace(options, tokenizer=self.of(options.tokenizer),
                                   config=self.of(options.config))

    def named(self, path: pathlib.Path) -> str:
        """What to record of a file or folder: the URI it was copied from, or its absolute path."""
        for uri, copy in self._copies.items():
            if path.is_relative_to(copy):
                return f"{uri}/{path.relative_to(copy)}" if path != copy else uri
        return str(path.resolve())

    def renamed(self, sentence: str) -> str:
        """A sentence about copies, about what they were copied from."""
        for uri, copy in self._copies.items():
            sentence = sentence.replace(str(copy), uri)
        return sentence
