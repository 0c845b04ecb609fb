"""Tests of package indexes: pip's configuration, both formats, and servers that do not answer as an index."""

import base64
from pathlib import Path

import pytest

from enginery.core.errors import ToolchainError
from enginery.releases.index import Listing, listed_releases
from enginery.releases.pip_settings import PipSettings, pip_settings
from tests.support.http.package_index import Form, PackageIndex, package_index, running_index

__all__ = ["package_index"]

PROJECT = "tensorrt-llm"


def names(found: Listing, *, prereleases: bool = False) -> list[str]:
    return [one.release for one in found.usable(prereleases=prereleases)]


def only(index: PackageIndex) -> PipSettings:
    """Settings for this index, for tests that do not need to run pip, which takes a second."""
    return PipSettings(indexes=(index.url,), retries=0)


@pytest.fixture(params=["json", "html"])
def recorded(package_index: PackageIndex, request: pytest.FixtureRequest) -> PackageIndex:
    """A new release, a yanked release, a preview, and files whose release is not a number."""
    form: Form = request.param
    package_index.form = form
    package_index.add(PROJECT, "tensorrt-llm-0.8.0.tar.gz", size=6000)
    package_index.add(PROJECT, "tensorrt_llm-1.10.0-cp312-cp312-linux_x86_64.whl", "tensorrt_llm-1.2.1.tar.gz")
    package_index.add(PROJECT, "tensorrt_llm-1.11.0-cp312-cp312-linux_x86_64.whl", yanked="broken")
    package_index.add(PROJECT, "tensorrt_llm-1.12.0rc1.tar.gz", "tensorrt_llm-banana.tar.gz", "README.txt")
    return package_index


def test_releases_are_listed_by_number_without_yanked_ones_and_previews(recorded: PackageIndex) -> None:
    found = listed_releases(PROJECT, only(recorded))
    assert names(found) == ["0.8.0", "1.2.1", "1.10.0"]
    assert names(found, prereleases=True) == ["0.8.0", "1.2.1", "1.10.0", "1.12.0rc1"]
    assert [one.release for one in found.releases if one.yanked] == ["1.11.0"]


def test_a_release_that_is_no_number_is_passed_over_and_named(recorded: PackageIndex) -> None:
    assert listed_releases(PROJECT, only(recorded)).not_numbers == ("tensorrt_llm-banana.tar.gz",)


def test_a_release_of_which_one_file_was_withdrawn_is_still_there(package_index: PackageIndex) -> None:
    package_index.add(PROJECT, "tensorrt_llm-1.0.0.tar.gz", yanked=True)
    package_index.add(PROJECT, "tensorrt_llm-1.0.0-py3-none-any.whl")
    (release,) = listed_releases(PROJECT, only(package_index)).usable()
    assert [file.name for file in release.files] == ["tensorrt_llm-1.0.0-py3-none-any.whl"]


@pytest.mark.parametrize(
    ("wheel", "python", "fits"),
    [
        ("tensorrt_llm-1.0.0-cp312-cp312-linux_x86_64.whl", "3.12", True),
        ("tensorrt_llm-1.0.0-cp312-cp312-manylinux_2_28_aarch64.whl", "3.12", True),
        ("tensorrt_llm-1.0.0-cp310-cp310-linux_x86_64.whl", "3.12", False),
        ("tensorrt_llm-1.0.0-cp310-abi3-linux_x86_64.whl", "3.12", True),
        ("tensorrt_llm-1.0.0-cp312-abi3-linux_x86_64.whl", "3.10", False),
        ("tensorrt_llm-1.0.0-py3-none-any.whl", "3.12", True),
        ("tensorrt_llm-1.0.0-cp312-cp312-win_amd64.whl", "3.12", False),
        ("tensorrt_llm-1.0.0.tar.gz", "3.12", False),
    ],
)
def test_a_wheel_fits_a_python_by_its_name(package_index: PackageIndex, wheel: str, python: str, *, fits: bool) -> None:
    package_index.add(PROJECT, wheel)
    (release,) = listed_releases(PROJECT, only(package_index)).releases
    assert release.has_wheel_for(python) is fits


