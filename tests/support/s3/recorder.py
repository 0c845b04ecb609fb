"""A server in front of a real S3 API that notes every request. It is also an HTTP proxy, and can use TLS.

The TLS certificate is signed by an authority that is made for the test, so no client trusts it by itself.
"""

import datetime as dt
import http.client
import ipaddress
import re
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.http.serving import Handler

HOP = {"connection", "transfer-encoding", "content-length", "date", "server"}
Answer = tuple[int, bytes, Mapping[str, str]]


@dataclass(frozen=True)
class Request:
    """A request as it arrived; the names of its headers are in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]

    @property
    def by_boto3(self) -> bool:
        """Whether boto3 sent it, and not the second client."""
        return "Boto3/" in self.headers.get("user-agent", "")

    @property
    def region(self) -> str:
        """The region of the signature."""
        found = re.search(r"Credential=[^/]+/\d+/([^/]+)/", self.headers.get("authorization", ""))
        return found[1] if found else ""

    @property
    def key_id(self) -> str:
        """The access key of the signature."""
        found = re.search(r"Credential=([^/]+)/", self.headers.get("authorization", ""))
        return found[1] if found else ""


@dataclass
class Recorder:
    """A running server.

    Attributes:
        url: its address.
        requests: every request, in order.
        answer: may give the answer to a request in place of the real server.
    """

    host: str
    port: int
    url: str = ""
    requests: list[Request] = field(default_factory=list)
    answer: Callable[[Request], Answer | None] = lambda _: None

    def by_each_client(self) -> tuple[list[Request], list[Request]]:
        """The requests of boto3, and those of the second client."""
        by_boto3 = [request for request in self.requests if request.by_boto3]
        return by_boto3, [request for request in self.requests if not request.by_boto3]


class _Handler(Handler):
    recorder: Recorder

    def _pass_on(self) -> None:
        body = self.body()
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, self.path, headers)
        self.recorder.requests.append(request)
        status, data, answered = self.recorder.answer(request) or self._ask(headers, body)
        self.head(
            status, int(answered.get("Content-Length", len(data))) if self.command == "HEAD" else len(data), answered
        )
        if self.command != "HEAD":
            self.wfile.write(data)

    def _ask(self, headers: Mapping[str, str], body: bytes) -> Answer:
        upstream = http.client.HTTPConnection(self.recorder.host, self.recorder.port)
        parts = urlsplit(self.path)
        target = self.path.removeprefix(f"{parts.scheme}://{parts.netloc}") if parts.netloc else self.path
        upstream.putrequest(self.command, target, skip_accept_encoding=True)
        for name, value in {**headers, "content-length": str(len(body))}.items():
            if name not in {"connection", "expect", "host", "transfer-encoding"}:
                upstream.putheader(name, value)
        upstream.endheaders(body)
        answer = upstream.getresponse()
        data = answer.read()
        kept: dict[str, str] = {name: value for name, value in answer.getheaders() if name.lower() not in HOP}
        if self.command == "HEAD" and (length := answer.getheader("Content-Length")):
            kept["Content-Length"] = length
        upstream.close()
        return answer.status, data, kept

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _pass_on


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: tests let clients break off, such as at an unknown certificate."""


@contextmanager
def recording(host: str, port: int, tls: ssl.SSLContext | None = None) -> Iterator[Recorder]:
    """Run a recorder in front of the server at `host` and `port` until the block ends."""
    recorder = Recorder(host, port)
    server = _Server(("127.0.0.1", 0), type("Recording", (_Handler,), {"recorder": recorder}))
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    recorder.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield recorder
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def an_authority(directory: Path) -> tuple[Path, ssl.SSLContext]:
    """The certificate of a new authority, and what a server at 127.0.0.1 needs that this authority vouches for."""
    key, name = ec.generate_private_key(ec.SECP256R1()), _name("Test authority")
    authority = _certificate(name, name, key, key).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    own = ec.generate_private_key(ec.SECP256R1())
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = _certificate(_name("127.0.0.1"), name, own, key).add_extension(address, critical=False)
    bundle, chain = directory / "authority.pem", directory / "server.pem"
    bundle.write_bytes(authority.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    private = own.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    chain.write_bytes(private + certificate.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    return bundle, context


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _certificate(
    subject: x509.Name, issuer: x509.Name, own: ec.EllipticCurvePrivateKey, signer: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(own.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(identifier, critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(own.public_key()), critical=False)
    )
