"""The Prefect UI in a real browser, for tests that use it like a person. They are skipped without Chromium.

With ENGINERY_SCREENSHOTS=docs/images the tests make the pictures of the documentation again.
"""

import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page, Response

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
FLAGS = (
    "--no-sandbox",  # a sandbox needs permissions that a container does not have
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # the UI sends usage data to Prefect
)
SIZE = (1440, 900)
PATIENCE_SECONDS = 120
"""How long to wait for something to appear. On a busy machine the UI's first page takes half a minute."""

PICTURES = Path(os.environ["ENGINERY_SCREENSHOTS"]).resolve() if "ENGINERY_SCREENSHOTS" in os.environ else None
"""Read here, because in a test our environment variables are removed, and the working directory is another one."""

needs_browser = pytest.mark.skipif(
    CHROMIUM is None or find_spec("playwright") is None,
    reason="needs a browser: chromium (or google-chrome) on PATH, and the package playwright",
)


class PrefectUI:
    """A page of the Prefect UI.

    Attributes:
        page: the browser's page.
        pictures: the directory for pictures.
        refused: the requests that the server refused or did not answer.
    """

    def __init__(self, page: "Page", url: str, pictures: Path) -> None:
        self.page, self.pictures = page, pictures
        self.refused: list[str] = []
        page.on("response", self._note_answer)
        page.on("requestfailed", lambda request: self.refused.append(f"{request.method} {request.url}"))
        page.goto(url)

    def _note_answer(self, answer: "Response") -> None:
        if not answer.ok:
            self.refused.append(f"{answer.request.method} {answer.url}: {answer.status}")

    def go(self, link: str) -> None:
        """Follow the link with exactly this name."""
        self.page.get_by_role("link", name=link, exact=True).first.click()

    def field(self, label: str) -> "Locator":
        """The first text field with this label."""
        return self.page.get_by_role("textbox", name=label, exact=True).first

    def choices(self, label: str) -> list[str]:
        """The choices of a field with fixed values."""
        self.page.get_by_role("button", name=f"Select {label}", exact=True).first.click()
        options = self.page.get_by_role("option")
        options.first.wait_for()
        found = options.all_inner_texts()
        self.page.keyboard.press("Escape")
        options.first.wait_for(state="hidden")
        return found

    def see(self, text: str) -> None:
        """Wait until a text is visible."""
        self.page.get_by_text(text).first.wait_for()

    def text(self) -> str:
        """The whole text of the page, and the refused requests."""
        return "\n".join([self.page.inner_text("body"), *self.refused])

    def picture(self, name: str) -> Path:
        """Take a picture when the page does not move any more."""
        path = self.pictures / f"prefect-{name}.png"
        wait_until(lambda: self.page.screenshot() == self.page.screenshot(path=path), seconds=PATIENCE_SECONDS)
        return path


@pytest.fixture
def prefect_ui(prefect_server: str, tmp_path: Path) -> Iterator[PrefectUI]:
    """The UI's first page, in a browser without data of earlier visits."""
    from playwright.sync_api import sync_playwright

    patience = PATIENCE_SECONDS * 1000
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS), timeout=patience)
        context = browser.new_context(viewport={"width": SIZE[0], "height": SIZE[1]})
        context.set_default_timeout(patience)
        yield PrefectUI(context.new_page(), prefect_server, PICTURES or tmp_path)
        browser.close()
