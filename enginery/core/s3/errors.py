"""Turns the errors of S3 clients into errors with a remedy, and shows what the server said.

A missing bucket, wrong credentials, a missing permission and a server that cannot be reached each need another remedy,
but boto3 raises the same kind of exception for most of them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from enginery.core.errors import EngineryError, StoreError
from enginery.core.files import DISK_FULL
from enginery.core.late import late
from enginery.core.text import MASK, SIGN_IN, without_sign_in

if TYPE_CHECKING:
    from boto3 import exceptions as boto3_exceptions
    from botocore import exceptions as botocore_exceptions
    from botocore import parsers as botocore_parsers
    from botocore.exceptions import ClientError
    from urllib3 import exceptions as urllib3_exceptions
else:
    boto3_exceptions = late("boto3.exceptions")
    botocore_exceptions = late("botocore.exceptions")
    botocore_parsers = late("botocore.parsers")
    urllib3_exceptions = late("urllib3.exceptions")

SIGN_IN_OPERATIONS = ("AssumeRole", "GetRoleCredentials", "CreateToken", "GetSessionToken", "GetCallerIdentity")
"""How the operations begin with which boto3 gets credentials from STS and from single sign-on."""
NO_PERMISSION = {"403", "AccessDenied", "AccountProblem", "AllAccessDisabled", "UnauthorizedAccess"}
TRANSIENT = {
    "ConditionalRequestConflict", "InternalError", "OperationAborted", "RequestTimeout", "ServiceUnavailable",
    "SlowDown", "Throttling", "ThrottlingException", "TooManyRequests",
}  # fmt: skip
ALTERED = {"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch"}
FAILED_CONDITION = {"412", "PreconditionFailed"}
HTTP_TOO_MANY_REQUESTS = 429
HTTP_SERVER_ERROR = 500
FINAL_SERVER_ERRORS = {501, 505}
"""The server does not know a part of the request. It will not know it later either."""
LONGEST_MESSAGE = 400

NO_CHECKSUMS = (
    "check what the server can do; if it does not know checksums, set AWS_REQUEST_CHECKSUM_CALCULATION and"
    " AWS_RESPONSE_CHECKSUM_VALIDATION to when_required"
)
REFUSALS = (
    (
        ALTERED,
        "the bytes that arrived are not the bytes that were sent",
        "check that nothing changes the file while it is sent, then run it again",
    ),
    ({"NoSuchBucket"}, "bucket {bucket} does not exist{at}", "create it, or correct the address"),
    (
        {"ExpiredToken", "InvalidAccessKeyId", "InvalidClientTokenId", "InvalidToken", "SignatureDoesNotMatch",
         "TokenRefreshRequired"},
        "S3{at} does not accept the credentials ({said})",
        "correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or sign in again",
    ),
    (
        NO_PERMISSION,
        "the credentials are not allowed to do this{at} ({said})",
        "give them access to {subject}, or use others (AWS_PROFILE, AWS_ACCESS_KEY_ID)",
    ),
    (
        {"301", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect"},
        "the bucket is not in the region of this request{at} ({said})",
        "set AWS_DEFAULT_REGION (or AWS_REGION) to the bucket's region{region}",
    ),
    (
        {"NotImplemented", "501"},
        "S3{at} refused: {said}",
        NO_CHECKSUMS,
    ),
    ({"RequestTimeTooSkewed"}, "this machine's clock is wrong, so S3 refuses its requests", "set the clock"),
)  # fmt: skip
"""Error codes that a retry cannot solve, each group with the problem and the remedy."""


class PreconditionFailed(EngineryError):  # noqa: N818  the name S3 gives it
    """A conditional write was refused and wrote nothing: another writer has made or changed the object."""


class Gone(EngineryError):  # noqa: N818  what it is, not that it is wrong
    """An object that was found before is removed or replaced now."""


@contextmanager
def translated_errors(
    subject: object, error_class: type[EngineryError] = StoreError, *, endpoint: str = "", disk: bool = True
) -> Iterator[None]:
    """Turn the errors of S3 clients, and the error of a full disk, into `error_class` with a remedy.

    Args:
        subject: what the messages name, mostly an address.
        error_class: the class of the errors to raise.
        endpoint: the server's URL, for the messages.
        disk: whether a full disk of this machine is turned into `error_class` too.

    Raises:
        PreconditionFailed: when the condition of a conditional write does not hold.
        EngineryError: of `error_class` for all other errors. It is `transient` where a retry can help.
    """
    try:
        yield
    except (  # urllib3's error comes when the connection breaks during a listing
        boto3_exceptions.Boto3Error,
        botocore_exceptions.ClientError,
        botocore_exceptions.BotoCoreError,
        botocore_parsers.ResponseParserError,
        urllib3_exceptions.HTTPError,
    ) as error:
        raise _translated(error, str(subject), error_class, f" at {endpoint}" if endpoint else "") from error
    except OSError as error:
        if not disk or error.errno not in DISK_FULL:
            raise
        remedy = "free some space on the disk, or set ENGINERY_HOME to another one"
        raise error_class("the disk is full", subject=str(subject), remedy=remedy) from error


def error_code(error: "ClientError") -> str:
    """S3's code for the error. The answer to a HEAD request has no body; its code is the HTTP status, such as `404`."""
    return error.response.get("Error", {}).get("Code", "unknown")


def is_denied(error: EngineryError) -> bool:
    """Whether S3 refused permission. Without permission to list, S3 also refuses for objects that do not exist."""
    cause = error.__cause__
    return isinstance(cause, botocore_exceptions.ClientError) and error_code(cause) in NO_PERMISSION


