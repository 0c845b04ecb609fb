"""Any build options for any release: the recorded flags accept the arguments, or the finding gives a reason."""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginery.backends.tensorrt.build_defaults import WITHOUT_FLAG, EngineOptions, unset_changes, value_without_flag
from enginery.backends.tensorrt.build_options import OPTIONS, TRANSLATIONS, RenderedBuild, render_build
from enginery.models.facts import ModelFacts
from enginery.releases.facts import releases
from enginery.releases.flags import flags_of
from enginery.spec.build import BuildOptions
from enginery.spec.findings import stopping
from tests.support.models.examples import MIXTRAL_8X7B, PHI_2
from tests.support.plans.release_parser import Refused, parse

DTYPES = ("float16", "bfloat16", "float32", "")
NUMBERS = (1, 2, 5, 16, 64, 1024, 1025, 8192)
BETWEEN = (
    "0.8.1",
    "0.12.1",
    "0.17.0",
    "0.18.3",
    "1.0.0rc4",
    "1.2.1.post1",
    "1.3.0rc2",
    "1.3.0rc20",
    "1.3.0rc21",
    "2.0",
)
"""Releases whose own flags are not known. Some of them build no engines."""
PATHS = ("/adapters/one", "/two adapters")
MODELS = (None, ModelFacts.from_config(MIXTRAL_8X7B), ModelFacts.from_config(PHI_2))
WORDS = ("--nonsense", "-x", "7", "-7", "-1.5", "debug", "", "--", "a b", "--log_level=debug", "--log_level=x", "-a b")


SCHEMA = BuildOptions.model_json_schema()["properties"]


@cache
def choices(field: str) -> tuple[Any, ...]:
    """Values for a field: all possible values if there are few."""
    described = SCHEMA[field]
    kinds = [kind for kind in described.get("anyOf", [described]) if kind.get("type") != "null"]
    return tuple(value for kind in kinds for value in values(kind))


def values(kind: Mapping[str, Any]) -> Iterator[Any]:
    if "enum" in kind or "const" in kind:
        yield from kind.get("enum", [kind.get("const")])
    elif kind["type"] == "boolean":
        yield from (True, False)
    elif kind["type"] == "integer":
        yield from (one for one in (0, *NUMBERS) if kind["minimum"] <= one <= kind.get("maximum", one))
    elif kind["type"] == "array":
        items = tuple(values(kind["items"]))
        yield from (*((one,) for one in items), items)
    else:
        yield from PATHS


def verdict(build: RenderedBuild, release: str) -> str:
    """Whether the arguments are refused or accepted. Anything else fails the test."""
    if stopping(build.findings, ()):
        assert all(finding.problem and finding.path for finding in build.findings)
        return "refused"
    parse(release, build.flags)
    return "accepted"


SINGLES = [(field, value) for field in OPTIONS for value in choices(field)]
OPTION_SETS = (
    st.sets(st.sampled_from(OPTIONS), max_size=4)
    .flatmap(lambda names: st.fixed_dictionaries({name: st.sampled_from(choices(name)) for name in sorted(names)}))
    .map(BuildOptions.model_validate)
)


@pytest.mark.parametrize("release", releases())
def test_any_one_option_is_refused_or_arrives_as_it_was_meant(release: str) -> None:
    seen = set()
    for field, value in SINGLES:
        build = render_build(EngineOptions(BuildOptions.model_validate({field: value}), release))
        seen.add(verdict(build, release))
        if field in TRANSLATIONS or build.findings:
            continue
        read = parse(release, build.flags)
        if field not in read:
            assert value == value_without_flag(field, release)
            continue
        word = ("enable" if value else "disable") if isinstance(value, bool) else value
        assert read[field] in {value, word} if not isinstance(value, tuple) else read[field] == list(value)
    assert seen == {"accepted", "refused"}


@settings(max_examples=600)
@given(
    OPTION_SETS,
    st.sampled_from((*releases(), *BETWEEN)),
    st.sampled_from(DTYPES),
    st.sampled_from(MODELS),
    st.integers(1, 8),
)
def test_any_options_are_accepted_by_the_release_or_refused(
    options: BuildOptions, release: str, dtype: str, model: ModelFacts | None, ranks: int
) -> None:
    verdict(render_build(EngineOptions(options, release, dtype=dtype, model=model, ranks=ranks)), release)


@st.composite
def extra_arguments(draw: st.DrawFn) -> tuple[str, tuple[str, ...]]:
    release = draw(st.sampled_from(releases()))
    known = [*flags_of(release).value, *WORDS]
    return release, tuple(draw(st.lists(st.sampled_from(known), max_size=5)))


@settings(max_examples=300)
@given(extra_arguments())
def test_any_extra_arguments_are_accepted_by_the_release_or_refused(example: tuple[str, tuple[str, ...]]) -> None:
    release, arguments = example
    verdict(render_build(EngineOptions(BuildOptions(extra_args=arguments), release)), release)


@given(OPTION_SETS, st.sampled_from(releases()), st.sampled_from(releases()))
def test_what_changes_for_unset_fields_names_none_that_is_set(options: BuildOptions, old: str, new: str) -> None:
    changed = [sentence.partition(": ") for sentence in unset_changes(options, old, new)]
    assert not {field for field, _, _ in changed} & set(options.model_dump(exclude_none=True))
    assert all(before != after for _, _, change in changed for before, _, after in [change.partition(" -> ")])


@given(OPTION_SETS, st.sampled_from(releases()))
def test_nothing_changes_within_one_release(options: BuildOptions, release: str) -> None:
    assert unset_changes(options, release, release) == ()


@pytest.mark.parametrize("release", releases())
def test_what_is_left_out_is_not_passed(release: str) -> None:
    assert render_build(EngineOptions(BuildOptions(), release)).flags == ()


@pytest.mark.parametrize("release", releases())
def test_only_options_with_a_field_take_several_values(release: str) -> None:
    several = {name for name, flag in flags_of(release).value.items() if flag.nargs}
    assert several <= {f"--{field}" for field in OPTIONS}


def test_every_option_belongs_to_some_release() -> None:
    every = {name for release in releases() for name in flags_of(release).value}
    assert {f"--{field}" for field in OPTIONS} <= every


def test_a_value_for_releases_without_the_flag_is_kept_only_for_options_that_some_release_lacks() -> None:
    always = set.intersection(*(set(flags_of(release).value) for release in releases()))
    assert not {f"--{field}" for field in WITHOUT_FLAG} & always


@pytest.mark.parametrize(
    "argv", [("--max_batch_size", "x"), ("--max_batch", "1"), ("--gemm_plugin", "fp8"), ("--kv_cache_type", "paged")]
)
def test_the_recorded_flags_do_refuse(argv: tuple[str, ...]) -> None:
    with pytest.raises(Refused):
        parse("0.8.0", argv)
