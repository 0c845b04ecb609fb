# ruff: noqa: F811  fixtures are imported
"""Tests of rollouts into the wrong repository, and of what the undo of a failed rollout changes."""

from pathlib import Path

import pytest

from enginery.builds.manifest import Manifest
from enginery.core.errors import RolloutError
from enginery.triton.loading import EndpointResult
from enginery.triton.rollout import roll_out_build
from tests.support.registry.builds import ANSWERS, QUESTION
from tests.support.s3.fixtures import bucket, server  # noqa: F401
from tests.support.triton.fake import running_fake_triton
from tests.support.triton.rollouts import FIRST, ORDER, SECOND, THIRD, Site, address, site, triton  # noqa: F401


def files(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def roll_out_into(site: Site, manifest: Manifest, repository: Path, *endpoints: str) -> list[EndpointResult]:
    urls = endpoints or (site.triton.url,)
    return roll_out_build(manifest, site.registry, urls, str(repository), site.lines.append)


def test_a_repository_that_the_server_does_not_read_is_refused_before_anything_changes(
    site: Site, tmp_path: Path
) -> None:
    site.roll_out(site.publish(FIRST))
    site.triton.calls.clear()
    before = files(site.triton.repository)
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(RolloutError, match=f"does not read {other}.*serves {FIRST}, .* no build in service") as caught:
        roll_out_into(site, site.publish(SECOND, "the second"), other)
    assert "started with" in caught.value.remedy
    assert not caught.value.transient
    assert list(other.iterdir()) == []
    assert site.triton.calls == []
    assert files(site.triton.repository) == before
    assert site.ask() == ANSWERS[QUESTION]


@pytest.mark.parametrize("rolled_out", [FIRST, SECOND, THIRD])
def test_a_repository_that_another_server_reads_is_refused_and_left_as_it_is(
    site: Site, tmp_path: Path, rolled_out: str
) -> None:
    manifests = {build_id: site.publish(build_id, build_id) for build_id in (FIRST, SECOND, THIRD)}
    site.roll_out(manifests[FIRST])
    other = tmp_path / "other"
    other.mkdir()
    with running_fake_triton(other) as another:
        roll_out_into(site, manifests[SECOND], other, another.url)
        before = files(tmp_path)
        site.triton.calls.clear()
        another.calls.clear()
        with pytest.raises(RolloutError, match=f"serves {FIRST}, the repository holds {SECOND}"):
            roll_out_into(site, manifests[rolled_out], other)
        assert site.triton.calls == another.calls == []
        assert files(tmp_path) == before
    assert site.ask() == FIRST


def test_a_fresh_server_that_reads_another_repository_is_found_out_too(site: Site, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(RolloutError, match=f"does not read {other}.*serves no build"):
        roll_out_into(site, site.publish(FIRST), other)
    assert list(other.iterdir()) == list(site.triton.repository.iterdir()) == []
    assert site.triton.calls == []


def test_one_of_several_servers_that_reads_another_repository_stops_it_for_all(site: Site, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with running_fake_triton(other) as another:
        with pytest.raises(RolloutError, match="does not read") as caught:
            site.roll_out(site.publish(FIRST), site.triton.url, another.url)
        assert caught.value.subject == another.url
        assert site.triton.calls == another.calls == []
    assert list(site.triton.repository.iterdir()) == []


def test_a_directory_that_does_not_exist_is_refused_and_not_made(site: Site, tmp_path: Path) -> None:
    with pytest.raises(RolloutError, match="there is no such model repository"):
        roll_out_into(site, site.publish(FIRST), tmp_path / "missing")
    assert not (tmp_path / "missing").exists()
    assert site.triton.calls == []


def test_a_directory_that_shows_late_is_waited_for(site: Site) -> None:
    site.triton.lists_after = 2
    site.roll_out(site.publish(FIRST))
    assert site.ask() == ANSWERS[QUESTION]


@pytest.mark.parametrize("count", range(1, 6))
def test_the_undo_loads_only_what_the_rollout_has_loaded(site: Site, count: int) -> None:
    site.roll_out(site.publish(FIRST))
    second = site.publish(SECOND, "the second")
    site.triton.refuses, site.triton.refuses_build = {ORDER[count - 1]: "out of memory"}, SECOND
    site.triton.calls.clear()
    with pytest.raises(RolloutError, match=f"{FIRST} serves again"):
        site.roll_out(second)
    assert site.triton.calls == [f"load {model}" for model in [*ORDER[:count], *ORDER[:count]]]


@pytest.mark.parametrize("count", range(1, 6))
def test_the_undo_unloads_only_what_the_rollout_has_loaded(site: Site, count: int) -> None:
    site.triton.refuses = {ORDER[count - 1]: "out of memory"}
    with pytest.raises(RolloutError, match=f"{site.triton.url} serves no build"):
        site.roll_out(site.publish(FIRST))
    unloads = [call for call in site.triton.calls if call.startswith("unload")]
    assert unloads == [f"unload {model}" for model in reversed(ORDER[:count])]


def test_a_rollout_that_fails_before_it_loads_anything_asks_nothing_of_the_server(site: Site) -> None:
    site.roll_out(site.publish(FIRST))
    second = site.publish(SECOND, "the second")
    source = site.registry.build_prefix(second.model, second.build_id)
    source.delete("model_repository/ensemble/config.pbtxt")
    site.triton.calls.clear()
    with pytest.raises(RolloutError, match=f"missing in the registry.*{FIRST} serves again"):
        site.roll_out(second)
    assert site.triton.calls == []
    assert site.versions() == {"1"}


def test_a_server_that_the_rollout_has_not_reached_is_left_alone_by_the_undo(site: Site) -> None:
    with running_fake_triton(site.triton.repository) as other:
        site.roll_out(site.publish(FIRST), site.triton.url, other.url)
        site.triton.refuses, site.triton.refuses_build = {"tensorrt_llm": "out of memory"}, SECOND
        other.calls.clear()
        with pytest.raises(RolloutError, match=f"{FIRST} serves again"):
            site.roll_out(site.publish(SECOND, "the second"), site.triton.url, other.url)
        assert other.calls == []


def test_a_server_that_was_started_again_gets_the_previous_build_when_the_next_one_fails(site: Site) -> None:
    site.roll_out(site.publish(FIRST))
    site.triton.loaded.clear()
    site.triton.refuses, site.triton.refuses_build = {"tensorrt_llm": "out of memory"}, SECOND
    with pytest.raises(RolloutError, match=f"{FIRST} serves again"):
        site.roll_out(site.publish(SECOND, "the second"))
    assert site.triton.loaded == dict.fromkeys(ORDER, (1, FIRST))


def test_the_message_names_the_models_that_could_not_be_put_back(site: Site) -> None:
    site.roll_out(site.publish(FIRST))
    second = site.publish(SECOND, "the second")
    site.triton.spoils = {"tensorrt_llm": FIRST, "preprocessing": SECOND}
    with pytest.raises(RolloutError, match=f"serves {FIRST}, but tensorrt_llm of {SECOND}") as caught:
        site.roll_out(second)
    assert "serves again" not in str(caught.value)