def failed_condition(subject: str) -> PreconditionFailed:
    """The error for a conditional write whose condition does not hold."""
    remedy = "read it again, then decide again"
    return PreconditionFailed("another writer has changed this object", subject=subject, remedy=remedy)


def _translated(error: Exception, subject: str, error_class: type[EngineryError], at: str) -> EngineryError:
    # The error of a managed transfer has the original one as its context.
    cause = error.__context__ if isinstance(error, boto3_exceptions.Boto3Error) else error
    if isinstance(cause, botocore_exceptions.ClientError):
        if error_code(cause) in FAILED_CONDITION:
            return failed_condition(subject)
        problem, remedy, transient = _meaning_of_answer(cause, subject, at)
    elif isinstance(cause, botocore_exceptions.BotoCoreError | urllib3_exceptions.HTTPError):
        problem, remedy, transient = _meaning(cause, at)
    elif isinstance(cause, botocore_parsers.ResponseParserError):
        return not_s3(f"S3{at} gave an answer that cannot be read", subject, error_class)
    else:
        problem, remedy, transient = f"the transfer failed: {error}", "try again", True
    return error_class(problem, subject=subject, remedy=remedy, transient=transient)


def not_s3(problem: str, subject: str, error_class: type[EngineryError]) -> EngineryError:
    """The error for a server that answers, but not as S3 does."""
    remedy = "check that AWS_ENDPOINT_URL is the server's address for S3, not its web page or another service"
    return error_class(problem, subject=subject, remedy=remedy)


def _said(error: "ClientError") -> str:
    """The code of the server's answer, and its message where it says more than the code."""
    code, message = error_code(error), str(error.response.get("Error", {}).get("Message") or "")
    text = " ".join(SIGN_IN.sub(MASK, message).split())[:LONGEST_MESSAGE]
    return f"{code}: {text}" if text and text != code else code


def _meaning_of_answer(error: "ClientError", subject: str, at: str) -> tuple[str, str, bool]:
    """Problem, remedy, and whether the error is transient."""
    code, status = error_code(error), error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    known = {
        "code": code,
        "said": _said(error),
        "subject": subject,
        "at": at,
        "bucket": subject.removeprefix("s3://").split("/")[0],
        "region": _region(error),
    }
    busy = status >= HTTP_SERVER_ERROR and status not in FINAL_SERVER_ERRORS and code != "NotImplemented"
    if code in TRANSIENT or status == HTTP_TOO_MANY_REQUESTS or busy:
        remedy = "try again later; if it continues, ask the people who run the server"
        return f"S3{at} cannot answer just now ({known['said']})", remedy, True
    if code == "404" and not error.operation_name.startswith("Head"):  # a complete answer has a code such as NoSuchKey
        return _broken_off(error, at)
    if error.operation_name.startswith(SIGN_IN_OPERATIONS):
        problem = f"there are no credentials for S3{at}: {error.operation_name} was refused ({known['said']})"
        return problem, "correct the profile in ~/.aws/config, or sign in again", False
    for codes, problem, remedy in REFUSALS:
        if code in codes:
            return problem.format_map(known), remedy.format_map(known), False
    return f"S3{at} refused: {known['said']}", "check the address and what the server can do", False


def _region(error: "ClientError") -> str:
    """The region that the server wants, for the end of a remedy; empty when its answer does not name it."""
    answer: Any = error.response
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    region = answer.get("Error", {}).get("Region") or headers.get("x-amz-bucket-region")
    return f", {region}" if region else ""


def _meaning(error: Exception, at: str) -> tuple[str, str, bool]:  # noqa: PLR0911  one for each kind
    """Problem, remedy, and whether the error is transient, for an error without an answer from the server."""
    kinds = botocore_exceptions
    if isinstance(error, kinds.NoCredentialsError | kinds.PartialCredentialsError):
        remedy = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        return f"there are no credentials for S3{at}", remedy, False
    if isinstance(error, kinds.SSOError | kinds.TokenRetrievalError | kinds.CredentialRetrievalError):
        remedy = "sign in again (`aws sso login`), or correct the profile in ~/.aws/config"
        return f"there are no credentials for S3{at}: {error}", remedy, False
    if isinstance(error, kinds.SSLError) and _is_missing_file(error):
        remedy = "correct AWS_CA_BUNDLE, REQUESTS_CA_BUNDLE or ca_bundle in ~/.aws/config"
        return f"the CA bundle for S3{at} cannot be read", remedy, False
    if isinstance(error, kinds.SSLError):
        remedy = "check the server's certificate, or set AWS_CA_BUNDLE to the authority that signed it"
        return f"no trusted connection to S3{at}: {without_sign_in(str(error))}", remedy, False
    if isinstance(error, kinds.ConnectionError):
        return (
            f"S3{at} cannot be reached",
            "check that it runs and that AWS_ENDPOINT_URL is right, then try again",
            True,
        )
    if isinstance(error, kinds.HTTPClientError | kinds.IncompleteReadError | urllib3_exceptions.HTTPError):
        return _broken_off(error, at)
    if isinstance(error, kinds.FlexibleChecksumError):
        return "was altered on its way", "try again", True
    return f"S3 cannot be used: {without_sign_in(str(error))}", "check the AWS settings", False


def _is_missing_file(error: Any) -> bool:
    """Whether there is no connection because the file with the trusted certificates is missing."""
    return any(isinstance(cause, FileNotFoundError) for cause in getattr(error.kwargs.get("error"), "args", ()))


def _broken_off(error: Exception, at: str) -> tuple[str, str, bool]:
    return f"the connection to S3{at} broke off ({type(error).__name__})", "try again", True
