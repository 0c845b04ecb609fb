"""Tests of the specs of a fleet, and of a spec's part `releases`."""

from pathlib import Path

import httpx
import pytest

from enginery.core.errors import SpecError, UsageError
from enginery.pipeline.fleet import read_fleet, spec_files
from enginery.pipeline.flows import release_watch
from enginery.pipeline.promotion import Rebuild, RebuildRun, WatchReport
from enginery.spec.spec import parse_spec
from tests.support.paths import CHECKOUT, EXAMPLES
from tests.support.plans.plan import spec_data
from tests.support.plans.watched import watched_spec

TINY = (CHECKOUT / "infra" / "models" / "tiny-llama.yaml").read_text(encoding="utf-8")


def write(path: Path, text: str = TINY) -> Path:
    path.write_text(text.replace("../../examples", str(EXAMPLES)), encoding="utf-8")
    return path


def test_files_and_directories_make_one_fleet_without_repeats(tmp_path: Path) -> None:
    one, two = write(tmp_path / "a.yaml"), write(tmp_path / "b.yml")
    (tmp_path / "notes.txt").write_text("no spec")
    assert spec_files([two, tmp_path]) == [two, one]


def test_the_fleet_that_comes_with_enginery_is_sound() -> None:
    fleet = read_fleet(spec_files([CHECKOUT / "infra" / "models"]))
    assert [spec.name for spec in fleet if spec.releases.watch] == ["tiny-llama"]


@pytest.mark.parametrize(("place", "problem"), [("nowhere", "there is no such file"), ("empty", "holds no spec")])
def test_a_place_without_specs_is_named(tmp_path: Path, place: str, problem: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=problem) as caught:
        spec_files([tmp_path / place])
    assert str(tmp_path / place) in str(caught.value)


def test_the_mistakes_of_all_specs_come_at_once_with_their_files(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", TINY.replace("gpu: cpu", "gpu: H9000", 1))
    write(tmp_path / "b.yaml", "name: [")
    with pytest.raises(SpecError) as caught:
        read_fleet(spec_files([tmp_path]))
    assert len(caught.value.mistakes) == 2
    assert caught.value.mistakes[0].startswith(f"{tmp_path / 'a.yaml'}: targets.0.gpu")
    assert caught.value.mistakes[1].startswith(f"{tmp_path / 'b.yaml'}: is not YAML")


def test_two_specs_of_one_name_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml")
    write(tmp_path / "b.yaml")
    with pytest.raises(SpecError, match=r"b\.yaml: name: another spec is named tiny-llama, too"):
        read_fleet(spec_files([tmp_path]))


def test_a_spec_watches_nothing_unless_it_says_so() -> None:
    policy = parse_spec(spec_data()).releases
    assert not policy.watch
    assert (policy.promote_to, policy.build_channel) == ("candidate", "rebuild")


@pytest.mark.parametrize(
    ("releases", "mistake"),
    [
        ({"within": "banana"}, "releases.within: 'banana' is not a range of versions"),
        ({"targets": ["nowhere"]}, "releases.targets: nowhere not among the targets cpu-fp32, cpu-int4"),
        ({"build_channel": "candidate"}, "build_channel and promote_to must differ"),
        ({"gates": {"slower_percent": 5}}, "write slower_percent and larger_percent under validation.gates.channel"),
        ({"gates": None}, "releases: gates has moved"),
        ({"watches": True}, "releases.watches"),
    ],
)
def test_mistakes_in_the_policy_are_reported_with_their_field(releases: dict[str, object], mistake: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec(spec_data(releases=releases))
    assert mistake in str(caught.value)


def test_rebuilding_without_publishing_is_refused() -> None:
    data = spec_data(rollout=None, releases={"watch": True})
    del data["publish"]
    with pytest.raises(SpecError, match="releases needs publish"):
        parse_spec(data)
    data["releases"]["rebuild"] = False
    assert parse_spec(data).releases.watch


def test_rebuilds_may_not_go_where_ordinary_builds_go() -> None:
    with pytest.raises(SpecError, match="build_channel must differ from publish.channel, rebuild"):
        parse_spec(spec_data(publish={"to": "s3://engines/test", "channel": "rebuild"}, releases={"watch": True}))


def test_a_rebuild_that_cannot_be_started_is_reported_and_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = watched_spec({"name": "engine", "release": "1.1.0"})
    wanted = Rebuild(spec, RebuildRun(spec=spec.name, release="1.2.1", targets=("engine",), key="0"))

    def unreachable(**_: object) -> None:
        raise httpx.ConnectError("connection refused")

    monkeypatch.setattr(release_watch, "get_client", unreachable)
    report = WatchReport(verdicts=(), rebuilds=(release_watch.start_rebuild(wanted, "build-model/build-model", None),))
    assert report.troubles == (f"{spec.name} for 1.2.1: could not be started: connection refused",)
