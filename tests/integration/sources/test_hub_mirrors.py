"""Tests of mirrors of the Hub, which leave out parts of its protocol, and of repositories that were renamed."""

import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
from httpx import Request
from huggingface_hub import close_session, constants, get_session, set_client_factory
from huggingface_hub.utils._http import default_client_factory

from enginery.core.errors import SourceError
from enginery.core.home import home
from enginery.pipeline import make_plan
from enginery.sources import parameters, resolve, staging
from enginery.sources.hub_http import CA_BUNDLES, CA_SETTINGS
from enginery.sources.model_files import SourceFile
from enginery.spec.spec import Source, parse_spec
from tests.support.http.hub import HubServer, running_hub
from tests.support.http.hub_content import Mirror
from tests.support.models.directories import model_directory, safetensors, write
from tests.support.models.downloads import plan_and_download, run_download

NAME = "acme/tiny"
SOURCE = Source(huggingface=NAME)
WEIGHTS = "model.safetensors"
BARE = Mirror(lists="names", tree=False, lengths=False, commits=False, digests=False, gated=False)
"""A mirror that says only the names of the files."""
MIRRORS = {
    "names only": Mirror(lists="names"),
    "names and sizes": Mirror(lists="sizes"),
    "zeros as sizes": Mirror(lists="zeros"),
    "no tree": Mirror(lists="names", tree=False),
    "no HEAD": Mirror(lists="names", tree=False, head=False),
    "no HEAD, no ranges": Mirror(lists="names", tree=False, head=False, ranges=False),
    "no digests": Mirror(lists="names", tree=False, digests=False),
    "no lengths": Mirror(lists="names", tree=False, lengths=False),
    "nothing but names": BARE,
    "compressed JSON": Mirror(lists="names", compressed=True),
    "no commits in headers": Mirror(commits=False),
    "commit as 12 digits": Mirror(sha=lambda commit: commit[:12]),
    "commit in capitals": Mirror(sha=str.upper),
    "no commit in the list": Mirror(sha=lambda _: None),
    "a word as commit": Mirror(sha=lambda _: "latest"),
    "below a path": Mirror(prefix="/artifactory/api/huggingfaceml/hub"),
}


@pytest.fixture
def model(server: HubServer, tmp_path: Path) -> Path:
    directory = write(model_directory(tmp_path / "model"), {WEIGHTS: safetensors(10_000)})
    server.add_model(NAME, directory)
    return directory


def spec_of(**source: Any) -> Any:
    target = {"name": "cpu", "gpu": "cpu", "backend": "onnxruntime", "release": "0.18.0", "precision": "float32"}
    # The configuration of this model gives no sizes: the defaults of its class are those of 7 billion weights.
    return parse_spec({"name": "tiny", "source": source, "targets": [target], "force": ["W202"]})


