"""Tests of pulling a published build into a directory."""

import json
import re
import stat
from pathlib import Path

import pytest

from enginery.builds.local import PullDirectory
from enginery.core.digests import bytes_digest
from enginery.core.errors import RegistryError, UsageError
from enginery.registry import Registry
from enginery.registry.pulling import pull
from enginery.registry.upkeep.verifying import verify_directory
from tests.support.http.faulty_proxy import Proxy
from tests.support.registry.builds import Build
from tests.support.registry.pulls import ENGINE, EngineBuild, address, registry, snapshot, some_bytes
from tests.support.s3.fixtures import bucket, proxy, server
from tests.support.s3.server import S3Server
from tests.support.store.outputs import contents

__all__ = ["address", "bucket", "proxy", "registry", "server"]

OTHER = {"Who?": "another engine"}
FIRST, SECOND, THIRD = (f"cpu-int4-{number * 12}" for number in "123")
MB = 1 << 20


def pulled_build(directory: Path) -> str:
    return (directory / "current").readlink().name


class RecordingProgress:
    """A progress that records its calls."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, int, int]] = []
        self.bytes = self.files = 0

    def begin(self, what: str, *, files: int, size: int) -> None:
        self.begun.append((what, files, size))

    def add(self, size: int) -> None:
        self.bytes += size

    def end_file(self) -> None:
        self.files += 1


def test_a_pulled_build_is_a_mirror_of_the_published_one(
    server: S3Server, registry: Registry, address: str, tmp_path: Path
) -> None:
    manifest = Build().publish(address)
    pull(registry, manifest, tmp_path / "models")
    client = server.client()
    prefix = f"prod/models/tiny-llama/builds/{FIRST}/"
    name = address.split("/")[2]
    keys = [key for key in server.keys(name) if key.startswith(prefix)]
    published = {key.removeprefix(prefix): client.get_object(Bucket=name, Key=key)["Body"].read() for key in keys}
    client.close()
    found = contents(tmp_path / "models" / "builds" / FIRST)
    assert found.pop("pulled.json")
    assert found == published


def test_a_server_is_given_one_directory_and_a_build_appears_by_one_link(
    registry: Registry, address: str, tmp_path: Path
) -> None:
    pulled = pull(registry, Build().publish(address), tmp_path / "models")
    root = tmp_path / "models"
    assert pulled.model_repository == str(root / "model_repository")
    links = {path.name: str(path.readlink()) for path in root.iterdir() if path.is_symlink()}
    assert links == {
        "current": f"builds/{FIRST}",
        "model_repository": "current/model_repository",
        "manifest.json": "current/manifest.json",
    }
    assert (root / "model_repository" / "ensemble" / "config.pbtxt").is_file()
    assert json.loads((root / "manifest.json").read_text())["build_id"] == FIRST


def test_what_was_pulled_moves_with_its_directory(registry: Registry, address: str, tmp_path: Path) -> None:
    pull(registry, Build().publish(address), tmp_path / "models")
    (tmp_path / "models").rename(tmp_path / "elsewhere")
    assert verify_directory(tmp_path / "elsewhere") == []


def test_every_file_may_be_read_by_a_server_of_another_user_and_written_by_nobody(
    registry: Registry, address: str, tmp_path: Path
) -> None:
    pull(registry, EngineBuild(engine=some_bytes(5 * MB)).publish(address), tmp_path / "models")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "models/builds").rglob("*") if path.is_file()}
    assert modes == {0o444}


def test_what_a_pull_did_is_reported_and_noted(registry: Registry, address: str, tmp_path: Path) -> None:
    manifest = Build().publish(address)
    pulled = pull(registry, manifest, tmp_path / "models", channel="stable")
    assert (pulled.model, pulled.build_id, pulled.registry, pulled.channel) == ("tiny-llama", FIRST, address, "stable")
    assert (pulled.files, pulled.size) == (len(manifest.files), manifest.size)
    note = json.loads((tmp_path / "models/current/pulled.json").read_text())
    assert (note["build_id"], note["registry"], note["channel"]) == (FIRST, address, "stable")
    assert note["manifest"] == bytes_digest((tmp_path / "models/manifest.json").read_bytes())


def test_progress_counts_every_file_and_byte_fetched_or_not(registry: Registry, address: str, tmp_path: Path) -> None:
    first, second = Build().publish(address), Build(build_id=SECOND, answers=OTHER).publish(address)
    for manifest in (first, second):
        noted = RecordingProgress()
        pull(registry, manifest, tmp_path / "models", progress=noted)
        assert noted.begun == [(f"pulling {manifest.build_id}", len(manifest.files), manifest.size)]
        assert (noted.bytes, noted.files) == (manifest.size, len(manifest.files))


def test_pulling_again_fetches_and_changes_nothing(
    registry: Registry, address: str, proxy: Proxy, tmp_path: Path
) -> None:
    manifest = Build().publish(address)
    pull(registry, manifest, tmp_path / "models")
    before, gets = snapshot(tmp_path / "models"), proxy.count("GET")
    lines: list[str] = []
    assert pull(registry, manifest, tmp_path / "models", log=lines.append).fetched == 0
    assert snapshot(tmp_path / "models") == before
    assert proxy.count("GET") == gets + 1  # the manifest
    assert lines == [f"{FIRST} is already there"]


def test_a_file_that_occurs_twice_is_fetched_once(
    registry: Registry, address: str, proxy: Proxy, tmp_path: Path
) -> None:
    manifest = Build().publish(address)
    digests = [file.sha256 for file in manifest.files]
    assert len(set(digests)) < len(digests)
    before = proxy.count("GET")
    pull(registry, manifest, tmp_path / "models")
    assert proxy.count("GET") - before == len(set(digests)) + 1


def test_only_what_differs_from_the_build_before_is_fetched(registry: Registry, address: str, tmp_path: Path) -> None:
    engine = some_bytes(5 * MB)
    pull(registry, EngineBuild(engine=engine).publish(address), tmp_path / "models")
    second = EngineBuild(build_id=SECOND, engine=engine, answers=OTHER).publish(address)
    assert pull(registry, second, tmp_path / "models").fetched < 100_000
    old, new = (tmp_path / "models/builds" / build / ENGINE for build in (FIRST, SECOND))
    assert new.samefile(old)
    assert verify_directory(tmp_path / "models") == []


def test_small_files_are_copies_because_people_edit_them(registry: Registry, address: str, tmp_path: Path) -> None:
    pull(registry, Build().publish(address), tmp_path / "models")
    pull(registry, Build(build_id=SECOND).publish(address), tmp_path / "models")
    edited = tmp_path / "models/model_repository/ensemble/config.pbtxt"
    edited.chmod(0o644)
    with edited.open("a") as file:  # as an editor that keeps the inode does
        file.write("# mine\n")
    other = tmp_path / "models/builds" / FIRST / "model_repository/ensemble/config.pbtxt"
    assert "# mine" not in other.read_text()


def test_a_file_of_the_build_before_that_was_damaged_is_fetched(
    registry: Registry, address: str, tmp_path: Path
) -> None:
    engine = some_bytes(5 * MB)
    pull(registry, EngineBuild(engine=engine).publish(address), tmp_path / "models")
    damaged = tmp_path / "models/builds" / FIRST / ENGINE
    damaged.chmod(0o644)
    damaged.write_bytes(bytes(len(engine)))
    second = EngineBuild(build_id=SECOND, engine=engine).publish(address)
    assert pull(registry, second, tmp_path / "models").fetched >= len(engine)
    assert verify_directory(tmp_path / "models") == []


def test_the_build_before_stays_for_a_server_that_reads_it_and_those_before_it_go(
    registry: Registry, address: str, tmp_path: Path
) -> None:
    for build_id in (FIRST, SECOND, THIRD):
        pull(registry, Build(build_id=build_id).publish(address), tmp_path / "models")
    assert {path.name for path in (tmp_path / "models/builds").iterdir()} == {SECOND, THIRD}
    assert (tmp_path / "models/previous").readlink() == Path("builds") / SECOND
    assert pulled_build(tmp_path / "models") == THIRD


def test_going_back_to_the_build_before_fetches_nothing(registry: Registry, address: str, tmp_path: Path) -> None:
    first = Build().publish(address)
    pull(registry, first, tmp_path / "models")
    pull(registry, Build(build_id=SECOND, answers=OTHER).publish(address), tmp_path / "models")
    assert pull(registry, first, tmp_path / "models").fetched == 0
    assert pulled_build(tmp_path / "models") == FIRST
    assert (tmp_path / "models/previous").readlink() == Path("builds") / SECOND


@pytest.mark.parametrize("damage", ["altered", "removed", "added", "manifest", "note", "linked"])
def test_a_build_that_was_damaged_here_is_made_whole_by_the_next_pull(
    registry: Registry, address: str, tmp_path: Path, damage: str
) -> None:
    manifest = Build().publish(address)
    pull(registry, manifest, tmp_path / "models")
    build = tmp_path / "models/current"
    victim = build / {"manifest": "manifest.json", "note": "pulled.json"}.get(damage, "report.json")
    victim.chmod(0o644)
    if damage == "removed":
        victim.unlink()
    elif damage == "added":
        (build / "model_repository/ensemble/1").mkdir()
        (build / "model_repository/ensemble/1/model.py").write_text("surprise")
    elif damage == "linked":
        victim.rename(tmp_path / "report.json")
        victim.symlink_to(tmp_path / "report.json")
    else:
        victim.write_bytes(victim.read_bytes()[:-1] + b" ")
    pull(registry, manifest, tmp_path / "models")
    assert verify_directory(tmp_path / "models") == []
    assert pulled_build(tmp_path / "models") == f"{FIRST}.2"


# The path of an engine


def paths_in(directory: Path) -> set[str]:
    config = (directory / "model_repository/tensorrt_llm/config.pbtxt").read_text()
    return set(re.findall(r'string_value: "(.*?)"', config))


@pytest.mark.parametrize("published", ["/models", "/srv/tensorrt_llm/1/models"])
@pytest.mark.parametrize("mount", [None, "/mnt/llm", "/mnt/llm/"])
def test_a_configuration_names_the_place_where_a_server_finds_its_files(
    registry: Registry, address: str, tmp_path: Path, mount: str | None, published: str
) -> None:
    manifest = EngineBuild(engine=b"engine", mount=published).publish(address)
    pulled = pull(registry, manifest, tmp_path / "models", mount=mount)
    place = "/mnt/llm" if mount else str(tmp_path / "models/model_repository")
    moved = {f"{place}/tensorrt_llm/1", f"{place}/preprocessing/1/tokenizer"}
    assert paths_in(tmp_path / "models") == {*moved, "/opt/tritonserver/backends/worker"}
    assert pulled.mount == place
    assert pulled.rewritten == ("model_repository/tensorrt_llm/config.pbtxt",)
    assert verify_directory(tmp_path / "models") == []


def test_a_configuration_for_the_place_it_was_packaged_for_stays_as_published(
    registry: Registry, address: str, tmp_path: Path
) -> None:
    manifest = EngineBuild(engine=b"engine", mount="/models").publish(address)
    assert pull(registry, manifest, tmp_path / "models", mount="/models").rewritten == ()


def test_another_mount_is_another_build_here_for_which_nothing_is_fetched_but_its_configuration(
    registry: Registry, address: str, tmp_path: Path
) -> None:
    manifest = EngineBuild(engine=some_bytes(5 * MB), mount="/models").publish(address)
    pull(registry, manifest, tmp_path / "models")
    pulled = pull(registry, manifest, tmp_path / "models", mount="/mnt/llm")
    assert pulled.fetched < 10_000
    assert "/mnt/llm/tensorrt_llm/1" in paths_in(tmp_path / "models")
    assert verify_directory(tmp_path / "models") == []


def test_a_mount_that_is_no_absolute_path_is_refused_before_anything_is_made(
    registry: Registry, address: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="mount models: is not an absolute path"):
        pull(registry, Build().publish(address), tmp_path / "models", mount="models")
    assert not (tmp_path / "models").exists()


# Directories that a pull refuses


@pytest.mark.parametrize("name", ["notes.txt", "model_repository", "builds", "current"])
def test_a_directory_with_other_things_in_it_is_refused_and_not_touched(
    registry: Registry, address: str, tmp_path: Path, name: str
) -> None:
    manifest = Build().publish(address)
    (tmp_path / "models" / name).mkdir(parents=True)
    (tmp_path / "models" / name / "mine").write_text("mine")
    before = snapshot(tmp_path / "models")
    with pytest.raises(RegistryError, match=f"holds files that no pull has made: {name}") as caught:
        pull(registry, manifest, tmp_path / "models")
    assert "empty directory" in caught.value.remedy
    assert snapshot(tmp_path / "models") == before


def test_a_directory_in_which_a_link_was_replaced_by_something_else_is_refused(
    registry: Registry, address: str, tmp_path: Path
) -> None:
    manifest = Build().publish(address)
    pull(registry, manifest, tmp_path / "models")
    (tmp_path / "models/model_repository").unlink()
    (tmp_path / "models/model_repository").mkdir()
    with pytest.raises(RegistryError, match="holds files that no pull has made: model_repository"):
        pull(registry, manifest, tmp_path / "models")


def test_an_empty_directory_is_filled_also_when_it_is_a_whole_file_system(
    registry: Registry, address: str, tmp_path: Path
) -> None:
    (tmp_path / "models/lost+found").mkdir(parents=True)
    pull(registry, Build().publish(address), tmp_path / "models")
    assert verify_directory(tmp_path / "models") == []


def test_what_others_add_to_a_pulled_directory_stays(registry: Registry, address: str, tmp_path: Path) -> None:
    pull(registry, Build().publish(address), tmp_path / "models")
    (tmp_path / "models/notes.txt").write_text("mine")
    pull(registry, Build(build_id=SECOND).publish(address), tmp_path / "models")
    assert (tmp_path / "models/notes.txt").read_text() == "mine"


def test_a_file_in_the_place_of_the_directory_is_refused(registry: Registry, address: str, tmp_path: Path) -> None:
    manifest = Build().publish(address)
    (tmp_path / "models").write_text("mine")
    with pytest.raises(RegistryError, match="Not a directory"):
        pull(registry, manifest, tmp_path / "models")
    assert (tmp_path / "models").read_text() == "mine"


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs a directory that not even root may write to")
def test_a_place_that_cannot_be_written_is_named(registry: Registry, address: str) -> None:
    manifest = Build().publish(address)
    with pytest.raises(RegistryError, match="cannot be written") as caught:
        pull(registry, manifest, Path("/sys/kernel/enginery"))
    assert caught.value.subject == "/sys/kernel/enginery"
    assert "you may write to" in caught.value.remedy


# What killed pulls have left


def test_what_is_there_of_a_pull_that_was_killed_is_not_fetched_again(
    registry: Registry, address: str, tmp_path: Path
) -> None:
    engine = some_bytes(5 * MB)
    manifest = EngineBuild(engine=engine).publish(address)
    staged = tmp_path / "models/.enginery" / f"incoming-{FIRST}" / ENGINE
    staged.parent.mkdir(parents=True)
    staged.write_bytes(engine)
    staged.chmod(0o600)
    assert pull(registry, manifest, tmp_path / "models").fetched < len(engine)
    assert verify_directory(tmp_path / "models") == []
    assert stat.S_IMODE((tmp_path / "models/current" / ENGINE).stat().st_mode) == 0o444


def test_what_a_pull_that_was_killed_has_left_damaged_is_fetched_again_and_what_is_not_of_the_build_goes(
    registry: Registry, address: str, tmp_path: Path
) -> None:
    engine = some_bytes(5 * MB)
    manifest = EngineBuild(engine=engine).publish(address)
    staging = tmp_path / "models/.enginery" / f"incoming-{FIRST}"
    staged = staging / ENGINE
    staged.parent.mkdir(parents=True)
    staged.write_bytes(bytes(len(engine)))
    (staging / "model_repository/old/1").mkdir(parents=True)
    (staging / "model_repository/old/1/model.py").write_text("of an older build")
    other = tmp_path / "models/.enginery" / f"incoming-{SECOND}"
    other.mkdir()
    pull(registry, manifest, tmp_path / "models")
    assert verify_directory(tmp_path / "models") == []
    assert not (tmp_path / "models/current/model_repository/old").exists()
    assert sorted(path.name for path in (tmp_path / "models/.enginery").iterdir()) == ["digests.sqlite", "lock"]


def test_a_build_that_was_whole_when_a_pull_was_killed_is_not_fetched_again(
    registry: Registry, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = Build().publish(address)

    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(PullDirectory, "make_current", kill)
        with pytest.raises(Killed):
            pull(registry, manifest, tmp_path / "models")
    pulled = pull(registry, manifest, tmp_path / "models")
    assert pulled.fetched == 0
    assert pulled_build(tmp_path / "models") == FIRST
