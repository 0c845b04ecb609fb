"""The errors of S3's clients, turned into errors with a remedy.

A missing bucket, refused credentials, a missing permission and a server that cannot be reached need four different
remedies; boto3 raises all of them as one kind of exception.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from enginery.core.errors import EngineryError, StoreError
from enginery.core.files import DISK_FULL
from enginery.core.late import late
from enginery.core.text import without_sign_in

if TYPE_CHECKING:
    import botocore
    from boto3 import exceptions as boto3_exceptions
    from botocore import exceptions as botocore_exceptions
    from botocore.exceptions import BotoCoreError, ClientError
    from urllib3 import exceptions as urllib3_exceptions
else:
    boto3_exceptions = late("boto3.exceptions")
    botocore = late("botocore")
    botocore_exceptions = late("botocore.exceptions")
    urllib3_exceptions = late("urllib3.exceptions")

WRONG_CREDENTIALS = {
    "ExpiredToken", "InvalidAccessKeyId", "InvalidClientTokenId", "InvalidToken", "SignatureDoesNotMatch",
    "TokenRefreshRequired",
}  # fmt: skip
NO_PERMISSION = {"403", "AccessDenied", "AccountProblem", "AllAccessDisabled", "UnauthorizedAccess"}
WRONG_REGION = {"301", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect"}
PASSING = {
    "ConditionalRequestConflict", "InternalError", "OperationAborted", "RequestTimeout", "ServiceUnavailable",
    "SlowDown", "Throttling", "ThrottlingException", "TooManyRequests",
}  # fmt: skip
ALTERED = {"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch"}
FAILED_CONDITION = {"412", "PreconditionFailed"}
HTTP_TOO_MANY_REQUESTS = 429
HTTP_SERVER_ERROR = 500


class PreconditionFailed(EngineryError):  # noqa: N818  the name S3 gives it
    """The object was there already, or is not the one the write was meant to replace; nothing was written."""


class Gone(EngineryError):  # noqa: N818  what it is, not that it is wrong
    """An object that was found is not there any more, or was replaced by another one."""


@contextmanager
def translated_errors(
    subject: object, error_class: type[EngineryError] = StoreError, *, endpoint: str = ""
) -> Iterator[None]:
    """Turn the errors of S3's client, and that of a full disk, into `error_class`, with a remedy for each.

    Args:
        subject: what the work is about, mostly an address.
        error_class: the error to raise.
        endpoint: the server's URL, for the messages.

    Raises:
        PreconditionFailed: when a conditional write found another object than it asked for.
        EngineryError: of `error_class` for all else; `transient` where trying again can help.
    """
    try:
        with translated_answers(subject, error_class, endpoint=endpoint):
            yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        remedy = "free some space on the disk, or set ENGINERY_HOME to another one"
        raise error_class("the disk is full", subject=str(subject), remedy=remedy) from error


@contextmanager
def translated_answers(
    subject: object, error_class: type[EngineryError] = StoreError, *, endpoint: str = ""
) -> Iterator[None]:
    """Like `translated_errors`, without errors of this machine's files, which have another subject."""
    at = f" at {endpoint}" if endpoint else ""
    try:
        yield
    except boto3_exceptions.Boto3Error as error:  # of a managed transfer; its context is the original error
        raise _from_transfer(error, str(subject), error_class, at) from error
    except botocore_exceptions.ClientError as error:
        raise _from_answer(error, str(subject), error_class, at) from error
    except botocore_exceptions.BotoCoreError as error:
        raise _from_client(error, str(subject), error_class, at) from error
    except urllib3_exceptions.HTTPError as error:  # boto3 lets it through when a listing breaks off
        raise _broken_off(error, str(subject), error_class, at) from error


def answer_code(error: "ClientError") -> str:
    """S3's name for the error; the HTTP status where the answer had no body, as to a HEAD request."""
    return error.response.get("Error", {}).get("Code", "unknown")


def is_denied(error: EngineryError) -> bool:
    """Whether S3 refused permission; without permission to list, also for an object that does not exist."""
    return (
        isinstance(error.__cause__, botocore_exceptions.ClientError) and answer_code(error.__cause__) in NO_PERMISSION
    )


