"""What releases refuse in their code: the records, and what is said of releases that were not read."""

import json
import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

from enginery.core.errors import UsageError
from enginery.releases import Certainty, Effect, refusal, refusal_ids
from tests.support.paths import CHECKOUT

SCRIPT = CHECKOUT / "infra" / "releases" / "refusals.py"
SOURCES = Path(os.environ.get("ENGINERY_RELEASE_SOURCES") or CHECKOUT.parent / "shared" / "trtllm" / "sources")
FILES = ("refusals.json", "conversion_refusals.json")
RECORDS = {
    name: record
    for file in FILES
    for name, record in json.loads((files("enginery.releases") / "data" / file).read_bytes())["subjects"].items()
}
DRAFTS = "trtllm-build: gather_context_logits with max_draft_len"


@pytest.mark.parametrize("name", RECORDS)
def test_every_record_is_whole_in_every_release_that_it_holds_for(name: str) -> None:
    assert name.partition(": ")[2]
    held = [refusal(name, release).value for release, _ in RECORDS[name]["releases"]]
    found = [one for one in held if one is not None]
    assert found
    for one in found:
        assert one.id == name
        assert one.certain
        assert one.says
        assert one.place.rpartition(":")[2].isdigit()


@pytest.mark.parametrize(("release", "held"), [("0.9.0", False), ("0.10.0", True), ("0.16.0", True)])
def test_a_record_holds_from_the_release_that_brought_it(release: str, held: bool) -> None:  # noqa: FBT001
    found = refusal(DRAFTS, release)
    assert (found.value is not None) is held
    assert found.provenance.certainty is Certainty.PARSED


def test_a_release_that_was_not_read_is_as_its_neighbours_if_both_agree() -> None:
    found = refusal(DRAFTS, "0.20.0")
    assert found.value
    assert found.value.certain
    assert found.value.effect is Effect.REFUSES
    assert found.provenance.certainty is Certainty.NEAREST
    assert "known of " in found.provenance.note


def test_a_release_without_engines_has_no_refusals_of_the_engine_builder() -> None:
    assert refusal(DRAFTS, "1.3.0rc22").value is None


def test_an_unknown_record_is_an_error() -> None:
    with pytest.raises(UsageError):
        refusal("trtllm-build: nothing", "0.16.0")


def test_the_ids_of_one_command_begin_with_it() -> None:
    found = refusal_ids("trtllm-build")
    assert found
    assert all(one.startswith("trtllm-build: ") for one in found)
    assert set(found) <= set(refusal_ids())


@pytest.mark.skipif(not SOURCES.is_dir(), reason="no sources: set ENGINERY_RELEASE_SOURCES to check the places")
def test_the_places_are_those_of_the_sources() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), str(SOURCES)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_wrong_place_is_reported(tmp_path: Path) -> None:
    for release, _ in RECORDS[DRAFTS]["releases"]:
        (tmp_path / release).mkdir()
    source = tmp_path / "0.16.0" / "tensorrt_llm" / "commands" / "build.py"
    source.parent.mkdir(parents=True)
    done = subprocess.run([sys.executable, str(SCRIPT), str(tmp_path)], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"{DRAFTS}, 0.16.0, " in done.stdout
    assert "there is no such file" in done.stdout
    source.write_text("pass\n")
    done = subprocess.run([sys.executable, str(SCRIPT), str(tmp_path)], check=False, capture_output=True, text=True)
    assert f"{DRAFTS}, 0.16.0, tensorrt_llm/commands/build.py:474: no statement that could refuse" in done.stdout
