"""Tests of the check of every byte of a build, in the pulled directory and in the registry."""

from collections.abc import Callable
from pathlib import Path

import pytest

from enginery.builds.manifest import Manifest
from enginery.core.errors import RegistryError
from enginery.registry import Registry
from enginery.registry.pulling import pull
from enginery.registry.upkeep.verifying import Damage, verify_build, verify_directory
from tests.support.http.faulty_proxy import Fault, Proxy
from tests.support.registry.builds import Build
from tests.support.registry.pulls import EngineBuild, address, registry, write_file
from tests.support.s3.fixtures import bucket, proxy, server
from tests.support.s3.server import S3Server
from tests.support.store.outputs import contents

__all__ = ["address", "bucket", "proxy", "registry", "server"]

HOME = "models/tiny-llama/builds/cpu-int4-111111111111"
ANSWERS = "model_repository/tensorrt_llm/1/answers.json"


@pytest.fixture
def pulled(registry: Registry, address: str, tmp_path: Path) -> Path:
    pull(registry, EngineBuild(mount="/models").publish(address), tmp_path / "models")
    return tmp_path / "models"


def kinds(found: list[Damage]) -> list[tuple[str, str]]:
    return [(damage.path, damage.kind) for damage in found]


def flipped(data: bytes, bit: int) -> bytes:
    return bytes(byte ^ (1 << bit % 8 if index == bit // 8 else 0) for index, byte in enumerate(data))


def test_one_flipped_bit_in_any_file_here_is_found(pulled: Path) -> None:
    build = pulled / "current"
    files = contents(build)
    assert len(files) > 10
    del files["pulled.json"]  # a change of it is found by comparison with the other files
    for path, data in files.items():
        for bit in {0, len(data) * 4 + 3, len(data) * 8 - 1} if data else ():
            write_file(build / path, flipped(data, bit))
            assert path in findings_or_error(pulled)
        write_file(build / path, data)
    assert verify_directory(pulled) == []


def findings_or_error(pulled: Path) -> str:
    try:
        return "".join(map(str, verify_directory(pulled)))
    except RegistryError as error:  # a manifest that cannot be read
        return error.subject


def test_all_findings_are_listed_each_with_its_figures(pulled: Path) -> None:
    build = pulled / "current"
    (build / "report.json").unlink()
    write_file(build / ANSWERS, (build / ANSWERS).read_bytes() + b" ")
    write_file(build / "license/LICENSE", b"do as you like.")
    (build / "model_repository/ensemble/1").mkdir(exist_ok=True)
    (build / "model_repository/ensemble/1/model.py").write_text("surprise")
    (build / "model_repository/more").symlink_to("/")
    found = verify_directory(pulled)
    assert kinds(found) == [
        ("license/LICENSE", "altered"),
        ("model_repository/ensemble/1/model.py", "extra"),
        ("model_repository/more", "extra"),
        (ANSWERS, "size"),
        ("report.json", "missing"),
    ]
    size = (build / ANSWERS).stat().st_size
    assert str(found[3]) == f"{ANSWERS}: has {size} bytes, not {size - 1}"


def test_a_link_in_the_place_of_a_file_or_directory_is_found(pulled: Path, tmp_path: Path) -> None:
    build = pulled / "current"
    (build / "report.json").rename(tmp_path / "report.json")
    (build / "report.json").symlink_to(tmp_path / "report.json")
    (build / "license").rename(tmp_path / "license")
    (build / "license").symlink_to(tmp_path / "license")
    found = kinds(verify_directory(pulled))
    assert {("report.json", "altered"), ("license/LICENSE", "altered"), ("license", "extra")} <= set(found)


@pytest.mark.parametrize("name", ["model_repository", "manifest.json"])
def test_a_link_that_leads_elsewhere_is_found(pulled: Path, name: str) -> None:
    (pulled / name).unlink()
    (pulled / name).symlink_to("/tmp")
    assert kinds(verify_directory(pulled)) == [(name, "altered")]


def test_a_current_build_that_lies_elsewhere_is_found(pulled: Path, tmp_path: Path) -> None:
    (pulled / "current").resolve().rename(tmp_path / "elsewhere")
    (pulled / "current").unlink()
    (pulled / "current").symlink_to(tmp_path / "elsewhere")
    assert kinds(verify_directory(pulled)) == [("current", "altered")]


def test_a_note_cannot_excuse_a_change_of_anything_but_a_configuration(pulled: Path) -> None:
    build = pulled / "current"
    config = "model_repository/tensorrt_llm/config.pbtxt"
    note = (build / "pulled.json").read_text()
    for path in (ANSWERS, "report.json"):
        assert config in note
        write_file(build / "pulled.json", note.replace(config, path).encode())
        assert [damage.path for damage in verify_directory(pulled)] == [config]


@pytest.mark.parametrize("content", [b"", b"{}", b"not JSON", b"\xff"])
def test_a_note_that_is_none_is_an_error(pulled: Path, content: bytes) -> None:
    write_file(pulled / "current/pulled.json", content)
    with pytest.raises(RegistryError, match="is not the note of a pull") as caught:
        verify_directory(pulled)
    assert "pull the build again" in caught.value.remedy


def test_a_plain_copy_of_a_build_can_be_verified_too(pulled: Path, tmp_path: Path) -> None:
    """A copy like that of `aws s3 sync`, of a build without absolute paths."""
    copy = tmp_path / "copy"
    (pulled / "current").resolve().rename(copy)
    (copy / "pulled.json").unlink()
    assert kinds(verify_directory(copy)) == [("model_repository/tensorrt_llm/config.pbtxt", "size")]
    write_file(copy / "extra", b"")
    assert ("extra", "extra") in kinds(verify_directory(copy))


@pytest.mark.parametrize("there", [True, False])
def test_a_directory_without_a_build_is_an_error(tmp_path: Path, *, there: bool) -> None:
    if there:
        (tmp_path / "models").mkdir()
    with pytest.raises(RegistryError, match="cannot be read") as caught:
        verify_directory(tmp_path / "models")
    assert "that a build was pulled into" in caught.value.remedy


# In the registry


class Stored:
    """The objects of a build. Changes keep the writer's metadata, so S3 itself does not notice them."""

    def __init__(self, server: S3Server, address: str) -> None:
        self.client = server.client()
        self.bucket = address.split("/")[2]

    def key(self, path: str) -> str:
        return f"prod/{HOME}/{path}"

    def read(self, path: str) -> bytes:
        data: bytes = self.client.get_object(Bucket=self.bucket, Key=self.key(path))["Body"].read()
        return data

    def write(self, path: str, data: bytes) -> None:
        noted = self.client.head_object(Bucket=self.bucket, Key=self.key(path))["Metadata"]
        self.client.put_object(Bucket=self.bucket, Key=self.key(path), Body=data, Metadata=noted)

    def add(self, path: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=self.key(path), Body=data)

    def remove(self, path: str) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=self.key(path))


@pytest.fixture
def stored(server: S3Server, address: str) -> Stored:
    return Stored(server, address)


@pytest.fixture
def manifest(address: str) -> Manifest:
    return Build().publish(address)


def test_a_build_as_it_was_published_has_no_findings(registry: Registry, manifest: Manifest) -> None:
    assert verify_build(registry, manifest) == []


PATHS = [
    "manifest.json",
    "report.html",
    "report.json",
    "provenance.intoto.jsonl",
    "license/LICENSE",
    "model_repository/ensemble/config.pbtxt",
    *(f"model_repository/{model}/config.pbtxt" for model in ("preprocessing", "postprocessing", "tensorrt_llm_bls")),
    *(f"model_repository/{model}/1/model.py" for model in ("preprocessing", "postprocessing", "tensorrt_llm_bls")),
    "model_repository/tensorrt_llm/config.pbtxt",
    "model_repository/tensorrt_llm/1/model.py",
    ANSWERS,
]


TWINS = {f"model_repository/{model}/1/model.py" for model in ("preprocessing", "postprocessing", "tensorrt_llm")}
"""Their bytes equal those of `tensorrt_llm_bls/1/model.py`, which is fetched once for all of them."""


def test_the_paths_to_tamper_with_are_all_there_are(manifest: Manifest) -> None:
    assert {*PATHS} == {"manifest.json", *(file.path for file in manifest.files)}


@pytest.mark.parametrize("path", PATHS)
def test_one_flipped_bit_in_any_object_is_found_and_not_pulled(
    registry: Registry, manifest: Manifest, stored: Stored, tmp_path: Path, path: str
) -> None:
    data = stored.read(path)
    stored.write(path, flipped(data, len(data) * 4 + 2))
    assert kinds(verify_build(registry, manifest)) == [(path, "altered")]
    if path in TWINS:  # the same bytes were fetched from another object
        pull(registry, manifest, tmp_path / "models")
        assert verify_directory(tmp_path / "models") == []
        return
    with pytest.raises(RegistryError, match="holds other bytes|is not JSON") as caught:
        pull(registry, manifest, tmp_path / "models")
    assert path in caught.value.subject
    assert not (tmp_path / "models/model_repository").exists()


Tamper = Callable[[Stored], None]


@pytest.mark.parametrize(
    ("tamper", "found"),
    [
        (lambda stored: stored.remove(ANSWERS), (ANSWERS, "missing")),
        (lambda stored: stored.add(ANSWERS, b"more"), (ANSWERS, "size")),
        (lambda stored: stored.add("model_repository/x/1/model.py", b""), ("model_repository/x/1/model.py", "extra")),
        (lambda stored: stored.remove("manifest.json"), ("manifest.json", "missing")),
        (lambda stored: stored.add("manifest.json", b"{}"), ("manifest.json", "altered")),
    ],
)
def test_what_is_missing_or_too_much_is_found(
    registry: Registry, manifest: Manifest, stored: Stored, tamper: Tamper, found: tuple[str, str]
) -> None:
    tamper(stored)
    assert kinds(verify_build(registry, manifest)) == [found]


@pytest.mark.parametrize("path", ["publishing.json", "signatures/a-b.sig"])
def test_what_lies_beside_every_build_is_no_finding(
    registry: Registry, manifest: Manifest, stored: Stored, path: str
) -> None:
    stored.add(path, b"{}")
    assert verify_build(registry, manifest) == []


def test_a_network_that_alters_a_byte_or_breaks_off_is_no_finding(
    registry: Registry, manifest: Manifest, proxy: Proxy
) -> None:
    for kind in ("flip", "truncate", "reset"):
        proxy.fail(Fault(kind, matches=lambda method, path: method == "GET" and "model.py" in path))
    assert verify_build(registry, manifest) == []
    assert not any(fault.times for fault in proxy.faults)


def test_a_registry_that_does_not_answer_is_an_error_and_no_finding(
    registry: Registry, manifest: Manifest, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINERY_S3_PATIENCE", "0")
    proxy.fail(Fault("answer", times=1000, matches=lambda _, path: "model.py" in path))
    with pytest.raises(RegistryError, match="cannot answer just now"):
        verify_build(registry, manifest)
