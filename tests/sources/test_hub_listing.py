"""Tests of reading the Hub's lists of files, whatever a server sends."""

from typing import Any

import httpx2
import pytest

from enginery.core.errors import SourceError
from enginery.sources import hub_listing
from enginery.sources.hub_http import Answer
from enginery.sources.hub_listing import Listing, completed, is_complete, read_listing, tree_files
from enginery.sources.model_files import SourceFile

HUB = "https://hub.example.com"
COMMIT, BLOB, SHA256 = "c" * 40, "b" * 40, "5" * 64


@pytest.fixture(autouse=True)
def _endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", HUB)


def answers(monkeypatch: pytest.MonkeyPatch, *pages: Any, **headers: str) -> list[str]:
    """Let the API answer with these documents. Returns the addresses that are asked for."""
    left, asked = list(pages), []

    def get_json(_repository: str, _revision: str, address: str, **_parameters: str) -> tuple[Any, Any]:
        asked.append(address)
        sent = {"Link": f'<{HUB}/next>; rel="next"'} if len(left) > 1 else {}
        request = httpx2.Request("GET", address)
        return left.pop(0), httpx2.Response(200, headers={**sent, **headers}, request=request)

    monkeypatch.setattr(hub_listing, "get_json", get_json)
    return asked


def listed(monkeypatch: pytest.MonkeyPatch, **entry: Any) -> SourceFile:
    answers(monkeypatch, {"sha": COMMIT, "siblings": [{"rfilename": "model.bin", **entry}]})
    return read_listing("acme/tiny", "main").files["model.bin"]


@pytest.mark.parametrize("document", [None, 1, "text", [], {}, {"siblings": None}, {"siblings": {"a": 1}}])
def test_what_is_no_list_of_files_is_not_a_hub(monkeypatch: pytest.MonkeyPatch, document: Any) -> None:
    answers(monkeypatch, document)
    with pytest.raises(SourceError, match="not as a Hub does: no list of files from hub.example.com"):
        read_listing("acme/tiny", "main")


def test_entries_that_are_no_files_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, {"sha": 7, "siblings": [None, 1, "a", {}, {"rfilename": 5}, {"rfilename": "a", "lfs": "x"}]})
    assert read_listing("acme/tiny", "main") == Listing("acme/tiny", "", None, {"a": SourceFile(name="a")})


@pytest.mark.parametrize(
    ("entry", "size", "sha256", "blob"),
    [
        ({"size": 12, "blobId": BLOB}, 12, None, BLOB),
        ({"size": 12, "blobId": BLOB, "lfs": {"size": 99, "sha256": SHA256}}, 99, SHA256, None),
        ({"size": 12, "lfs": {"oid": SHA256}}, 12, SHA256, None),
        ({"lfs": {}}, None, None, None),
        ({"size": 0, "blobId": hub_listing.EMPTY_BLOB}, 0, None, hub_listing.EMPTY_BLOB),
        ({"size": 0}, None, None, None),
        ({"size": -1, "blobId": 5}, None, None, None),
        ({"size": "12", "blobId": "main"}, None, None, None),
        ({"size": True}, None, None, None),
        ({"size": 10**10, "blobId": BLOB}, 10**10, None, None),
    ],
)
def test_only_what_an_entry_surely_says_is_taken(
    monkeypatch: pytest.MonkeyPatch, entry: Any, size: int | None, sha256: str | None, blob: str | None
) -> None:
    found = listed(monkeypatch, **entry)
    assert (found.size, found.sha256, found.git_blob) == (size, sha256, blob)


@pytest.mark.parametrize(
    ("sha", "header", "revision", "commit"),
    [
        (COMMIT, "d" * 40, "main", COMMIT),
        (None, "d" * 40, "main", "d" * 40),
        ("latest", None, "main", ""),
        ("../../x", None, "main", ""),
        (None, None, "e" * 40, "e" * 40),
        ("e" * 12, None, "e" * 40, "e" * 12),
        ("f" * 64, None, "main", "f" * 64),
    ],
)
def test_the_commit_is_taken_from_where_it_is_said(
    monkeypatch: pytest.MonkeyPatch, sha: object, header: str | None, revision: str, commit: str
) -> None:
    answers(monkeypatch, {"sha": sha, "siblings": []}, **({"X-Repo-Commit": header} if header else {}))
    assert read_listing("acme/tiny", revision).commit == commit


@pytest.mark.parametrize(("gated", "expected"), [({}, None), ({"gated": False}, False), ({"gated": "manual"}, True)])
def test_whether_a_repository_is_gated_may_be_unknown(
    monkeypatch: pytest.MonkeyPatch, gated: dict[str, object], *, expected: bool | None
) -> None:
    answers(monkeypatch, {"sha": COMMIT, "siblings": [], **gated})
    assert read_listing("acme/tiny", "main").gated is expected


def test_the_tree_is_read_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    first = [{"type": "file", "path": "a", "size": 1, "oid": BLOB}, {"type": "directory", "path": "onnx"}, 5]
    asked = answers(monkeypatch, first, [{"type": "file", "path": "b", "lfs": {"oid": SHA256, "size": 2}}])
    found = list(tree_files("acme/tiny", COMMIT))
    assert found == [SourceFile(name="a", size=1, git_blob=BLOB), SourceFile(name="b", size=2, sha256=SHA256)]
    assert asked == [f"{HUB}/api/models/acme/tiny/tree/{COMMIT}", f"{HUB}/next"]


def test_a_page_on_another_server_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answers(monkeypatch, [], Link='<https://hub.example.com.evil.org/next>; rel="next"')
    assert list(tree_files("acme/tiny", COMMIT)) == []
    assert len(asked) == 1


def test_what_is_known_of_a_file_is_never_replaced() -> None:
    known = SourceFile(name="a", size=1, git_blob=BLOB)
    assert completed(known, SourceFile(name="a", size=2, git_blob="0" * 40)) == known
    assert completed(SourceFile(name="a"), Answer(size=3, sha256=SHA256)) == SourceFile(name="a", size=3, sha256=SHA256)
    assert not is_complete(SourceFile(name="a", size=1))
    assert not is_complete(SourceFile(name="a", sha256=SHA256))
