"""A headless Chromium without network, driven by its own protocol (Chrome DevTools)."""

from __future__ import annotations

import base64
import itertools
import json
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SECONDS = 60


class Page:
    """One tab. ``errors``: what its console and its requests complained about."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._numbers = socket, itertools.count(1)
        self._session: str | None = None
        self.errors: list[str] = []
        self.asked: list[str] = []
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        found = self._ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = found["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._ask(f"{domain}.enable")

    def open(self, file: Path, width: int, height: int = 900) -> None:
        """Load a file as a screen of this width shows it, and wait until it is drawn."""
        self._ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self._ask("Page.navigate", url=file.absolute().as_uri())
        self.wait("document.body && document.body.dataset.drawn === 'yes'")

    def wait(self, condition: str) -> None:
        """Until a JavaScript condition holds; a page that reports an error is not waited for."""
        until = time.monotonic() + SECONDS
        while not self.run(condition):
            assert not self.errors and time.monotonic() < until, (condition, self.errors)
            time.sleep(0.1)

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise's when it is kept."""
        found = self._ask(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def screenshot(self, out: Path) -> None:
        """The whole page as a PNG."""
        found = self._ask("Page.captureScreenshot", captureBeyondViewport=True)
        out.write_bytes(base64.b64decode(found["data"]))

    def _ask(self, method: str, **parameters: Any) -> Any:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._socket.send(json.dumps(message))
        while True:
            heard = json.loads(self._socket.recv(timeout=SECONDS))
            if heard.get("id") == number:
                assert "error" not in heard, (method, heard)
                return heard["result"]
            self._hear(heard)

    def _hear(self, event: dict[str, Any]) -> None:
        name, told = event.get("method"), event.get("params", {})
        if name == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(told["exceptionDetails"])[:500])
        elif name == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
            self.errors.append(json.dumps(told["args"])[:500])
        elif name == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.errors.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")
        elif name == "Network.loadingFailed" and not told.get("canceled"):
            self.errors.append(f"not loaded: {told['errorText']}")
        elif name == "Network.requestWillBeSent":
            self.asked.append(told["request"]["url"][:200])


@contextmanager
def browser() -> Iterator[Page]:
    """A fresh Chromium that finds no host, and its only tab."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu"]
        command += ["--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking"]
        command += ["--host-resolver-rules=MAP * ~NOTFOUND", "--remote-debugging-port=0"]
        command += [f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        try:
            address = None
            while address is None:
                line = process.stderr.readline()
                assert line, "Chromium ended before it could be asked"
                address = re.search(r"ws://\S+", line)
            with connect(address[0], max_size=None, proxy=None) as socket:
                yield Page(socket)
        finally:
            process.terminate()
            process.wait(SECONDS)
