"""What the Hub's answers mean: each error of `huggingface_hub` becomes one sentence and a remedy."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from enginery.core.errors import SourceError
from enginery.core.late import late
from enginery.core.text import without_sign_in
from enginery.sources.rate_limits import AskedToWaitError, asked_seconds, duration, limit_in

huggingface_hub: Any = late("huggingface_hub")
huggingface_hub_errors: Any = late("huggingface_hub.errors")
"""Not typed: the library does not export all the names that this file uses."""

UNAUTHORIZED, FORBIDDEN, NOT_FOUND, TIMEOUT, TOO_MANY = 401, 403, 404, 408, 429
SERVER_ERRORS, NOT_IMPLEMENTED = 500, 501
GONE_AWAY = frozenset({400, UNAUTHORIZED, FORBIDDEN, NOT_FOUND, 410})
"""The statuses with which storage servers refuse a signed address that has expired."""
COMMIT_DIGITS = 40
UNTRUSTED = "CERTIFICATE_VERIFY_FAILED"
NOT_ACCEPTED = "Invalid credentials"
SIGNED_IN, ANONYMOUS = "a token", "no token"


class Refusal(NamedTuple):
    """A kind of answer: it holds when the exception is of the kind, and all the states are true."""

    kind: str
    states: frozenset[object]
    problem: str
    remedy: str


def _refusal(kind: str, *states: object, problem: str, remedy: str) -> Refusal:
    return Refusal(kind, frozenset(states), problem, remedy)


REFUSALS = (
    _refusal("GatedRepoError", UNAUTHORIZED, problem="this repository is gated, and no token was sent",
             remedy="accept the licence at {page}, then set HF_TOKEN to a read token of that account"),
    _refusal("GatedRepoError", problem="this repository is gated, and the token's account has no access to it",
             remedy="accept the licence at {page} with the account of the token in HF_TOKEN, and wait until it is "
                    "granted"),
    _refusal("RepositoryNotFoundError", ANONYMOUS,
             problem="there is no such repository, or it is private: without a token the Hub does not tell which",
             remedy="check the name at {page}; if it is private, set HF_TOKEN"),
    _refusal("RepositoryNotFoundError", SIGNED_IN,
             problem="there is no such repository, or the token in use may not see it: the Hub does not tell which",
             remedy="check the name at {page}, and whose token HF_TOKEN holds"),
    _refusal("RevisionNotFoundError", problem="there is no revision {revision!r} in this repository",
             remedy="see {page}/tree/main for the branches and tags there are{hint}"),
    _refusal("EntryNotFoundError", problem="a file that the Hub lists is not there", remedy="plan again"),
    _refusal("DisabledRepoError", problem="the Hub has disabled this repository", remedy="use another repository"),
    _refusal("HfHubHTTPError", UNAUTHORIZED, ANONYMOUS,
             problem="the Hub at {endpoint} wants a token (HTTP status 401), and none is set",
             remedy="set HF_TOKEN to a read token of this server"),
    _refusal("HfHubHTTPError", UNAUTHORIZED, problem="the Hub does not accept the token: wrong or expired",
             remedy="make a new read token and set HF_TOKEN, or unset it for public repositories"),
    _refusal("HfHubHTTPError", FORBIDDEN, problem="the Hub refuses the token's permissions",
             remedy="use a token that may read this repository"),
    _refusal("HfHubHTTPError", NOT_FOUND,
             problem="the Hub at {endpoint} answered with HTTP status 404: it has no such repository or revision, or "
                     "it is not a Hub",
             remedy="check the name, and HF_ENDPOINT if it is set"),
)  # fmt: skip
"""The first one that holds is used."""


@contextmanager
def translated_errors(repository: str, revision: str, endpoint: str) -> Iterator[None]:
    """Turn the exceptions that the Hub's client raises inside the block into a `SourceError`."""
    endpoint = without_sign_in(endpoint)
    try:
        yield
    except huggingface_hub_errors.HfHubHTTPError as error:
        raise explain(error, repository, revision, endpoint) from error
    except huggingface_hub_errors.OfflineModeIsEnabled as error:
        remedy = "unset HF_HUB_OFFLINE, or use source.path with a copy on this machine"
        raise SourceError("the Hub is needed, but HF_HUB_OFFLINE is set", subject=repository, remedy=remedy) from error
    except huggingface_hub_errors.HTTPError as error:
        raise _unreachable(error, repository, endpoint) from error
    except huggingface_hub_errors.HFValidationError as error:
        raise not_a_name(repository) from error
    except _invalid_url() as error:
        problem = f"an address that belongs to the Hub at {endpoint} cannot be used: {error}"
        raise SourceError(problem, subject=repository, remedy="check HF_ENDPOINT and the proxy") from error


def _unreachable(error: Exception, repository: str, endpoint: str) -> SourceError:
    reason = without_sign_in(str(error)) or type(error).__name__
    problem = f"the Hub at {endpoint} cannot be reached, or broke off: {reason}"
    if UNTRUSTED in reason:
        remedy = "if a proxy or a mirror of yours signs with its own certificate, set SSL_CERT_FILE to that certificate"
        return SourceError(problem, subject=repository, remedy=remedy)
    remedy = "check the network, the proxy and HF_ENDPOINT, then run again: what has arrived is kept"
    return SourceError(problem, subject=repository, remedy=remedy, transient=True)


