"""Requests to the Hub, or to a mirror of it: where it is, what is sent, and how its answers about files are read.

`huggingface_hub` gives the client, the token and the headers. The client follows redirects, and sends the token only to
the server of `HF_ENDPOINT`.
"""

import os
import re
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

from enginery.core.errors import SourceError
from enginery.core.late import late
from enginery.core.text import without_sign_in
from enginery.sources.hub_errors import not_a_name, not_the_hub, refuse_page, translated_errors

constants: Any = late("huggingface_hub.constants")
huggingface_hub: Any = late("huggingface_hub")
huggingface_hub_errors: Any = late("huggingface_hub.errors")
huggingface_hub_utils: Any = late("huggingface_hub.utils")
"""Not typed: the library does not export all the names that this file uses."""

OK, PARTIAL_CONTENT, RANGE_NOT_SATISFIABLE = 200, 206, 416
HEAD_REFUSED = frozenset({400, 403, 404, 405, 501})
"""The statuses of servers that answer GET only. Some storage servers sign an address for GET only."""
SHA256 = re.compile(r"[0-9a-f]{64}")
CONTENT_RANGE = re.compile(r"bytes\s+(?:(\d+)-\d+|\*)/(\d+|\*)")
NUMBERS = ("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT")
CA_SETTINGS = ("SSL_CERT_FILE", "SSL_CERT_DIR")
"""What the client itself obeys."""
CA_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""What older releases of `huggingface_hub` obeyed."""
MOST_REDIRECTS = 10

_certificates = threading.Lock()


class Answer(NamedTuple):
    """What the Hub says about a file, without its content.

    Attributes:
        size: bytes; None if it is not said.
        sha256: the digest of the content; None if it is not said.
        commit: the commit that the file was taken from; None if it is not said.
    """

    size: int | None = None
    sha256: str | None = None
    commit: str | None = None


def endpoint() -> str:
    """The Hub's address: `HF_ENDPOINT`, or the public one.

    Raises:
        SourceError: when `HF_ENDPOINT` is not a web address, or another setting of the Hub's client cannot be read.
    """
    for name in NUMBERS:
        value = os.environ.get(name)
        if value and not value.strip().isdecimal():
            raise SourceError("is not a number of seconds", subject=f"{name}={value}", remedy="correct it, or unset it")
    written = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).strip()
    address = written.rstrip("/")
    if not address.startswith(("http://", "https://")) or not _has_host(address):
        remedy = "set it to an address such as https://hub.example.com, or unset it"
        shown = without_sign_in(address)
        raise SourceError("is not a web address", subject=f"HF_ENDPOINT={shown}", remedy=remedy)
    return address


def _has_host(address: str) -> bool:
    try:
        parts = urlsplit(address)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # such as a port that is no number
        return False


def headers(**more: str) -> dict[str, str]:
    """The headers of a request, with the user's token if there is one.

    Raises:
        SourceError: when the token has characters that no header can have.
    """
    try:
        token = huggingface_hub.get_token() or ""
    except (OSError, ValueError) as error:
        problem = f"the token cannot be read: {error}"
        raise SourceError(problem, subject="HF_TOKEN_PATH", remedy="correct the file, or set HF_TOKEN") from error
    if not (token.isascii() and token.isprintable() and " " not in token):
        problem = "the token has characters that no token has, such as a space or a line break"
        raise SourceError(problem, subject="HF_TOKEN", remedy="copy the token again")
    built: dict[str, str] = huggingface_hub_utils.build_hf_headers(library_name="enginery")
    return {**built, **more}


def session() -> Any:
    """The client of `huggingface_hub`, which all requests share.

    Raises:
        SourceError: when the settings of the proxy or of the certificates cannot be used.
    """
    try:
        if not any(map(os.environ.get, CA_SETTINGS)):
            with _certificates:
                _use_certificates(next(filter(None, map(os.environ.get, CA_BUNDLES)), ""))
        return huggingface_hub.get_session()
    except (OSError, ValueError, ImportError) as error:  # ImportError: a SOCKS proxy needs one more package
        problem = f"the settings of the proxy or of the certificates cannot be used: {without_sign_in(str(error))}"
        remedy = "check HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY, SSL_CERT_FILE and REQUESTS_CA_BUNDLE"
        raise SourceError(problem, subject="environment", remedy=remedy) from error


@cache
def _use_certificates(bundle: str) -> None:
    """Let the client trust the certificates in this file or directory. If it is empty, leave the client as it is."""
    if not bundle:
        return
    is_directory = Path(bundle).is_dir()
    trusted = ssl.create_default_context(
        cafile=None if is_directory else bundle, capath=bundle if is_directory else None
    )
    client = type(huggingface_hub.get_session())

    def factory() -> Any:
        return client(event_hooks={"request": [_refuse_offline]}, follow_redirects=True, timeout=None, verify=trusted)

    huggingface_hub.set_client_factory(factory)


def _refuse_offline(_request: object) -> None:
    if constants.HF_HUB_OFFLINE:
        raise huggingface_hub_errors.OfflineModeIsEnabled("HF_HUB_OFFLINE is set")


def api_address(repository: str, *more: str) -> str:
    """The address of the Hub's API for a model.

    Raises:
        SourceError: when no repository can have this name.
    """
    try:
        huggingface_hub_utils.validate_repo_id(repository)
    except huggingface_hub_errors.HFValidationError as error:
        raise not_a_name(repository) from error
    return "/".join([endpoint(), "api/models", repository, *(quote(part, safe="") for part in more)])


def get_json(repository: str, revision: str, address: str, **parameters: str) -> tuple[Any, Any]:
    """The JSON content of an answer of the API, and the answer itself.

    Raises:
        SourceError: when the request fails, or the answer is not JSON.
    """
    with translated_errors(repository, revision, endpoint()):
        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        response = session().get(
            address, headers=headers(), timeout=timeout, params=parameters or None, follow_redirects=True
        )
        huggingface_hub_utils.hf_raise_for_status(response)
    refuse_page(response, repository, endpoint())
    try:
        return response.json(), response
    except ValueError as error:
        raise not_the_hub(repository, endpoint(), f"no JSON from {response.url.host}") from error


def file_address(repository: str, revision: str, name: str) -> str:
    """The address of a file."""
    address: str = huggingface_hub.hf_hub_url(repository, name, revision=revision, endpoint=endpoint())
    return address


@contextmanager
def opened(repository: str, revision: str, name: str, **more: str) -> Iterator[Any]:
    """The answer to a request for a file. Its content is not read yet. An error status is left to the caller.

    Raises:
        SourceError: when the request fails, or a web page comes in place of the file.
    """
    with translated_errors(repository, revision, endpoint()):
        address = file_address(repository, revision, name)
        sent = headers(**{"Accept-Encoding": "identity"}, **more)
        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        with session().stream("GET", address, headers=sent, timeout=timeout, follow_redirects=True) as response:
            if response.status_code != RANGE_NOT_SATISFIABLE:
                huggingface_hub_utils.hf_raise_for_status(response)
                refuse_page(response, repository, endpoint(), name)
            yield response


def ask_about(repository: str, revision: str, name: str) -> Answer:
    """Ask about a file. That the Hub answers proves that the user may read it.

    Raises:
        SourceError: when the user may not read it, or the request fails.
    """
    with translated_errors(repository, revision, endpoint()):
        answers = _head(file_address(repository, revision, name))
        if answers[-1].status_code not in HEAD_REFUSED or _is_refused_by_the_hub(answers):
            huggingface_hub_utils.hf_raise_for_status(answers[-1])
        refuse_page(answers[-1], repository, endpoint(), name)
    found = _read(answers)
    if found.size is not None:
        return found
    with opened(repository, revision, name, Range="bytes=0-0") as response:
        return Answer(total_size(response), _digest([*response.history, response]) or found.sha256, found.commit)


def _head(address: str) -> list[Any]:
    """The answers to HEAD requests along the redirects. They end where the Hub has described the file."""
    timeout = constants.HF_HUB_ETAG_TIMEOUT
    client, sent = session(), headers(**{"Accept-Encoding": "identity"})
    answers = [client.request("HEAD", address, headers=sent, timeout=timeout, follow_redirects=False)]
    # Only somebody with access gets `X-Linked-Size`. Any other redirect proves nothing: the repository may be renamed.
    while (step := answers[-1].next_request) and "X-Linked-Size" not in answers[-1].headers:
        if len(answers) > MOST_REDIRECTS:
            break
        answer = client.send(step, follow_redirects=False)
        answer.history = list(answers)
        answers.append(answer)
    return answers


def _is_refused_by_the_hub(answers: list[Any]) -> bool:
    """Whether the refusal is the Hub's own, with one of its error codes: then GET would be refused too."""
    last = answers[-1]
    return "X-Error-Code" in last.headers or "X-Error-Message" in last.headers


