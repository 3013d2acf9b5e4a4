"""A headless Chromium, driven over its own protocol: open, wait, click, type, look."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MISSING = "chromium is not installed, and the gallery's test needs it: run `make setup` (or apt-get install chromium)"
PATIENCE = 20.0

_QUIET = (
    "--headless",
    # Root has no sandbox, nor has many a container; the pages are our own.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)

_AT_REST = """async (selector) => {
    const element = document.querySelector(selector);
    if (!element || element.disabled) { return null; }
    element.scrollIntoView({ block: "center", behavior: "instant" });
    const place = () => {
        const { x, y, width, height } = element.getBoundingClientRect();
        return [x + width / 2, y + height / 2];
    };
    const before = place();
    await new Promise((resolve) => setTimeout(resolve, 60));
    const now = place();
    const top = document.elementFromPoint(...now);
    return before.join() === now.join() && (element.contains(top) || (top && top.contains(element))) ? now : null;
}"""


class Page:
    """The one page of a browser. `problems`: console errors, exceptions, and requests to other hosts."""

    def __init__(self, socket: ClientConnection, host: str) -> None:
        self._socket = socket
        self._host = host
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.problems: list[str] = []

    async def read(self) -> None:
        async for raw in self._socket:
            message = json.loads(raw)
            if "id" in message:
                self._answers.pop(message["id"]).set_result(message)
            else:
                self._note(message["method"], message["params"])

    def _note(self, method: str, params: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(params["exceptionDetails"])[:500])
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.problems.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif method == "Runtime.consoleAPICalled" and params["type"] == "error":
            self.problems.append(" ".join(str(one.get("value", one.get("description"))) for one in params["args"]))
        elif method == "Network.requestWillBeSent":
            url = params["request"]["url"]
            if not url.startswith(("data:", "blob:", "chrome", f"http://{self._host}/", f"ws://{self._host}/")):
                self.problems.append(f"a request to {url}")

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        message = await asyncio.wait_for(answer, PATIENCE)
        assert "error" not in message, f"{method}: {message}"
        return dict(message["result"])

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; that of a promise is waited for."""
        result = await self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def until(self, expression: str, what: str) -> Any:
        """Wait until an expression is true, and return its value."""
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while not (value := await self.evaluate(expression)):
            if asyncio.get_running_loop().time() > deadline:
                text = await self.evaluate("document.body.innerText")
                raise AssertionError(f"{what} did not come within {PATIENCE} s; the page: {text}; {self.problems}")
            await asyncio.sleep(0.05)
        return value

    async def click(self, selector: str) -> None:
        """Click into the middle of an element that rests and that nothing covers, as a mouse does."""
        x, y = await self.until(f"({_AT_REST})({json.dumps(selector)})", f"a resting {selector}")
        for kind in ("mousePressed", "mouseReleased"):
            await self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    async def write(self, selector: str, text: str) -> None:
        """Replace what is in a field, by the keyboard."""
        await self.click(selector)
        await self.evaluate("document.activeElement.select()")
        await self.call("Input.insertText", text=text)

    async def screenshot(self) -> bytes:
        """What is to be seen, as PNG."""
        return base64.b64decode((await self.call("Page.captureScreenshot", format="png"))["data"])


class _Process:
    """The browser, with a profile of its own."""

    def __init__(self, folder: Path, width: int, height: int) -> None:
        assert CHROMIUM, MISSING
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "chromium.log"
        self._profile = folder / "profile"
        own = (f"--user-data-dir={self._profile}", f"--window-size={width},{height}")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603
                [CHROMIUM, *_QUIET, *own, "about:blank"], stdout=log, stderr=log
            )

    def port(self) -> int | None:
        """The port that it chose; None until it has."""
        assert self._process.poll() is None, self.words()
        with contextlib.suppress(OSError, ValueError, IndexError):
            return int((self._profile / "DevToolsActivePort").read_text(encoding="utf-8").split()[0])
        return None

    def words(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)


@contextlib.asynccontextmanager
async def browser(folder: Path, url: str, *, width: int = 1280, height: int = 900) -> AsyncIterator[Page]:
    """A page that is open at a url; the browser is gone afterwards."""
    process = _Process(folder, width, height)
    try:
        async with connect(await _address(process), max_size=None, compression=None) as socket:
            page = Page(socket, httpx.URL(url).netloc.decode())
            reading = asyncio.create_task(page.read())
            try:
                for domain in ("Page", "Runtime", "Log", "Network"):
                    await page.call(f"{domain}.enable")
                size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
                await page.call("Emulation.setDeviceMetricsOverride", **size)
                await page.call("Page.navigate", url=url)
                yield page
            finally:
                reading.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await reading
    finally:
        process.stop()


async def _address(process: _Process) -> str:
    """Wait for the browser, and return the websocket address of its page."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    async with httpx.AsyncClient() as http:
        while True:
            port = process.port()
            with contextlib.suppress(httpx.TransportError):
                targets = (await http.get(f"http://127.0.0.1:{port}/json/list")).json() if port else []
                pages = [str(one["webSocketDebuggerUrl"]) for one in targets if one["type"] == "page"]
                if pages:
                    return pages[0]
            assert asyncio.get_running_loop().time() < deadline, process.words()
            await asyncio.sleep(0.02)