def _invalid_url() -> type[Exception]:
    """The class for addresses that cannot be read. It belongs to the HTTP client, which depends on the release."""
    found: type[Exception] = import_module(huggingface_hub_errors.HTTPError.__module__).InvalidURL
    return found


def not_a_name(repository: str) -> SourceError:
    """The error for a text that cannot be a repository's name."""
    remedy = "write source.huggingface as owner/name"
    return SourceError("is not the name of a repository on the Hub", subject=repository, remedy=remedy)


def not_the_hub(repository: str, endpoint: str, found: str = "") -> SourceError:
    """The error for an answer that does not follow the Hub's protocol. `found` says what came instead."""
    came = f": {found}" if found else ""
    return SourceError(
        f"{without_sign_in(endpoint)} answered, but not as a Hub does{came}",
        subject=repository,
        remedy="check HF_ENDPOINT, and the proxy if there is one",
    )


def refuse_page(response: Any, repository: str, endpoint: str, name: str = "") -> None:
    """Refuse a web page in place of JSON or of a file, such as the page where a proxy asks people to sign in.

    Raises:
        SourceError: when the answer is a page.
    """
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind in {"text/html", "application/xhtml+xml"} and not name.endswith((".html", ".htm")):
        what = f"a web page from {response.url.host}" + (f" in place of {name}" if name else "")
        raise not_the_hub(repository, endpoint, what)


def explain(error: Any, repository: str, revision: str, endpoint: str) -> SourceError:
    """The error for an HTTP answer with an error status."""
    response, status = error.response, error.response.status_code
    if is_elsewhere(response, endpoint) and status in GONE_AWAY:
        return _refused_elsewhere(response, repository)
    says = response.headers.get("X-Error-Message", "")
    states = {status, SIGNED_IN if huggingface_hub.get_token() or NOT_ACCEPTED in says else ANONYMOUS}
    hint = f"; a commit has {COMMIT_DIGITS} digits" if _is_short_commit(revision) else ""
    for refusal in REFUSALS:
        if refusal.states <= states and isinstance(error, getattr(huggingface_hub_errors, refusal.kind)):
            page = f"{endpoint}/{repository}"
            words = {"revision": revision, "page": page, "endpoint": endpoint, "hint": hint}
            return SourceError(
                refusal.problem.format(**words), subject=repository, remedy=refusal.remedy.format(**words)
            )
    return _busy_or_wrong(response, repository, endpoint)


def is_elsewhere(response: Any, endpoint: str) -> bool:
    """Whether a redirect led to another server. The token is not sent there."""
    there, here = response.url, urlsplit(endpoint)
    default = {"http": 80, "https": 443}.get(here.scheme)
    port = None if here.port == default else here.port
    return bool(response.history) and (there.host, there.port) != (here.hostname, port)


def _is_short_commit(revision: str) -> bool:
    return len(revision) < COMMIT_DIGITS and not revision.strip("0123456789abcdefABCDEF") and bool(revision)


def _refused_elsewhere(response: Any, repository: str) -> SourceError:
    """Transient: the Hub signs a new address for each request, and an old one expires."""
    host, status = response.url.host, response.status_code
    without = "; the token is not sent there" if status == UNAUTHORIZED else ""
    return SourceError(
        f"{host}, to which the Hub redirects, refused the request (HTTP status {status}{without})",
        subject=repository,
        remedy=f"check that the proxy lets requests to {host} through, then run again: what has arrived is kept",
        transient=True,
    )


def _busy_or_wrong(response: Any, repository: str, endpoint: str) -> SourceError:
    status = response.status_code
    transient = status in {TIMEOUT, TOO_MANY} or (status >= SERVER_ERRORS and status != NOT_IMPLEMENTED)
    elsewhere = is_elsewhere(response, endpoint)
    server = f"{response.url.host}, to which the Hub redirects," if elsewhere else f"the Hub at {endpoint}"
    counted = f": too many requests ({limit_in(response.headers) or _counted(response, endpoint)})"
    reason = f"HTTP status {status}{counted if status == TOO_MANY else ''}"
    problem = f"{server} answered with {reason}"
    if not transient:
        return SourceError(problem, subject=repository, remedy="check HF_ENDPOINT")
    remedies, seconds = ["what has arrived is kept", *_sign_in_hint(status)], asked_seconds(response.headers)
    if seconds is None:
        remedy = "; ".join(["try again in some minutes", *remedies])
        return SourceError(problem, subject=repository, remedy=remedy, transient=True)
    asker = response.url.host if elsewhere else "the Hub"
    waiting = [f"waiting {duration(seconds)}, as {asker} asked ({reason})", *remedies[1:], "Ctrl-C stops"]
    return AskedToWaitError(
        f"{problem}; it asks to wait {duration(seconds)}",
        subject=repository,
        remedy="; ".join(remedies),
        seconds=seconds,
        waiting="; ".join(waiting),
    )


def _counted(response: Any, endpoint: str) -> str:
    """What the limit counts, when the answer does not say it."""
    if is_elsewhere(response, endpoint):
        return "downloads"
    return "requests to its API" if "/api/" in response.url.path else "requests for files"


def _sign_in_hint(status: int) -> Sequence[str]:
    if status != TOO_MANY or huggingface_hub.get_token():
        return ()
    return ("set HF_TOKEN: the Hub allows more requests when signed in",)
