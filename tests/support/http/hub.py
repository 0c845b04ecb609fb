"""A server with the part of the Hugging Face Hub's protocol that `huggingface_hub` uses to read models.

    with running_hub(tmp_path / "hub") as hub:
        commit = hub.add_model("owner/name", directory)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)

Like the Hub, it answers a request for a large file with a redirect to another host name. A test asks for faults by file
name: `hub.fail("truncate", "model.safetensors", after=1000)`. `hub.refuse(429, "/api/*")` is for error statuses, and
`hub.mirror = Mirror(lists="names")` for what mirrors do differently. `hub.bytes_sent` and `hub.requests` record what
happened.
"""

import gzip
import hashlib
import json
import re
import shutil
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from enginery.core.digests import file_digest
from tests.support.http.hub_content import LFS, Fault, FaultKind, HubFile, HubModel, Mirror, Refusal, SeenRequest
from tests.support.http.serving import Handler, serving

CHUNK = 1 << 14
INFO = re.compile(r"(.+?)(?:/(revision|tree)/([^/]+)/?)?")


class HubServer:
    """The Hub's state, and the switches for tests."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.models: dict[str, HubModel] = {}
        self.tokens: set[str] = set()
        self.bytes_sent: Counter[str] = Counter()
        self.requests: list[SeenRequest] = []
        self.renamed: dict[str, str] = {}
        self.mirror = Mirror()
        self._faults: list[Fault] = []
        self._refusals: list[Refusal] = []
        self._lock = threading.Lock()
        self.url = ""

    def add_model(
        self, name: str, directory: Path, *, revision: str = "main", gated: bool = False, private: bool = False
    ) -> str:
        """Commit the files of `directory` to a repository, point `revision` to the commit, and return the commit."""
        model = self.models.setdefault(name, HubModel(name))
        model.gated, model.private = gated, private
        files = {path.relative_to(directory).as_posix(): path for path in directory.rglob("*") if path.is_file()}
        content = "".join(f"{file}\0{file_digest(path)}\0" for file, path in sorted(files.items()))
        commit = hashlib.sha1(f"{name}\0{content}".encode()).hexdigest()
        model.commits[commit] = {file: self._keep(commit, file, path) for file, path in files.items()}
        model.references[revision] = commit
        return commit

    def _keep(self, commit: str, name: str, source: Path) -> HubFile:
        path = self.root / commit / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, path)
        data = path.read_bytes()
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        return HubFile(name, path, len(data), hashlib.sha256(data).hexdigest(), blob)

    def add_token(self, token: str, *models: str) -> str:
        """Make a token valid, and give it access to these gated or private models."""
        self.tokens.add(token)
        for model in models:
            self.models[model].allowed.add(token)
        return token

    def fail(
        self, kind: FaultKind, pattern: str = "*", *, after: int = 0, times: int | None = 1, bytes_per_second: int = 0
    ) -> Fault:
        """Let answers for a file fail in one of the ways that `FaultKind` names."""
        fault = Fault(kind, pattern, after, times, bytes_per_second)
        with self._lock:
            self._faults.append(fault)
        return fault

    def refuse(
        self, status: int, pattern: str = "*", *, headers: dict[str, str] | None = None, times: int | None = 1
    ) -> None:
        """Answer requests for these paths with an error status, such as 429 when a limit is reached."""
        with self._lock:
            self._refusals.append(Refusal(status, pattern, headers or {}, times))

    def take_refusal(self, path: str) -> Refusal | None:
        """The first remaining refusal for this path. It counts as used once."""
        with self._lock:
            for refusal in self._refusals:
                if refusal.times != 0 and fnmatchcase(path, refusal.pattern):
                    refusal.times = None if refusal.times is None else refusal.times - 1
                    return refusal
        return None

    def rename(self, old: str, new: str) -> None:
        """Give a repository another name. As on the Hub, its old name then redirects to the new one."""
        model = self.models.pop(old)
        model.name = new
        self.models[new] = model
        self.renamed[old] = new

    def heal(self) -> None:
        """End all faults and refusals."""
        with self._lock:
            self._refusals.clear()
            for fault in self._faults:
                fault.release.set()
            self._faults.clear()

    def take_fault(self, path: str) -> Fault | None:
        """The first remaining fault for this path. It counts as used once."""
        name = path.rpartition("/")[2]
        with self._lock:
            for fault in self._faults:
                if fault.times != 0 and (fnmatchcase(path, fault.pattern) or name == fault.pattern):
                    fault.times = None if fault.times is None else fault.times - 1
                    return fault
        return None

    def asked(self, ending: str, method: str = "GET") -> list[SeenRequest]:
        """The requests whose path ends with `ending`."""
        return [seen for seen in list(self.requests) if seen.method == method and seen.path.endswith(ending)]

    @property
    def authorizations(self) -> set[str | None]:
        """Every different Authorization header that came in."""
        return {seen.authorization for seen in list(self.requests)}

    def count(self, name: str, sent: int) -> None:
        with self._lock:
            self.bytes_sent[name] += sent


class _Handler(Handler):
    hub: HubServer

    def do_GET(self) -> None:
        quoted = urlsplit(self.path).path.removeprefix(self.hub.mirror.prefix)
        path = unquote(quoted)
        sent = self.headers
        seen = SeenRequest(self.command, path, sent["Host"] or "", sent["Authorization"], sent["Range"])
        self.hub.requests.append(seen)
        refusal = self.hub.take_refusal(path)
        fault = self.hub.take_fault(path) if self._is_final(path) and not refusal else None
        if refusal:
            self.send(refusal.status, b'{"error": "refused"}', refusal.headers)
        elif self.hub.mirror.upstream:
            self.send(307, b"", {"Location": f"{self.hub.mirror.upstream}{self.path}"})
        elif new := self._renamed(path):
            self.send(307, b"", {"Location": self.path.replace(*new, 1)})
        elif self.command == "HEAD" and not self.hub.mirror.head:
            self.send(405, b"")
        elif fault and fault.kind == "unavailable":
            self._fail(503, "", "Service Unavailable")
        elif fault and fault.kind == "not-json":
            self.send(200, b"<html>log in</html>", {"Content-Type": "text/html"})
        elif path.startswith("/api/models/"):
            self._serve_info(quoted.removeprefix("/api/models/"))
        elif path.startswith("/cdn/"):
            self._serve_cdn(path, fault)
        elif "/resolve/" in path:
            self._serve_file(quoted, fault)
        else:
            self._fail(404, "", "not found")

    do_HEAD = do_GET

    def _is_final(self, path: str) -> bool:
        """Whether this answer has the file's bytes: not for HEAD, and for large files only after the redirect."""
        is_redirect = "/resolve/" in path and any(fnmatchcase(path, pattern) for pattern in LFS)
        return self.command == "GET" and not is_redirect

    def _renamed(self, path: str) -> tuple[str, str] | None:
        """The old and the new name, if the path is that of a repository under its old name."""
        for old, new in self.hub.renamed.items():
            if path.startswith((f"/api/models/{old}/", f"/{old}/")):
                return old, new
        return None

    def _token(self) -> str | None:
        header = self.headers["Authorization"]
        return header.removeprefix("Bearer ") if header else None

    def _find(self, name: str, *, needs_access: bool) -> HubModel | None:
        """The model; or None, after a refusal with the Hub's own status and error code was sent."""
        token, model = self._token(), self.hub.models.get(name)
        if token is not None and token not in self.hub.tokens:
            self._fail(401, "", "Invalid credentials in Authorization header")
        elif model is None or (model.private and token not in model.allowed):
            self._fail(401 if token is None else 404, "RepoNotFound", "Repository not found")
        elif needs_access and model.gated and token not in model.allowed:
            self._fail(401 if token is None else 403, "GatedRepo", f"Access to model {name} is restricted")
        else:
            return model
        return None

    def _serve_info(self, rest: str) -> None:
        name, kind, revision = INFO.fullmatch(rest).groups()  # type: ignore[union-attr]  # the pattern matches any text
        model = self._find(name, needs_access=False)  # anybody may list a gated repository
        if model is None:
            return
        commit = model.commit_of(unquote(revision or "main"))
        if commit is None:
            self._fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        files = sorted(model.commits[commit].values(), key=lambda file: file.name)
        if kind == "tree" and not self.hub.mirror.tree:
            self._fail(404, "", "not found")
            return
        answer = [file.in_tree() for file in files] if kind == "tree" else self._info(model, commit, files)
        content, headers = json.dumps(answer).encode(), {"Content-Type": "application/json"}
        if self.hub.mirror.compressed:
            content, headers = gzip.compress(content), {**headers, "Content-Encoding": "gzip"}
        self.send(200, content, headers)

    def _info(self, model: HubModel, commit: str, files: list[HubFile]) -> dict[str, Any]:
        mirror = self.hub.mirror
        info = {
            "_id": commit[:24], "id": model.name, "modelId": model.name, "sha": mirror.sha(commit),
            "private": model.private, "disabled": False, "tags": [],
            "siblings": [file.listed(mirror) for file in files],
        }  # fmt: skip
        return {**info, "gated": "manual" if model.gated else False} if mirror.gated else info

    def _serve_file(self, path: str, fault: Fault | None) -> None:
        name, _, rest = path.removeprefix("/").partition("/resolve/")
        model = self._find(name, needs_access=True)
        if model is None:
            return
        revision, _, file_name = map(unquote, rest.partition("/"))
        commit = model.commit_of(revision)
        if commit is None:
            self._fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        file = model.commits[commit].get(file_name)
        if file is None:
            self._fail(404, "EntryNotFound", "Entry not found")
            return
        mirror = self.hub.mirror
        headers = {"Accept-Ranges": "bytes", **({"X-Repo-Commit": commit} if mirror.commits else {})}
        headers |= {"ETag": f'"{file.etag}"'} if mirror.digests else {}
        if file.is_lfs:
            if mirror.lists == "all" and mirror.digests:
                headers |= {"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(file.size)}
            headers["Location"] = (
                f"http://localhost:{urlsplit(self.hub.url).port}/cdn/{name}/{commit}/{file_name}?signature=x"
            )
            self.send(302, b"", headers)
        else:
            self._send_file(file, fault, headers)

    def _serve_cdn(self, path: str, fault: Fault | None) -> None:
        owner, repository, commit, name = path.removeprefix("/cdn/").split("/", 3)
        file = self.hub.models[f"{owner}/{repository}"].commits[commit][name]
        self._send_file(file, fault, {"ETag": f'"{file.sha256}"', "Accept-Ranges": "bytes"})

    def _send_file(self, file: HubFile, fault: Fault | None, headers: dict[str, str]) -> None:
        data = file.path.read_bytes()
        ignored = not self.hub.mirror.ranges or (fault and fault.kind == "ignore-range")
        start = None if ignored else self._range_start()
        if start is not None and start >= file.size:
            self.send(416, b"", {"Content-Range": f"bytes */{file.size}"})
            return
        status = 200 if start is None else 206
        if start is not None:
            headers["Content-Range"] = f"bytes {start}-{file.size - 1}/{file.size}"
            data = data[start:]
        if fault and fault.kind == "corrupt":
            data = bytes(byte ^ 0xFF for byte in data)
        if not self.hub.mirror.lengths:
            self._send_in_chunks(status, headers, data)
            return
        self.head(status, len(data), headers)
        if self.command == "GET":
            self._send_body(file.name, data, fault)

    def _send_in_chunks(self, status: int, headers: dict[str, str], data: bytes) -> None:
        """Send an answer without its length: as some proxies do, also in place of a part of a file."""
        headers.pop("Content-Range", None)
        self.send_response(status)
        for name, value in {**headers, "Transfer-Encoding": "chunked"}.items():
            self.send_header(name, value)
        self.end_headers()
        for start in range(0, len(data), CHUNK) if self.command == "GET" else ():
            piece = data[start : start + CHUNK]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        if self.command == "GET":
            self.wfile.write(b"0\r\n\r\n")

    def _range_start(self) -> int | None:
        asked = self.headers["Range"]
        return int(asked.removeprefix("bytes=").partition("-")[0]) if asked else None

    def _send_body(self, name: str, data: bytes, fault: Fault | None) -> None:
        breaks = fault is not None and fault.kind in {"truncate", "reset", "hold"}
        first = data[: fault.after] if fault and breaks else data
        self._write(name, first, fault.bytes_per_second if fault else 0)
        if not fault or not breaks:
            return
        if fault.kind == "hold":
            fault.release.wait()
            self._write(name, data[fault.after :], 0)
            return
        self.close_connection = True
        if fault.kind == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def _write(self, name: str, data: bytes, bytes_per_second: int) -> None:
        for start in range(0, len(data), CHUNK):
            piece = data[start : start + CHUNK]
            self.wfile.write(piece)
            self.wfile.flush()
            self.hub.count(name, len(piece))
            if bytes_per_second:
                time.sleep(len(piece) / bytes_per_second)

    def _fail(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Message": message, "Content-Type": "application/json"}
        headers |= {"X-Error-Code": code} if code else {}
        self.send(status, json.dumps({"error": message}).encode(), headers)


@contextmanager
def running_hub(root: Path, certificates: ssl.SSLContext | None = None) -> Iterator[HubServer]:
    """Run a Hub on a free port, with TLS if there are certificates. Its commits are under `root`."""
    hub = HubServer(root)
    with serving(_Handler, certificates, hub=hub) as hub.url:
        try:
            yield hub
        finally:
            hub.heal()
