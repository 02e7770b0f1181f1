"""Debian's Chromium, headless, and the accessibility check that runs in it; a test without one of them is skipped."""

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

AXE = Path(__file__).resolve().parents[2] / ".local" / "axe" / "node_modules" / "axe-core" / "axe.min.js"
PATIENCE = 15.0
"""Seconds that something may take to show."""
_SERIOUS = {"serious", "critical"}


def needs_chromium() -> tuple[str, str]:
    """Return where Chromium and its driver are; skip the test where they are not installed."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("Debian's packages chromium and chromium-driver are not installed")
    return chromium, driver


def axe() -> str:
    """Return the accessibility check; skip the test where it is not installed."""
    if not AXE.exists():
        pytest.skip("axe-core is not installed: npm install --prefix .local/axe axe-core")
    return AXE.read_text(encoding="utf-8")


@contextmanager
def browsing(profile: Path) -> Iterator["Browser"]:
    """Start a browser with a profile of its own."""
    chromium, driver = needs_chromium()
    options = Options()
    options.binary_location = chromium
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", f"user-data-dir={profile}"):
        options.add_argument(f"--{argument}")
    started = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield Browser(started)
    finally:
        started.quit()


class Browser:
    """A browser whose every step runs in a thread, so that the receiver beside it goes on."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self._driver = driver

    async def open(self, url: str) -> None:
        """Load a page."""
        await asyncio.to_thread(self._driver.get, url)

    async def type(self, element_id: str, text: str) -> None:
        """Type into a field, and send its form."""

        def type_it() -> None:
            field = self._driver.find_element(By.ID, element_id)
            field.send_keys(text)
            field.submit()

        await asyncio.to_thread(type_it)

    async def follow(self, element_id: str) -> None:
        """Follow a link."""
        await asyncio.to_thread(lambda: self._driver.find_element(By.ID, element_id).click())

    async def text(self, selector: str = "main") -> str:
        """Return what a part of the page says."""
        said: str = await self.run("return document.querySelector(arguments[0]).innerText", selector)
        return said

    async def until(self, words: str, selector: str = "main") -> str:
        """Wait until a part of the page says something, and return all that it says."""

        def says(driver: webdriver.Chrome) -> str | None:
            there = driver.find_elements(By.CSS_SELECTOR, selector)
            return there[0].text if there and words in there[0].text else None

        def wait() -> str:
            waiting = WebDriverWait(self._driver, PATIENCE, poll_frequency=0.05, ignored_exceptions=[Exception])
            return waiting.until(says, f"{selector} does not say {words!r}") or ""

        return await asyncio.to_thread(wait)

    async def run(self, script: str, *arguments: object) -> Any:
        """Run a script in the page and return what it returns."""
        return await asyncio.to_thread(self._driver.execute_script, script, *arguments)

    async def look_as(self, *, width: int, dark: bool) -> None:
        """Look from a screen of that width, in CSS pixels, and with that preference."""

        def look() -> None:
            screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
            feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
            for command, arguments in (
                ("Emulation.setDeviceMetricsOverride", screen),
                ("Emulation.setEmulatedMedia", {"features": [feature]}),
            ):
                self._driver.execute_cdp_cmd(command, arguments)

        await asyncio.to_thread(look)

    async def troubles(self) -> list[str]:
        """Return what the browser itself complained of, such as a breach of the page's policy, since the last time."""
        entries = await asyncio.to_thread(self._driver.get_log, "browser")
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]

    async def find_barriers(self) -> list[str]:
        """Return what axe-core finds serious in the page as it is, each with the elements that have it."""
        check = axe()

        def find() -> Any:
            self._driver.execute_script(check)
            return self._driver.execute_async_script(
                "const done = arguments[0]; axe.run(document).then(found => done(found.violations));"
            )

        return [
            f"{each['id']}: {', '.join(node['target'][0] for node in each['nodes'])}"
            for each in await asyncio.to_thread(find)
            if each["impact"] in _SERIOUS
        ]
