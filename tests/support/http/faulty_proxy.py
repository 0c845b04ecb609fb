"""A proxy in front of a real HTTP server. It fails when a test asks for it."""

import contextlib
import hashlib
import http.client
import random
import socket
import struct
import threading
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from typing import Literal

from tests.support.http.serving import Handler

Kind = Literal["answer", "reset", "truncate", "flip", "flip sent", "stall"]
Connection = http.client.HTTPConnection
HTTP_REFUSED = 300


def anything(method: str, path: str) -> bool:
    return True


@dataclass
class Fault:
    """One way to fail.

    Attributes:
        kind: `answer` with `status` and `body` instead of the server; `reset` the connection before the answer, or
            `truncate` the answer's body in the middle; `flip` a bit of the body, each time another one; `stall` in the
            middle of the body; `flip sent` a bit of what the client sends.
            An answer without a body is cut off, or stalls, before it begins.
        times: how many matching requests fail; later ones go through.
        after: whether the server does the work before the request fails.
        matches: selects the requests, by method and path.
        bytes: how many bytes of the body are sent before it is truncated or stalls; None for half of them.
    """

    kind: Kind
    times: int = 1
    status: int = 503
    body: bytes = b""
    after: bool = False
    matches: Callable[[str, str], bool] = anything
    bytes: int | None = None


BAD_DIGEST = Fault("answer", status=400, body=b"<Error><Code>BadDigest</Code><Message>no</Message></Error>")


class Chaos:
    """One in `one_in` requests fails in one of six ways, chosen by `seed`.

    Only failures that a client can notice are made: only the bytes of objects are changed, because only they have a
    digest.
    """

    WAYS: dict[str, Callable[[], Fault]] = {  # noqa: RUF012  never changed
        "unavailable": lambda: Fault("answer"),
        "reset": lambda: Fault("reset"),
        "reset after the work": lambda: Fault("reset", after=True),
        "truncated": lambda: Fault("truncate"),
        "stalled": lambda: Fault("stall"),
        "flipped": lambda: Fault("flip"),
    }

    def __init__(self, seed: int, one_in: int = 5) -> None:
        self.random = random.Random(seed)
        self.one_in = one_in
        self.happened: Counter[str] = Counter()

    def draw(self, method: str, path: str) -> Fault | None:
        """The fault of this request; None for no fault."""
        if self.random.randrange(self.one_in):
            return None
        is_object = method == "GET" and "?" not in path
        way = self.random.choice([way for way in self.WAYS if is_object or way != "flipped"])
        self.happened[way] += 1
        return self.WAYS[way]()


@dataclass
class Proxy:
    """A running proxy.

    Attributes:
        url: the proxy's address.
        open: lets clients connect.
        faults: the faults to come; the first that matches a request is used.
        chaos: the random faults of requests that match no other fault.
        watch: called with each request before it is passed on; may make requests of its own.
        drops: request headers that are not passed on, in lower case.
        requests: method and path of every request, in the order in which they came.
        checked: how many bodies had a `x-amz-checksum-sha256`. Like S3, the proxy refuses a body that differs from its
            digest with BadDigest; moto does not check it.
        sent_bytes: the size of all request bodies together.
        flips: how many bodies had a bit changed.
    """

    url: str
    upstream: tuple[str, int]
    open: Callable[[], None]
    faults: list[Fault] = field(default_factory=list)
    chaos: Chaos | None = None
    watch: Callable[[str, str], None] | None = None
    drops: set[str] = field(default_factory=set)
    requests: list[tuple[str, str]] = field(default_factory=list)
    checked: int = 0
    sent_bytes: int = 0
    flips: int = 0
    closing: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fail(self, fault: Fault) -> None:
        """Let requests that match `fault` fail from now on."""
        with self._lock:
            self.faults.append(fault)

    def next_fault(self, method: str, path: str) -> Fault | None:
        with self._lock:
            self.requests.append((method, path))
            for fault in self.faults:
                if fault.times > 0 and fault.matches(method, path):
                    fault.times -= 1
                    return fault
            return self.chaos.draw(method, path) if self.chaos else None

    def accepts(self, body: "bytes", digest: str | None) -> bool:
        """Whether a body has the digest that was sent with it."""
        with self._lock:
            self.sent_bytes += len(body)
            self.checked += digest is not None
        return digest is None or b64encode(hashlib.sha256(body).digest()).decode() == digest

    def flipped(self, body: "bytes") -> "bytes":
        """The body with one bit changed; another bit each time, as in real accidents."""
        with self._lock:
            self.flips += 1
            place, bit = self.flips % len(body), self.flips % 8
        changed = bytearray(body)
        changed[place] ^= 1 << bit
        return type(body)(changed)

    def count(self, method: str, part: str = "") -> int:
        """How many requests with this method had `part` in their path."""
        with self._lock:
            return sum(1 for seen, path in self.requests if seen == method and part in path)