@pytest.mark.parametrize("mirror", MIRRORS.values(), ids=MIRRORS)
def test_a_mirror_gives_the_same_files(
    server: HubServer, model: Path, tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.mirror = mirror
    for short in {mirror.sha(commit) for commit in server.models[NAME].commits} - {None}:
        server.models[NAME].references[str(short)] = next(iter(server.models[NAME].commits))
    monkeypatch.setenv("HF_ENDPOINT", f"{server.url}{mirror.prefix}/")
    facts = plan_and_download(SOURCE, tmp_path / "out")
    planned = resolve(SOURCE)
    for file in planned.files:
        assert (tmp_path / "out" / file.name).read_bytes() == (model / file.name).read_bytes()
    assert facts["bytes"] == sum(path.stat().st_size for path in (tmp_path / "out").iterdir())


@pytest.mark.parametrize("lists", ["names", "sizes", "zeros"])
def test_a_mirror_with_a_tree_leads_to_the_same_keys_as_the_hub(server: HubServer, model: Path, lists: Any) -> None:
    wanted = parameters(resolve(SOURCE), SOURCE)
    server.mirror = Mirror(lists=lists)
    assert parameters(resolve(SOURCE), SOURCE) == wanted


def test_sizes_and_digests_are_asked_for_file_by_file(server: HubServer, model: Path) -> None:
    wanted = {file.name: file for file in resolve(SOURCE).files}
    server.mirror = Mirror(lists="names", tree=False)
    found = {file.name: file for file in resolve(SOURCE).files}
    assert {name: file.size for name, file in found.items()} == {name: file.size for name, file in wanted.items()}
    assert {seen.method for seen in server.asked(f"/{WEIGHTS}", "HEAD")} == {"HEAD"}
    assert server.bytes_sent[WEIGHTS] == 0


def test_what_a_mirror_does_not_say_is_told_and_not_taken_as_nothing(
    server: HubServer, model: Path, tmp_path: Path
) -> None:
    server.mirror = BARE
    plan = make_plan(spec_of(huggingface=NAME))
    assert plan.source.weight_bytes == 0
    assert WEIGHTS in plan.source.unsized
    assert any("does not say how large these files are" in note for note in plan.notes)
    assert any("content cannot be checked" in note and "source.sha256" in note for note in plan.notes)
    lines: list[str] = []
    run_download(parameters(plan.source, SOURCE), tmp_path / "out", lines)
    assert "the server does not say how large" in lines[0]
    assert not any("%" in line for line in lines)


def test_a_file_without_a_size_goes_on_where_it_stopped(server: HubServer, model: Path, tmp_path: Path) -> None:
    planned = resolve(SOURCE)
    unsized = tuple(SourceFile(name=file.name) for file in planned.files)
    wanted = parameters(planned.model_copy(update={"files": unsized}), SOURCE)
    part = staging.downloads_dir() / str(wanted["commit"]) / f"{WEIGHTS}.part"
    content = (model / WEIGHTS).read_bytes()
    for beginning in (content[:1000], content):
        write(part.parent, {part.name: beginning})
        run_download(wanted, tmp_path / f"out-{len(beginning)}")
        assert (tmp_path / f"out-{len(beginning)}" / WEIGHTS).read_bytes() == content
        staging.remove_finished()


def test_a_mirror_that_has_only_the_beginning_of_a_file_is_named(
    server: HubServer, model: Path, tmp_path: Path
) -> None:
    wanted = parameters(resolve(SOURCE), SOURCE)
    (file,) = [commit[WEIGHTS] for commit in server.models[NAME].commits.values()]
    file.path.write_bytes(file.path.read_bytes()[:1000])
    object.__setattr__(file, "size", 1000)
    with pytest.raises(SourceError, match="has only 1000 of .* bytes of this file: its copy is cut off") as caught:
        run_download(wanted, tmp_path / "out")
    assert "HF_ENDPOINT" in caught.value.remedy
    assert not caught.value.transient


def test_without_any_commit_the_digests_of_the_files_say_what_is_built(
    server: HubServer, model: Path, tmp_path: Path
) -> None:
    server.mirror = Mirror(sha=lambda _: None, commits=False)
    wanted = parameters(resolve(SOURCE), SOURCE)
    assert wanted["revision"] == "main"
    assert parameters(resolve(SOURCE), SOURCE) == wanted
    run_download(wanted, tmp_path / "out")
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == (model / WEIGHTS).read_bytes()
    server.add_model(NAME, write(model, {WEIGHTS: safetensors(fill=9)}))
    assert parameters(resolve(SOURCE), SOURCE)["commit"] != wanted["commit"]
    staging.remove_finished()
    with pytest.raises(SourceError, match="wrong SHA-256|cut off"):  # the branch has moved
        run_download(wanted, tmp_path / "again")


def test_a_mirror_that_gives_another_commit_than_the_spec_is_refused(server: HubServer, model: Path) -> None:
    (commit,) = server.models[NAME].commits
    server.mirror = Mirror(sha=lambda _: "1" * 40)
    with pytest.raises(SourceError, match=f"answered with commit {'1' * 40}, not with {commit}"):
        resolve(Source(huggingface=NAME, revision=commit))


def test_without_any_commit_or_digest_the_plan_asks_for_one_and_takes_it(server: HubServer, model: Path) -> None:
    server.mirror = Mirror(lists="names", tree=False, digests=False, sha=lambda _: None, commits=False)
    with pytest.raises(SourceError, match="does not say which commit 'main' is") as caught:
        resolve(SOURCE)
    assert "set source.revision to a commit" in caught.value.remedy
    (commit,) = server.models[NAME].commits
    assert resolve(Source(huggingface=NAME, revision=commit)).commit == commit


def test_a_commit_that_would_leave_its_directory_is_not_used(server: HubServer, model: Path) -> None:
    server.mirror = Mirror(sha=lambda _: "../../outside", commits=False)
    assert "/" not in resolve(SOURCE).commit


@pytest.mark.parametrize("pattern", ["/api/*", "config.json", "tokenizer.json"])
def test_a_page_to_sign_in_is_not_taken_for_a_file(
    server: HubServer, model: Path, tmp_path: Path, pattern: str
) -> None:
    server.mirror = Mirror(lists="names", tree=False)
    server.fail("not-json", pattern, times=None)
    with pytest.raises(SourceError, match="answered, but not as a Hub does: a web page from 127.0.0.1") as caught:
        plan_and_download(SOURCE, tmp_path / "out")
    assert "HF_ENDPOINT" in caught.value.remedy


def test_a_mirror_that_wants_a_token_says_so(server: HubServer, model: Path) -> None:
    server.refuse(401, "/api/*", times=None)
    with pytest.raises(SourceError, match="wants a token .*, and none is set") as caught:
        resolve(SOURCE)
    assert "HF_TOKEN" in caught.value.remedy


@pytest.mark.parametrize("address", ["http://127.0.0.1:port", "http://", "https://[::1", "ftp://hub"])
def test_an_address_that_cannot_be_one_is_reported(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", address)
    with pytest.raises(SourceError, match="is not a web address"):
        resolve(SOURCE)


def test_a_renamed_repository_is_found_and_its_new_name_is_noted(
    server: HubServer, model: Path, tmp_path: Path
) -> None:
    server.rename(NAME, "acme/new-name")
    plan = make_plan(spec_of(huggingface=NAME))
    assert plan.source.location == "acme/new-name"
    assert f"source.huggingface: {NAME} is called acme/new-name on the Hub now; both names work" in plan.notes
    run_download(parameters(plan.source, SOURCE), tmp_path / "out")
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == (model / WEIGHTS).read_bytes()


def test_a_repository_that_is_renamed_is_not_built_again(server: HubServer, model: Path) -> None:
    before = [step.key for step in make_plan(spec_of(huggingface=NAME)).steps]
    server.rename(NAME, "acme/new-name")
    assert [step.key for step in make_plan(spec_of(huggingface=NAME)).steps] == before


@pytest.mark.parametrize("kind", ["gated", "private"])
def test_the_redirect_of_a_renamed_repository_is_no_access(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    server.add_model(NAME, model_directory(tmp_path / "model"), gated=kind == "gated", private=kind == "private")
    monkeypatch.setenv("HF_TOKEN", server.add_token("hf_member", NAME))
    server.rename(NAME, "acme/new-name")
    assert resolve(SOURCE).files
    assert list((home() / "sources" / "hub").rglob("config.json"))
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(SourceError, match="gated, and no token was sent|or it is private"):
        resolve(SOURCE)


def test_a_mirror_that_does_not_say_whether_a_repository_is_gated_is_asked(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add_model(NAME, model_directory(tmp_path / "model"), gated=True)
    monkeypatch.setenv("HF_TOKEN", server.add_token("hf_member", NAME))
    server.mirror = Mirror(gated=False)
    assert resolve(SOURCE).files
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(SourceError, match="gated, and no token was sent"):
        resolve(SOURCE)


def test_a_redirect_to_another_server_is_no_access_and_gets_no_token(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_hub(tmp_path / "upstream") as upstream:
        upstream.add_model(NAME, model_directory(tmp_path / "model"), gated=True)
        upstream.add_token("hf_member", NAME)
        monkeypatch.setenv("HF_TOKEN", "hf_member")
        server.mirror = Mirror(upstream=upstream.url)
        with pytest.raises(SourceError, match="to which the Hub redirects, refused .*the token is not sent there"):
            resolve(SOURCE)
        assert upstream.authorizations == {None}
        upstream.models[NAME].gated = False
        assert resolve(SOURCE).files
        plan_and_download(SOURCE, tmp_path / "out")
        assert upstream.authorizations == {None}


@pytest.mark.parametrize("token", ["hf_with space", "hf_lïne", "hf_two\r\nlines"])
def test_a_token_that_no_header_can_have_is_not_told(
    server: HubServer, model: Path, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: token)
    with pytest.raises(SourceError, match="characters that no token has") as caught:
        resolve(SOURCE)
    assert caught.value.subject == "HF_TOKEN"
    assert token not in str(caught.value)


@pytest.mark.parametrize("name", ["HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT"])
def test_a_time_limit_that_is_no_number_is_reported(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "ten")
    with pytest.raises(SourceError, match="is not a number of seconds") as caught:
        resolve(SOURCE)
    assert caught.value.subject == f"{name}=ten"


def test_each_time_limit_counts_for_its_requests(
    server: HubServer, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.mirror = Mirror(lists="names", tree=False)
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 7)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 8)
    seen: set[tuple[str, float]] = set()

    def note(sent: Request) -> None:
        if "agent-harnesses" not in sent.url.path:  # what huggingface_hub asks for once a day, for itself
            seen.add((sent.method, sent.extensions["timeout"]["read"]))

    get_session().event_hooks = {"request": [*get_session().event_hooks["request"], note]}
    resolve(SOURCE)
    assert seen == {("HEAD", 7), ("GET", 8)}


@pytest.mark.parametrize("proxy", ["ftp://proxy:1", "http://proxy:port"])
def test_a_proxy_that_cannot_be_used_is_reported(
    server: HubServer, model: Path, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    close_session()
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(SourceError) as caught:
        resolve(SOURCE)
    assert "proxy" in str(caught.value).lower()


def test_a_proxy_gets_the_requests(server: HubServer, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    close_session()
    monkeypatch.setenv("HTTP_PROXY", server.url)
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    assert resolve(SOURCE).files
    assert {seen.host for seen in server.requests} == {"hub.invalid"}


def without_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*CA_SETTINGS, *CA_BUNDLES):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A file with a certificate for 127.0.0.1 and its key."""
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=127.0.0.1",
               "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"]  # fmt: skip
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    both = tmp_path / "both.pem"
    both.write_bytes((tmp_path / "cert.pem").read_bytes() + (tmp_path / "key.pem").read_bytes())
    return both


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_the_certificates_of_a_company_are_trusted(
    certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: HubServer, name: str
) -> None:
    without_certificates(monkeypatch)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with running_hub(tmp_path / "safe", context) as hub:
        hub.add_model(NAME, model_directory(tmp_path / "model"))
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        close_session()
        with pytest.raises(SourceError, match="CERTIFICATE_VERIFY_FAILED") as caught:
            resolve(SOURCE)
        assert "set SSL_CERT_FILE" in caught.value.remedy
        close_session()
        monkeypatch.setenv(name, str(certificate))
        try:
            assert resolve(SOURCE).files
        finally:
            set_client_factory(default_client_factory)


def test_certificates_that_are_not_there_are_reported(
    server: HubServer, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_certificates(monkeypatch)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem")
    with pytest.raises(SourceError, match="settings of the proxy or of the certificates") as caught:
        resolve(SOURCE)
    assert "REQUESTS_CA_BUNDLE" in caught.value.remedy
