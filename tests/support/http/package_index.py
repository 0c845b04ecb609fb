"""A package index on a free port: project pages in JSON (PEP 691) or HTML (PEP 503), or any other answer.

with running_index() as index:
    index.add("tensorrt-llm", "tensorrt_llm-1.2.1-cp312-cp312-linux_x86_64.whl")
    index.use(monkeypatch)
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Any, Literal

import pytest

from tests.support.http.serving import Handler, serving

Form = Literal["json", "html"]
JSON_TYPE = "application/vnd.pypi.simple.v1+json"


class PackageIndex:
    """A running index.

    Attributes:
        url: the value for `index-url`.
        form: the format of project pages.
        answers: path -> (status, content type, body) that is sent instead of a project's page.
        requests: path and Authorization header of each request.
    """

    def __init__(self) -> None:
        self.url = ""
        self.form: Form = "json"
        self.answers: dict[str, tuple[int, str, bytes]] = {}
        self.requests: list[tuple[str, str]] = []
        self._files: dict[str, list[dict[str, Any]]] = {}

    def add(self, project: str, *names: str, yanked: bool | str = False, size: int | None = None) -> None:
        """Offer files of a project."""
        for name in names:
            entry: dict[str, Any] = {"filename": name, "url": f"../../files/{name}", "hashes": {}, "yanked": yanked}
            self._files.setdefault(project, []).append(entry | ({"size": size} if size is not None else {}))

    def answer(self, project: str, status: int, body: str = "", kind: str = "text/html") -> None:
        """Send this answer to requests for a project."""
        self.answers[f"/simple/{project}/"] = (status, kind, body.encode())

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make it the only index of this process's pip, with no other place for packages and short timeouts."""
        settings = {"INDEX_URL": self.url, "EXTRA_INDEX_URL": "", "FIND_LINKS": "", "RETRIES": "0", "TIMEOUT": "20"}
        monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
        for name, value in settings.items():
            monkeypatch.setenv(f"PIP_{name}", value)

    def page(self, path: str) -> tuple[int, str, bytes]:
        """The status, content type and body of the answer for a path."""
        if path in self.answers:
            return self.answers[path]
        project = path.removeprefix("/simple/").strip("/")
        files = self._files.get(project)
        if files is None:
            return 404, "text/plain", b"no such project"
        if self.form == "json":
            body: dict[str, Any] = {"meta": {"api-version": "1.1"}, "name": project, "files": files}
            return 200, JSON_TYPE, json.dumps(body | {"versions": []}).encode()
        return 200, "text/html", "\n".join(_html(files)).encode()


def _html(files: list[dict[str, Any]]) -> Iterator[str]:
    yield "<!DOCTYPE html><html><head><title>Links</title></head><body>"
    for file in files:
        reason = "" if file["yanked"] is True else escape(str(file["yanked"]))
        yanked = f' data-yanked="{reason}"' if file["yanked"] else ""
        yield f'<a href="{file["url"]}"{yanked}>{file["filename"]}</a><br/>'
    yield "</body></html>"


class _Handler(Handler):
    index: PackageIndex

    def do_GET(self) -> None:
        self.index.requests.append((self.path, self.headers.get("Authorization", "")))
        status, kind, body = self.index.page(self.path)
        self.send(status, body, {"Content-Type": kind})


@contextmanager
def running_index() -> Iterator[PackageIndex]:
    """Run an index without projects until the block ends."""
    index = PackageIndex()
    with serving(_Handler, index=index) as url:
        index.url = f"{url}/simple"
        yield index


@pytest.fixture
def package_index(monkeypatch: pytest.MonkeyPatch) -> Iterator[PackageIndex]:
    """An index that this process's pip uses."""
    with running_index() as index:
        index.use(monkeypatch)
        yield index
