"""Tests of which release's facts are used for another release, and of how certain an answer is."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from enginery.core.errors import UsageError
from enginery.releases import facts
from enginery.releases.facts import Certainty, builds_engines, nearest, releases, version
from enginery.releases.flags import flag, flags_of

TOPICS = ("build", "examples", "families", "precisions", "pins", "templates", "arguments")
VERSIONS = st.builds(
    lambda major, minor, micro, rc: f"{major}.{minor}.{micro}" + (f"rc{rc}" if rc else ""),
    st.integers(0, 3),
    st.integers(0, 30),
    st.integers(0, 5),
    st.integers(0, 30),
).filter(lambda one: Version(one) >= Version("0.8.0"))


def test_the_releases_are_listed_oldest_first() -> None:
    assert releases()[0] == "0.8.0"
    assert releases()[-1] == "1.3.0rc3"
    assert list(releases()) == sorted(releases(), key=Version)
    assert len(set(releases())) == len(releases()) == 22


@pytest.mark.parametrize(
    ("release", "certainty"),
    [
        ("0.8.0", Certainty.PARSED),
        ("0.16.0", Certainty.PARSED),
        ("0.17.0.dev2024121700", Certainty.PARSED),
        ("0.17.0.post1", Certainty.INFERRED),
        ("0.18.0", Certainty.INFERRED),
        ("0.18.1", Certainty.INFERRED),
        ("0.18.2", Certainty.RENDERED),
        ("0.19.0", Certainty.RENDERED),
        ("1.0.0", Certainty.RENDERED),
        ("1.2.0", Certainty.RENDERED),
        ("1.2.1", Certainty.INFERRED),
        ("1.3.0rc3", Certainty.PARSED),
        ("0.17.0", Certainty.NEAREST),
        ("1.2.2", Certainty.NEAREST),
        ("1.3.0rc20", Certainty.NEAREST),
    ],
)
def test_how_the_build_flags_of_a_release_are_known(release: str, certainty: Certainty) -> None:
    assert flags_of(release).provenance.certainty is certainty


@pytest.mark.parametrize(
    ("wanted", "read", "chosen"),
    [
        ("0.9.0", ("0.8.0", "0.9.0", "0.10.0"), "0.9.0"),
        ("1.0", ("0.21.0", "1.0.0"), "1.0.0"),
        ("0.17.0", ("0.16.0", "0.17.0.dev2024121700", "0.17.0.post1"), "0.17.0.post1"),
        ("0.18.5", ("0.18.2", "0.19.0"), "0.18.2"),
        ("1.2.1", ("0.16.0", "1.3.0rc3"), "1.3.0rc3"),
        ("0.17.0.post1", ("0.16.0", "1.3.0rc3"), "0.16.0"),
        ("1.3.0rc10", ("1.2.1", "1.3.0rc3", "1.3.0rc20+main"), "1.3.0rc3"),
        ("1.3.0rc22", ("1.3.0rc3", "1.3.0rc20+main"), "1.3.0rc20+main"),
        ("1.3.0", ("1.3.0rc3",), "1.3.0rc3"),
        ("0.8.0", ("0.16.0", "1.3.0rc3"), "0.16.0"),
    ],
)
def test_the_nearest_release(wanted: str, read: tuple[str, ...], chosen: str) -> None:
    assert nearest(Version(wanted), read) == chosen


def test_an_answer_after_the_last_known_release_compares_with_none() -> None:
    assert flags_of("1.3.0rc10").provenance.note == "known of 1.3.0rc3 (parsed), not of 1.3.0rc10"


@given(VERSIONS)
def test_a_release_that_is_known_answers_for_itself_and_any_other_says_that_it_does_not(release: str) -> None:
    found = flags_of(release)
    assert bool(found.value) is builds_engines(release)
    if Version(release) in map(Version, releases()):
        assert found.provenance.certainty is not Certainty.NEAREST
        assert Version(found.provenance.release) == Version(release)
    elif builds_engines(release):
        assert found.provenance.certainty is Certainty.NEAREST
        assert found.provenance.release in releases()
        assert f"not of {release}" in found.provenance.note


@given(VERSIONS, st.sampled_from([(topic, name) for topic in TOPICS for name in facts.subjects(topic)]))
def test_every_subject_answers_for_every_release(release: str, subject: tuple[str, str]) -> None:
    found = facts.look_up(*subject, release)
    origin = found.provenance
    assert origin.source
    assert origin.method
    if subject[0] in facts.ENGINE_TOPICS and not builds_engines(release):
        assert (found.value, origin) == (None, facts.REMOVAL)
        return
    assert (origin.certainty is Certainty.NEAREST) is (Version(origin.release) != Version(release))


def test_an_answer_between_two_that_differ_says_so() -> None:
    found = flag("0.13.1", "--max_batch_size")
    assert found.value is not None
    assert found.value.default == 256
    assert found.provenance.note == "known of 0.13.0 (parsed), not of 0.13.1; 0.14.0 says otherwise"


@pytest.mark.parametrize("release", ["0.7.1", "0.5.0", "0.8.0rc1"])
def test_older_releases_are_unknown(release: str) -> None:
    with pytest.raises(UsageError, match="nothing is known of such an old"):
        flags_of(release)


@pytest.mark.parametrize("release", ["", "latest", "0.8.x", "v", ">=1.0"])
def test_what_is_no_release_is_refused_with_what_to_give(release: str) -> None:
    with pytest.raises(UsageError, match=r"such as 1\.2\.1"):
        version(release)


@pytest.mark.parametrize("topic", [*TOPICS, "replacements"])
def test_each_file_says_where_its_facts_come_from(topic: str) -> None:
    content = facts.topic(topic)
    assert content["about"]
    for source in content.get("sources", [content]):
        assert source["source"]
        assert source["method"]
        assert Certainty(source["certainty"]) is not Certainty.NEAREST


@pytest.mark.parametrize("topic", TOPICS)
def test_spans_are_in_order_name_releases_that_were_read_and_do_not_overlap(topic: str) -> None:
    for subject in facts.topic(topic)["subjects"].values():
        read = [release for release, _ in subject["releases"]]
        assert read == sorted(read, key=Version)
        for spans in subject["facts"].values():
            ends = [Version(end) for span in spans for end in span[:2]]
            assert ends == sorted(ends)
            assert {end for span in spans for end in span[:2]} <= set(read)
            assert all(one[1] != other[0] for one, other in itertools.pairwise(spans))
