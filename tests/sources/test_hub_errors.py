"""Tests of the error messages for answers of the Hub."""

import httpx2
import pytest
from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]

from enginery.core.errors import SourceError
from enginery.sources.hub_errors import not_the_hub, translated_errors

HUB = "https://hub.example.com"


def error_of(status: int, **headers: str) -> SourceError:
    """The error message for this answer of the Hub."""
    request = httpx2.Request("GET", f"{HUB}/api/models/acme/tiny")
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response = httpx2.Response(status, headers=named, request=request)
    with pytest.raises(SourceError) as caught, translated_errors("acme/tiny", "main", HUB):
        hf_raise_for_status(response)
    assert caught.value.subject == "acme/tiny"
    return caught.value


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_can_pass_is_transient(status: int) -> None:
    error = error_of(status)
    assert error.transient
    assert f"{HUB} answered with HTTP status {status}" in error.problem


@pytest.mark.parametrize(
    ("status", "headers", "problem", "remedy"),
    [
        (401, {"X_Error_Code": "GatedRepo"}, "no token was sent", "set HF_TOKEN"),
        (403, {"X_Error_Code": "GatedRepo"}, "account has no access", f"accept the licence at {HUB}/acme/tiny"),
        (404, {"X_Error_Code": "RevisionNotFound"}, "no revision 'main'", f"{HUB}/acme/tiny/tree/main"),
        (404, {"X_Error_Code": "EntryNotFound"}, "a file that the Hub lists is not there", "plan again"),
        (403, {"X_Error_Message": "Access to this resource is disabled."}, "has disabled", "another repository"),
        (403, {}, "refuses the token's permissions", "may read this repository"),
        (401, {"X_Error_Message": "Invalid credentials in Authorization header"}, "wrong or expired", "new read token"),
        (400, {}, "HTTP status 400", "HF_ENDPOINT"),
        (404, {}, "HTTP status 404", "HF_ENDPOINT"),
    ],
)
def test_what_cannot_pass_says_what_to_do(status: int, headers: dict[str, str], problem: str, remedy: str) -> None:
    error = error_of(status, **headers)
    assert problem in error.problem
    assert remedy in error.remedy
    assert not error.transient


@pytest.mark.parametrize(
    "kind", [httpx2.ConnectError, httpx2.ReadTimeout, httpx2.RemoteProtocolError, httpx2.ReadError]
)
def test_a_broken_connection_is_transient_and_names_the_hub(kind: type[httpx2.TransportError]) -> None:
    with pytest.raises(SourceError, match=HUB) as caught, translated_errors("acme/tiny", "main", HUB):
        raise kind("it broke")
    assert caught.value.transient
    assert "it broke" in caught.value.problem


def test_a_broken_connection_without_a_message_has_a_name() -> None:
    with pytest.raises(SourceError, match="ReadTimeout"), translated_errors("acme/tiny", "main", HUB):
        raise httpx2.ReadTimeout("")


def test_other_errors_are_left_alone() -> None:
    with pytest.raises(ZeroDivisionError), translated_errors("acme/tiny", "main", HUB):
        raise ZeroDivisionError


def test_an_answer_that_is_not_the_hubs_names_the_endpoint() -> None:
    assert HUB in not_the_hub("acme/tiny", HUB).problem


def test_a_password_in_the_address_of_the_hub_is_not_told() -> None:
    endpoint = "https://bob:hidden-word@hub.example.com"
    request = httpx2.Request("GET", f"{endpoint}/api")
    with pytest.raises(SourceError) as caught, translated_errors("acme/tiny", "main", endpoint):
        raise httpx2.ConnectError(f"cannot reach {endpoint}", request=request)
    assert "https://hub.example.com" in str(caught.value)
    for text in (str(caught.value), str(not_the_hub("acme/tiny", endpoint))):
        assert "hidden-word" not in text
        assert "bob" not in text