def failed_condition(subject: str) -> PreconditionFailed:
    """The error for a conditional write that found another object than it asked for."""
    remedy = "read it again and decide anew"
    return PreconditionFailed("another object is there than was expected", subject=subject, remedy=remedy)


def _from_transfer(error: Exception, subject: str, error_class: type[EngineryError], at: str) -> EngineryError:
    if isinstance(error.__context__, botocore_exceptions.ClientError):
        return _from_answer(error.__context__, subject, error_class, at)
    if isinstance(error.__context__, botocore_exceptions.BotoCoreError):
        return _from_client(error.__context__, subject, error_class, at)
    return error_class(f"the transfer failed: {error}", subject=subject, remedy="try again", transient=True)


def _from_answer(error: "ClientError", subject: str, error_class: type[EngineryError], at: str) -> EngineryError:
    code, status = answer_code(error), error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in FAILED_CONDITION:
        return failed_condition(subject)
    if code in PASSING or status == HTTP_TOO_MANY_REQUESTS or status >= HTTP_SERVER_ERROR:
        problem = f"S3{at} cannot answer just now ({code})"
        remedy = "try again later; should it go on, ask who runs it"
        return error_class(problem, subject=subject, remedy=remedy, transient=True)
    if code == "404" and not error.operation_name.startswith("Head"):  # a complete answer would name what is missing
        return _broken_off(error, subject, error_class, at)
    if code in ALTERED:
        return error_class(
            "the bytes that arrived are not those that were meant to be sent",
            subject=subject,
            remedy="check that nothing changes the file while it is sent, then run it again",
        )
    problem, remedy = _refusal(code, error, subject, at)
    return error_class(problem, subject=subject, remedy=remedy)


def _refusal(code: str, error: "ClientError", subject: str, at: str) -> tuple[str, str]:
    if code == "NoSuchBucket":
        bucket = subject.removeprefix("s3://").split("/")[0]
        return f"bucket {bucket} does not exist{at}", "create it, or correct the address"
    if code in WRONG_CREDENTIALS:
        problem = f"S3{at} does not accept the credentials ({code})"
        return problem, "correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or sign in again"
    if code in NO_PERMISSION:
        problem = f"the credentials are not allowed to do this{at} ({code})"
        return problem, f"let them use {subject}, or take others (AWS_PROFILE, AWS_ACCESS_KEY_ID)"
    if code in WRONG_REGION:
        return f"the bucket is not in the region that was asked ({code})", "set AWS_REGION to the bucket's region"
    if code == "RequestTimeTooSkewed":
        return "this machine's clock is wrong, so S3 refuses its requests", "set the clock"
    message = error.response.get("Error", {}).get("Message", "no message")
    return f"S3{at} refused: {code}: {message}", "check the address and what the server can do"


def _from_client(error: "BotoCoreError", subject: str, error_class: type[EngineryError], at: str) -> EngineryError:
    if isinstance(error, botocore.exceptions.NoCredentialsError | botocore.exceptions.PartialCredentialsError):
        remedy = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        return error_class(f"there are no credentials for S3{at}", subject=subject, remedy=remedy)
    if isinstance(error, botocore.exceptions.SSLError):
        remedy = "check the server's certificate, or set AWS_CA_BUNDLE to the authority that signed it"
        return error_class(
            f"no trusted connection to S3{at}: {without_sign_in(str(error))}", subject=subject, remedy=remedy
        )
    if isinstance(error, botocore.exceptions.ConnectionError):
        remedy = "check that it runs and that AWS_ENDPOINT_URL is right, then try again"
        return error_class(f"S3{at} cannot be reached", subject=subject, remedy=remedy, transient=True)
    if isinstance(error, botocore.exceptions.HTTPClientError | botocore.exceptions.IncompleteReadError):
        return _broken_off(error, subject, error_class, at)
    if isinstance(error, botocore.exceptions.FlexibleChecksumError):
        return error_class("was altered on its way", subject=subject, remedy="try again", transient=True)
    return error_class(
        f"S3 cannot be used: {without_sign_in(str(error))}", subject=subject, remedy="check the AWS settings"
    )


def _broken_off(error: Exception, subject: str, error_class: type[EngineryError], at: str) -> EngineryError:
    problem = f"the connection to S3{at} broke off ({type(error).__name__})"
    return error_class(problem, subject=subject, remedy="try again", transient=True)