def _read(answers: list[Any]) -> Answer:
    """What the answers along the redirects say about a file."""
    linked = next((_number(answer.headers["X-Linked-Size"]) for answer in answers if _has_size(answer)), None)
    size = linked if linked is not None else _content_length(answers[-1])
    commit = next((answer.headers["X-Repo-Commit"] for answer in answers if "X-Repo-Commit" in answer.headers), None)
    return Answer(size or None, _digest(answers), commit)  # some servers answer every HEAD with a length of 0


def _has_size(answer: Any) -> bool:
    return "X-Linked-Size" in answer.headers


def _content_length(answer: Any) -> int | None:
    """The length of the whole content; None for redirects, errors and compressed content."""
    whole = answer.status_code == OK and not is_compressed(answer)
    return _number(answer.headers.get("Content-Length", "")) if whole else None


def is_compressed(answer: Any) -> bool:
    """Whether the content is sent compressed, although it was asked for as it is."""
    return answer.headers.get("Content-Encoding", "identity").strip().lower() not in {"", "identity"}


def total_size(answer: Any) -> int | None:
    """The size of the whole file, from the answer to a request for it or for a part of it; None if it is not said."""
    if answer.status_code in {PARTIAL_CONTENT, RANGE_NOT_SATISFIABLE}:
        found = CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", "").strip())
        return int(found[2]) if found and found[2] != "*" else None
    return _content_length(answer)


def range_start(answer: Any) -> int | None:
    """The first byte of a partial answer; None if it is not said."""
    found = CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", "").strip())
    return int(found[1]) if found and found[1] else None


def _digest(answers: list[Any]) -> str | None:
    """The SHA-256 of the content, if a server of the Hub's protocol says it."""
    for answer in answers:
        said: Mapping[str, str] = answer.headers
        for name in ("X-Linked-Etag", "X-Checksum-Sha256"):
            tag = said.get(name, "").removeprefix("W/").strip('"').lower()
            if SHA256.fullmatch(tag) and tag != said.get("X-Xet-Hash"):
                return tag
    return None


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < len(str(2**63)) else None
