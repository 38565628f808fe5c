"""Headless Chromium, driven over its DevTools protocol by a pipe: no package and no port is needed.

https://chromedevtools.github.io/devtools-protocol has the commands and events. Messages are JSON, each ended by a zero
byte; Chromium reads them from file descriptor 3 and answers on 4.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

SECONDS = 30.0  # to wait for an answer at most
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-extensions", "--hide-scrollbars", "--mute-audio"),
)


def chromium() -> str | None:
    """The path of a Chromium or Chrome, or None."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


class Browser:
    """One page of one browser; what it logs and asks for is kept from the first :meth:`open` on.

    Attributes:
        messages: of the console, warnings and errors and what scripts write, and of uncaught exceptions.
        requests: addresses that the page asked for, also in vain.
    """

    def __init__(self, profile: Path) -> None:
        program = chromium()
        assert program is not None
        # the process group is its own: Chromium starts helpers, which must end with it
        command = ["sh", "-c", 'exec "$@" 3<&0 4>&1 </dev/null >/dev/null', "sh", program, *FLAGS]
        self._process = subprocess.Popen(
            [*command, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._buffer, self._number, self._session = b"", 0, ""
        self._is_loaded = False
        self.messages: list[str] = []
        self.requests: list[str] = []

    def __enter__(self) -> Self:
        try:
            targets = self.call("Target.getTargets")["targetInfos"]
            target = next(one["targetId"] for one in targets if one["type"] == "page")
            self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.call(f"{domain}.enable")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill the browser and its helpers, whatever they do."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()
        self._process.wait(SECONDS)

    def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        """Run a command of the protocol; return its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": arguments}
        if self._session:
            message["sessionId"] = self._session
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\0")
        self._process.stdin.flush()
        deadline = time.monotonic() + SECONDS
        while (answer := self._next(deadline)).get("id") != self._number:
            self._keep(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        found: dict[str, Any] = answer["result"]
        return found

    def open(self, address: str) -> None:
        """Load a page and wait until it is drawn; what the one before logged is forgotten."""
        self._load("about:blank")  # another part of the same page would not be loaded anew
        self.messages.clear()
        self.requests.clear()
        self._load(address)
        self.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def _load(self, address: str) -> None:
        self._is_loaded = False
        self.call("Page.navigate", url=address)
        deadline = time.monotonic() + SECONDS
        while not self._is_loaded:
            self._keep(self._next(deadline))

    def evaluate(self, script: str) -> Any:
        """Return the value of a JavaScript expression, waiting for a promise."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def press(self, key: str) -> None:
        """Press and release a key that the focused element gets: Tab, Enter or a space."""
        code, number = {"Tab": ("Tab", 9), "Enter": ("Enter", 13), " ": ("Space", 32)}[key]
        text = {"Enter": "\r", " ": " "}.get(key)
        event: dict[str, Any] = {"key": key, "code": code, "windowsVirtualKeyCode": number}
        down = {"type": "keyDown", "text": text} if text else {"type": "rawKeyDown"}
        self.call("Input.dispatchKeyEvent", **event, **down)
        self.call("Input.dispatchKeyEvent", **event, type="keyUp")

    def click(self, selector: str) -> None:
        """Scroll to an element and press the left button of the mouse in its middle."""
        script = (
            "(() => { const e = document.querySelector(%s); e.scrollIntoView({block: 'center', inline: 'center'});"
            " const box = e.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        x, y = self.evaluate(script % json.dumps(selector))
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def show(self, width: int, height: int, scheme: str = "light", *, mobile: bool = False) -> None:
        """Take a size of the window, in CSS pixels, and a colour scheme."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def picture(self, path: Path) -> None:
        """Write what the window shows as a PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def _next(self, deadline: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        while b"\0" not in self._buffer:
            left = deadline - time.monotonic()
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, left))
            if not ready:
                raise TimeoutError(f"Chromium has said nothing for {SECONDS:g} seconds")
            content = os.read(self._process.stdout.fileno(), 1 << 20)
            if not content:
                raise ConnectionError("Chromium has ended")
            self._buffer += content
        message, self._buffer = self._buffer.split(b"\0", 1)
        found: dict[str, Any] = json.loads(message)
        return found

    def _keep(self, event: dict[str, Any]) -> None:
        content = event.get("params", {})
        match event.get("method"):
            case "Runtime.consoleAPICalled":
                said = " ".join(str(item.get("value", item.get("description"))) for item in content["args"])
                self.messages.append(f"{content['type']}: {said}")
            case "Runtime.exceptionThrown":
                self.messages.append(f"exception: {content['exceptionDetails'].get('exception', {})}")
            case "Log.entryAdded":
                self.messages.append(f"{content['entry']['level']}: {content['entry']['text']}")
            case "Network.requestWillBeSent":
                self.requests.append(content["request"]["url"])
            case "Page.loadEventFired":
                self._is_loaded = True