@contextlib.contextmanager
def faulty_proxy(host: str, port: int, *, refusing: bool = False) -> Iterator[Proxy]:
    """Run a proxy on a free port in front of the server at `host` and `port`, until the block ends.

    With `refusing`, clients cannot connect until its `open` is called.
    """
    server = _Server(("127.0.0.1", 0), _Handler, bind_and_activate=False)
    server.server_bind()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def begin() -> None:
        server.server_activate()
        thread.start()

    url = f"http://127.0.0.1:{server.server_port}"
    server.proxy = proxy = Proxy(url, (host, port), begin)
    if not refusing:
        proxy.open()
    try:
        yield proxy
    finally:
        proxy.closing.set()
        if thread.ident:
            server.shutdown()
            thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    proxy: Proxy


class _Handler(Handler):
    server: _Server

    def handle_one_request(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle_one_request()
            return
        self.close_connection = True

    def do_GET(self) -> None:
        proxy = self.server.proxy
        fault = proxy.next_fault(self.command, self.path)
        body = self._read_body()
        if fault and fault.kind == "flip sent" and body:
            body, fault = proxy.flipped(body), None
        if not proxy.accepts(body, self.headers.get("x-amz-checksum-sha256")):
            self._fail(BAD_DIGEST)
            return
        if proxy.watch:
            proxy.watch(self.command, self.path)
        if fault and not fault.after and fault.kind in {"answer", "reset"}:
            self._fail(fault)
            return
        connection = Connection(*proxy.upstream, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in {"expect", "transfer-encoding", "content-length", "connection"} | proxy.drops:
                    connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            self._answer(connection.getresponse(), fault)
        finally:
            connection.close()

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

    def _read_body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.body()
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _fail(self, fault: Fault) -> None:
        if fault.kind == "reset":
            self._reset()
        else:
            self.send(fault.status, fault.body)

    def _answer(self, answer: http.client.HTTPResponse, fault: Fault | None) -> None:
        body = answer.read()
        if fault and fault.kind in {"answer", "reset"}:
            self._fail(fault)
            return
        if fault and fault.kind == "flip" and answer.status >= HTTP_REFUSED:
            fault = None  # this request is not about an object
        if fault and fault.kind in {"truncate", "stall"} and not body:
            if fault.kind == "stall":
                self.server.proxy.closing.wait()
            self._reset()
            return
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in {"content-length", "transfer-encoding", "connection", "server", "date"}:
                self.send_header(name, value)
        length = answer.getheader("Content-Length", "0") if self.command == "HEAD" else str(len(body))
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self._send_body(body, fault)

    def _send_body(self, body: bytes, fault: Fault | None) -> None:
        if fault is None or not body:
            self.wfile.write(body)
            return
        if fault.kind == "flip":
            self.wfile.write(self.server.proxy.flipped(body))
            return
        self.wfile.write(body[: len(body) // 2 if fault.bytes is None else fault.bytes])
        self.wfile.flush()
        if fault.kind == "stall":
            self.server.proxy.closing.wait()
        self.close_connection = True

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