def test_several_indexes_are_one_list(package_index: PackageIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    package_index.add(PROJECT, "tensorrt_llm-1.2.1.tar.gz")
    with running_index() as other:
        other.add(PROJECT, "tensorrt_llm-1.2.1-cp312-cp312-linux_x86_64.whl", "tensorrt_llm-1.3.0.tar.gz")
        monkeypatch.setenv("PIP_EXTRA_INDEX_URL", other.url)
        found = listed_releases(PROJECT)
    assert names(found) == ["1.2.1", "1.3.0"]
    assert found.releases[0].wheels == ("tensorrt_llm-1.2.1-cp312-cp312-linux_x86_64.whl",)
    assert found.asked == (package_index.url, other.url)


def test_an_index_without_the_project_is_no_trouble(
    package_index: PackageIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    package_index.add(PROJECT, "tensorrt_llm-1.2.1.tar.gz")
    with running_index() as other:
        monkeypatch.setenv("PIP_EXTRA_INDEX_URL", other.url)
        assert not listed_releases(PROJECT).silent


def test_an_index_that_does_not_answer_is_named_beside_what_others_list(
    package_index: PackageIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    package_index.add(PROJECT, "tensorrt_llm-1.2.1.tar.gz")
    with running_index() as gone:
        pass
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", gone.url)
    found = listed_releases(PROJECT)
    assert names(found) == ["1.2.1"]
    (silent,) = found.silent
    assert silent.startswith(f"{gone.url}: cannot be reached: ")
    assert "refused" in silent


def test_no_index_that_answers_is_one_error_that_can_pass(package_index: PackageIndex) -> None:
    package_index.answer(PROJECT, 503)
    with pytest.raises(ToolchainError) as caught:
        listed_releases(PROJECT)
    assert caught.value.transient
    assert f"{package_index.url}: answers 503 Service Unavailable" in str(caught.value)
    assert "pip config list" in caught.value.remedy


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("<html><body><a href='/login'>Sign in</a></body></html>", "text/html"),
        ("", "text/html"),
        ("{not json", "application/vnd.pypi.simple.v1+json"),
        ('{"files": 3}', "application/vnd.pypi.simple.v1+json"),
        ("\x00\x01", "application/octet-stream"),
        (
            '{"meta": {"api-version": "99.0"}, "name": "tensorrt-llm", "files": []}',
            "application/vnd.pypi.simple.v1+json",
        ),
    ],
)
def test_a_server_that_is_no_index_differs_from_an_index_without_releases(
    package_index: PackageIndex, body: str, kind: str
) -> None:
    package_index.answer(PROJECT, 200, body, kind)
    with pytest.raises(ToolchainError, match="does not answer as a package index does"):
        listed_releases(PROJECT, only(package_index))


def test_an_index_without_any_release_says_so(package_index: PackageIndex) -> None:
    with pytest.raises(ToolchainError, match="has no release of it") as caught:
        listed_releases(PROJECT, only(package_index))
    assert not caught.value.transient


def test_only_names_that_are_no_numbers_are_an_error_that_names_them(package_index: PackageIndex) -> None:
    package_index.add(PROJECT, "tensorrt_llm-banana.tar.gz")
    with pytest.raises(ToolchainError, match=r"tensorrt_llm-banana\.tar\.gz was left out"):
        listed_releases(PROJECT, only(package_index))


def test_a_password_is_sent_and_never_shown(package_index: PackageIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", package_index.url.replace("//", "//someone:very-secret-word@"))
    package_index.answer(PROJECT, 403)
    with pytest.raises(ToolchainError) as caught:
        listed_releases(PROJECT)
    sent = base64.b64encode(b"someone:very-secret-word").decode()
    assert package_index.requests == [(f"/simple/{PROJECT}/", f"Basic {sent}")]
    assert "very-secret-word" not in str(caught.value)


def test_netrc_signs_in_as_it_does_for_pip(
    package_index: PackageIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1\nlogin someone\npassword word\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    package_index.add(PROJECT, "tensorrt_llm-1.2.1.tar.gz")
    listed_releases(PROJECT)
    assert package_index.requests[0][1].startswith("Basic ")


def test_a_proxy_of_pips_is_used(package_index: PackageIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy gets requests with whole addresses."""
    address = "http://index.invalid/simple/tensorrt-llm/"
    package_index.answers[address] = (200, "text/html", b'<a href="x">tensorrt_llm-1.2.1.tar.gz</a>')
    monkeypatch.setenv("PIP_INDEX_URL", "http://index.invalid/simple")
    monkeypatch.setenv("PIP_PROXY", package_index.url.removesuffix("/simple"))
    assert names(listed_releases(PROJECT)) == ["1.2.1"]
    assert [path for path, _ in package_index.requests] == [address]


def test_an_index_may_be_a_directory(tmp_path: Path) -> None:
    page = tmp_path / "simple" / PROJECT / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text('<a href="x">tensorrt_llm-1.2.1.tar.gz</a>')
    for address in (str(tmp_path / "simple"), (tmp_path / "simple").as_uri()):
        assert names(listed_releases(PROJECT, PipSettings(indexes=(address,)))) == ["1.2.1"]


def test_files_in_a_directory_of_find_links_count(tmp_path: Path) -> None:
    for name in ("tensorrt_llm-1.2.1-cp312-cp312-linux_x86_64.whl", "torch-2.0-py3-none-any.whl", "notes.txt"):
        (tmp_path / name).write_bytes(b"123")
    (release,) = listed_releases(PROJECT, PipSettings(indexes=(), find_links=(str(tmp_path),))).releases
    assert [(file.name, file.size) for file in release.files] == [
        ("tensorrt_llm-1.2.1-cp312-cp312-linux_x86_64.whl", 3)
    ]


def test_a_page_of_find_links_counts(package_index: PackageIndex) -> None:
    page = b'<a href="x">tensorrt_llm-1.2.1.tar.gz</a><a href="y">torch-2.0-py3-none-any.whl</a>'
    package_index.answers["/wheels"] = (200, "text/html", page)
    place = package_index.url.replace("/simple", "/wheels")
    assert names(listed_releases(PROJECT, PipSettings(indexes=(), find_links=(place,), retries=0))) == ["1.2.1"]


def test_without_any_place_the_error_says_so() -> None:
    with pytest.raises(ToolchainError, match="pip's configuration names no index"):
        listed_releases(PROJECT, PipSettings(indexes=()))


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pip's configuration file with this text. No variables are set."""
    import os

    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    file = tmp_path / "pip.conf"
    monkeypatch.setenv("PIP_CONFIG_FILE", str(file))
    return file


def test_the_settings_are_those_of_pips_files(configured: Path) -> None:
    configured.write_text(
        "[global]\nindex-url = https://someone:word@first.invalid/simple\ntimeout = 7\ncert = /ca.pem\n"
        "extra-index-url =\n    https://second.invalid/simple\n    https://third.invalid/simple\n"
        "trusted-host = first.invalid\nproxy = http://proxy.invalid:3128\nretries = 2\n"
    )
    found = pip_settings()
    assert found.indexes == tuple(
        f"https://{host}.invalid/simple" for host in ("someone:word@first", "second", "third")
    )
    assert (found.timeout, found.retries, found.cert) == (7.0, 2, "/ca.pem")
    assert (found.proxy, found.trusted_hosts) == ("http://proxy.invalid:3128", ("first.invalid",))


def test_a_password_that_a_variable_holds_too_is_read_whole(configured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Enginery masks the values of secret variables in the output of commands."""
    configured.write_text("[global]\nindex-url = https://someone:very-secret-word@first.invalid/simple\n")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://someone:very-secret-word@first.invalid/more")
    assert pip_settings().indexes[0] == "https://someone:very-secret-word@first.invalid/simple"


def test_what_is_set_for_install_counts_more_and_variables_most(
    configured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured.write_text("[install]\nindex-url = https://install.invalid\n[global]\nindex-url = https://all.invalid\n")
    assert pip_settings().indexes == ("https://install.invalid",)
    monkeypatch.setenv("PIP_INDEX_URL", "https://variable.invalid")
    assert pip_settings().indexes == ("https://variable.invalid",)


def test_no_index_leaves_the_links(configured: Path) -> None:
    configured.write_text("[global]\nno-index = true\nfind-links = /wheels\n")
    found = pip_settings()
    assert (found.indexes, found.find_links) == ((), ("/wheels",))


def test_pips_own_index_is_used_where_none_is_set(configured: Path) -> None:
    configured.write_text("")
    (index,) = pip_settings().indexes
    assert index.startswith("https://")


def test_a_number_that_is_none_is_named(configured: Path) -> None:
    configured.write_text("[global]\nretries = often\n")
    with pytest.raises(ToolchainError, match="option retries: invalid integer value: 'often'"):
        pip_settings()


def test_a_configuration_that_pip_cannot_read_is_one_error(configured: Path) -> None:
    configured.write_text("index-url without a section\n")
    with pytest.raises(ToolchainError, match="configuration cannot be read"):
        pip_settings()
