"""What all tests share: eight fake devices and a model that compiles in seconds."""

import gc
import os
import pathlib
import tempfile
from collections.abc import Iterator

import pytest
import quick_xla

# Read once, when jax is first imported.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = " ".join(
    [*os.environ.get("XLA_FLAGS", "").split(), quick_xla.flags(devices=8)])

# XLA's pool has as many threads as there are cores, and every device holds one while it waits for
# the others in a collective: on few cores all could wait for a device that has none.
os.environ.setdefault("NPROC", "32")

# Compiling is most of the time of these tests, and few of them run a program for long. All
# processes, those that tests start included, share what they compile, and nothing is optimised but
# where speed is tested.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    COMPILED = tempfile.TemporaryDirectory(prefix="compiled-")  # until this process ends
    os.environ["JAX_COMPILATION_CACHE_DIR"] = COMPILED.name
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

from bucket_server import OFFLINE

os.environ.update(OFFLINE)

from random_models import randomized
from repository import SHARED, SLIM_GOLDEN

from legion_jax.config import (
    ClipConfig,
    LanguageConfig,
    LegionConfig,
    LoraConfig,
    SamConfig,
    VerdictConfig,
)
from legion_jax.models import param_tree
from legion_jax.models.legion import Legion
from tools.verify_case import slim

# Tracing makes very many objects and little garbage.
gc.set_threshold(100_000, 50, 1000)


@pytest.fixture(scope="session")
def slim_golden() -> Iterator[pathlib.Path]:
    """Folder of the reference vectors that every clone has, which lack the largest arrays."""
    with slim.unpacked(SLIM_GOLDEN) as folder:
        yield folder


@pytest.fixture(scope="session")
def golden(slim_golden) -> pathlib.Path:
    """Folder of one case of reference vectors: the full one where it is at hand, else the slim one.

    The full case is where LEGION_GOLDEN says, by default ../shared/golden/A.
    """
    folder = pathlib.Path(os.environ.get("LEGION_GOLDEN", SHARED / "golden" / "A"))
    return folder if folder.is_dir() else slim_golden


@pytest.fixture(scope="session")
def full_golden(golden) -> pathlib.Path:
    """The full case; tests that need its largest arrays are skipped without it."""
    if (golden / slim.MANIFEST).exists():
        pytest.skip("the full golden case is not here: set LEGION_GOLDEN or place it at "
                    "../shared/golden/A")
    return golden


@pytest.fixture(scope="session")
def torch_files() -> None:
    """Tests that read or write PyTorch's own files are skipped where it is not installed."""
    pytest.importorskip("torch")


@pytest.fixture(scope="session")
def config() -> LegionConfig:
    """Every part of the architecture; SAM's grid of 8 does not divide into windows of 3."""
    return LegionConfig(
        vision=ClipConfig(image_size=28, patch=14, width=32, mlp=64, heads=4, layers=3),
        language=LanguageConfig(vocab=97, width=48, mlp=96, heads=4, layers=3, max_positions=64),
        lora=LoraConfig(rank=2, alpha=4.0, dropout=0.0),
        sam=SamConfig(image_size=64, patch=8, width=32, mlp=64, heads=4, layers=4, window=3,
                      global_blocks=(1, 3), prompt_width=32, mask_channels=4, decoder_heads=4,
                      decoder_mlp=64, iou_hidden=16),
        verdict=VerdictConfig(classes=("tampered", "real"), hidden=24), dtype="float32",
        remat="none")


@pytest.fixture(scope="session")
def sized(config, tmp_path_factory) -> LegionConfig:
    """The same with the vocabulary of the tokenizer `folders` has, and without LoRA."""
    pytest.importorskip("torch")  # which most tests do without
    import inspected
    return inspected.sized(config, tmp_path_factory.mktemp("probe") / "tokenizer")


@pytest.fixture(scope="session")
def folders(sized, tmp_path_factory) -> tuple[pathlib.Path, pathlib.Path]:
    """(LEGION, CLIP) in the published layout, every value random; tests must not change them."""
    import published
    return published.make(tmp_path_factory.mktemp("published"), sized)


@pytest.fixture(scope="session")
def model(config) -> Legion:
    """The model with random values in every parameter; tests must not change it."""
    return randomized(param_tree.abstract_model(config))


class Module(pytest.Module):
    """A file of tests, skipped as a whole where what it compares with is not installed."""

    def collect(self):
        try:
            return super().collect()
        except self.CollectError as error:
            lacking = getattr(error.__cause__, "name", None)
            if lacking in ("torch", "transformers", "peft"):
                pytest.skip(f"needs {lacking}, which is not installed", allow_module_level=True)
            raise


def pytest_pycollect_makemodule(module_path, parent):
    return Module.from_parent(parent, path=module_path)


LONGEST = ("test_verify_case.py", "test_train.py", "test_commands_in_buckets.py", "test_restart.py",
           "test_whole_run.py")


def pytest_collection_modifyitems(items):
    """The files that take longest come first, so that no process is left alone with one of them."""
    items.sort(key=lambda item: item.path.name not in LONGEST)
