"""A Chromium without a window, driven by the DevTools protocol over a pipe; no driver is needed."""

import base64
import json
import os
import pathlib
import select
import shutil
import subprocess
import sys
import time

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# The protocol speaks on descriptors 3 and 4; ours are moved there, by way of others.
START = """import os, sys
ends = [os.dup(os.dup(os.dup(int(number)))) for number in sys.argv[1:3]]
for number, end in zip((3, 4), ends): os.dup2(end, number)
os.execv(sys.argv[3], sys.argv[3:])"""
KEYS = {"ArrowLeft": 37, "ArrowRight": 39, "Escape": 27, "Enter": 13, "Tab": 9}


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """A browser for the tests of a module, which are skipped where there is none."""
    path = find()
    if path is None:
        pytest.skip("no Chromium found: install chromium, or name one by CHROMIUM")
    with Browser(path, tmp_path_factory.mktemp("profile")) as page:
        yield page


def find() -> str | None:
    """The path of a browser: of CHROMIUM if that is set, else the first on the path."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page. What it logs as an error or asks of a network is kept in `errors`, `requests`."""

    def __init__(self, path: str, profile: pathlib.Path):
        """`profile`: an empty folder."""
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-c", START, str(to_browser), str(from_browser), path, "--headless",
             "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
             "--remote-debugging-pipe", "--hide-scrollbars",
             f"--user-data-dir={profile}", "--no-first-run", "--disable-background-networking"],
            pass_fds=(to_browser, from_browser), stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL)
        os.close(to_browser)
        os.close(from_browser)
        self._number, self._buffer, self._session = 0, b"", None
        self.errors, self.requests, self.loaded = [], [], False
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target,
                                  flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        os.close(self._out)
        os.close(self._in)
        self._process.terminate()
        self._process.wait(20)

    def call(self, method: str, **params) -> dict:
        """The result of a command of the protocol; RuntimeError with what it answers instead."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read(60)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def open(self, address: str) -> None:
        """Loads a page and waits until it is there."""
        self.loaded = False
        self.call("Page.navigate", url=address)
        self.wait(lambda: self.loaded)

    def run(self, script: str):
        """The value of a JavaScript expression, as JSON."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True,
                           awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{script}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def wait(self, condition, seconds: float = 20) -> None:
        """Until condition() or, given a text, that expression is true; TimeoutError after that."""
        stop = time.monotonic() + seconds
        while not (self.run(f"Boolean({condition})") if isinstance(condition, str)
                   else condition()):
            if time.monotonic() > stop:
                raise TimeoutError(f"never true: {condition}")
            if b"\0" in self._buffer or select.select([self._in], [], [], 0.05)[0]:
                self._read(1)

    def view(self, width: int, height: int = 900, *, dark: bool = False,
             phone: bool = False) -> None:
        """Sets the size of the page in px and whether the system asks for dark colours."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=phone)
        self.call("Emulation.setEmulatedMedia", features=[
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def click(self, selector: str) -> None:
        """Presses the mouse on the middle of the first element that fits, scrolled into sight."""
        place = self.run(f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
                         "e.scrollIntoView({block: 'center', behavior: 'instant'});"
                         "const b = e.getBoundingClientRect();"
                         "return [b.x + b.width / 2, b.y + b.height / 2]; })()")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1],
                      button="left", clickCount=1)

    def press(self, key: str) -> None:
        """Presses and releases one of KEYS."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key,
                      windowsVirtualKeyCode=KEYS[key])

    def type(self, text: str) -> None:
        """Writes into what has the focus."""
        self.call("Input.insertText", text=text)

    def screenshot(self, path: pathlib.Path, *, whole: bool = False) -> None:
        """Writes what is in sight, or the whole page, as a PNG."""
        options = {}
        if whole:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            options = {"captureBeyondViewport": True, "clip": size | {"scale": 1}}
        data = self.call("Page.captureScreenshot", format="png", **options)["data"]
        pathlib.Path(path).write_bytes(base64.b64decode(data))

    def _read(self, seconds: float) -> dict:
        """The next message; notes what events tell."""
        stop = time.monotonic() + seconds
        while b"\0" not in self._buffer:
            if not select.select([self._in], [], [], max(0, stop - time.monotonic()))[0]:
                raise TimeoutError("the browser does not answer")
            chunk = os.read(self._in, 1 << 20)
            if not chunk:
                raise RuntimeError(f"the browser ended, exit code {self._process.wait(10)}")
            self._buffer += chunk
        message, self._buffer = self._buffer.split(b"\0", 1)
        event = json.loads(message)
        self._note(event.get("method"), event.get("params", {}))
        return event

    def _note(self, method: str | None, params: dict) -> None:
        if method == "Page.loadEventFired":
            self.loaded = True
        elif method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.errors.append(str([part.get("value") for part in params["args"]]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
