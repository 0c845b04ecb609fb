"""What the Hub's answers mean, in sentences a user can act on."""

from collections.abc import Iterator
from contextlib import contextmanager

from enginery.errors import SourceError
from enginery.output import without_sign_in

UNAUTHORIZED, FORBIDDEN, TIMEOUT, TOO_MANY = 401, 403, 408, 429
SERVER_ERRORS = 500


@contextmanager
def translated_errors(repository: str, revision: str, endpoint: str) -> Iterator[None]:
    """Turn what `huggingface_hub` raises inside the block into a `SourceError`."""
    endpoint = without_sign_in(endpoint)
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled  # noqa: PLC0415
    from huggingface_hub.errors import HTTPError as TransportError  # type: ignore[attr-defined]  # noqa: PLC0415

    try:
        yield
    except HfHubHTTPError as error:
        raise _explain(error, repository, revision, endpoint) from error
    except OfflineModeIsEnabled as error:
        remedy = "unset HF_HUB_OFFLINE, or use source.path with a copy on this machine"
        raise SourceError("the Hub is needed, but HF_HUB_OFFLINE is set", subject=repository, remedy=remedy) from error
    except TransportError as error:
        raise _unreachable(error, repository, endpoint) from error
    except HFValidationError as error:
        remedy = "write it as owner/name"
        raise SourceError("is not the name of a repository on the Hub", subject=repository, remedy=remedy) from error


def not_the_hub(repository: str, endpoint: str) -> SourceError:
    """The error for an answer that does not follow the Hub's protocol."""
    return SourceError(
        f"{without_sign_in(endpoint)} answered, but not as a Hub does",
        subject=repository,
        remedy="check HF_ENDPOINT, and the proxy if there is one",
    )


def _unreachable(error: Exception, repository: str, endpoint: str) -> SourceError:
    return SourceError(
        f"the Hub at {endpoint} cannot be reached, or broke off: {without_sign_in(str(error)) or type(error).__name__}",
        subject=repository,
        remedy="check the network, the proxy and HF_ENDPOINT, then run again: what has arrived is kept",
        transient=True,
    )


def _explain(error: Exception, repository: str, revision: str, endpoint: str) -> SourceError:
    from huggingface_hub import errors  # noqa: PLC0415

    match error:
        case errors.GatedRepoError():
            return _gated(error.response.status_code, repository, endpoint)
        case errors.RepositoryNotFoundError():
            return _no_repository(repository, endpoint)
        case errors.RevisionNotFoundError():
            remedy = f"see {endpoint}/{repository}/tree/main for the branches and tags there are"
            return SourceError(
                f"there is no revision {revision!r} in this repository", subject=repository, remedy=remedy
            )
        case errors.EntryNotFoundError():
            return SourceError("a file that the Hub lists is not there", subject=repository, remedy="plan again")
        case errors.DisabledRepoError():
            remedy = "use another repository"
            return SourceError("the Hub has disabled this repository", subject=repository, remedy=remedy)
        case errors.HfHubHTTPError():
            return _by_status(error.response.status_code, repository, endpoint)
    raise error


def _gated(status: int, repository: str, endpoint: str) -> SourceError:
    page = f"{endpoint}/{repository}"
    if status == UNAUTHORIZED:
        return SourceError(
            "this repository is gated, and no token was sent",
            subject=repository,
            remedy=f"accept the licence at {page}, then set HF_TOKEN to a read token of that account",
        )
    return SourceError(
        "this repository is gated, and the token's account has no access to it",
        subject=repository,
        remedy=f"accept the licence at {page} with the account of the token in HF_TOKEN, and wait until it is granted",
    )


def _no_repository(repository: str, endpoint: str) -> SourceError:
    from huggingface_hub import get_token  # noqa: PLC0415

    if get_token() is None:
        return SourceError(
            "there is no such repository, or it is private: without a token the Hub does not tell which",
            subject=repository,
            remedy=f"check the name at {endpoint}/{repository}; if it is private, set HF_TOKEN",
        )
    return SourceError(
        "there is no such repository, or the token in use may not see it: the Hub does not tell which",
        subject=repository,
        remedy=f"check the name at {endpoint}/{repository}, and whose token HF_TOKEN holds",
    )


def _by_status(status: int, repository: str, endpoint: str) -> SourceError:
    if status == UNAUTHORIZED:
        remedy = "make a new read token and set HF_TOKEN, or unset it for public repositories"
        return SourceError("the Hub does not accept the token: wrong or expired", subject=repository, remedy=remedy)
    if status == FORBIDDEN:
        remedy = "use a token that may read this repository"
        return SourceError("the Hub refuses the token's permissions", subject=repository, remedy=remedy)
    passing = status in {TIMEOUT, TOO_MANY} or status >= SERVER_ERRORS
    return SourceError(
        f"the Hub at {endpoint} answered with HTTP status {status}",
        subject=repository,
        remedy="try again in some minutes: what has arrived is kept" if passing else "check HF_ENDPOINT",
        transient=passing,
    )
