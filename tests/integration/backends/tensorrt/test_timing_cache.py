"""Tests of timing caches: fetched before a build, kept after it, and never the reason for a failed build."""

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import JsonValue

from enginery.backends.tensorrt import timing_cache
from enginery.backends.tensorrt.timing_cache import ATTEMPTS, Fetched, TimingCaches, packed, unpacked
from enginery.core.errors import CommandError, StoreError
from enginery.store.shelf import Kept, LocalShelf
from tests.support.engines.tensorrt import GPU, Site, make_site
from tests.support.trtllm.files.timing_cache import MAGIC
from tests.support.trtllm.using import Example

BUILD = "trtllm-build"
TENSORRT = "10.7.0"
NAME = f"timing-caches/{GPU}/{TENSORRT}"


def never(_first: bytes, _second: bytes) -> bytes | None:
    raise AssertionError("there is nothing to merge")


def joined(first: bytes, second: bytes) -> bytes | None:
    return first + second


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def caches(tmp_path: Path, lines: list[str]) -> TimingCaches:
    return TimingCaches(LocalShelf(tmp_path / "shelf"), GPU, TENSORRT, lines.append)


def put(caches: TimingCaches, data: bytes) -> None:
    kept = caches.shelf.get(caches.name)
    assert caches.shelf.put(caches.name, data, after=kept.tag if kept else None)


def put_cache(caches: TimingCaches, cache: bytes, **seconds: float) -> Fetched:
    put(caches, packed(GPU, TENSORRT, cache, seconds))
    return caches.fetch()


# What is kept


def test_nothing_is_there_before_the_first_build(caches: TimingCaches, lines: list[str]) -> None:
    assert caches.fetch() == Fetched()
    assert not lines


def test_what_a_build_wrote_is_there_for_the_next(caches: TimingCaches) -> None:
    assert caches.keep(b"first", Fetched(), "shape", 9.0, never) == "saved"
    fetched = caches.fetch()
    assert fetched.cache == b"first"
    assert fetched.seconds_without == {"shape": 9.0}


def test_a_cache_with_line_ends_in_it_is_kept_as_it_is(caches: TimingCaches) -> None:
    caches.keep(b"\n\x00a\r\n", Fetched(), "shape", 9.0, never)
    assert caches.fetch().cache == b"\n\x00a\r\n"


def test_each_gpu_and_each_tensorrt_has_its_own(caches: TimingCaches) -> None:
    caches.keep(b"here", Fetched(), "shape", 9.0, never)
    for gpu, tensorrt in (("L4", TENSORRT), (GPU, "10.8.0")):
        assert TimingCaches(caches.shelf, gpu, tensorrt, caches.log).fetch().cache is None


def test_a_build_with_the_cache_replaces_it_by_what_it_became(caches: TimingCaches) -> None:
    used = put_cache(caches, b"old")
    assert caches.keep(b"old and more", used, "shape", 9.0, never) == "saved"
    assert caches.fetch().cache == b"old and more"


def test_the_time_without_a_cache_is_remembered_by_builds_with_one(caches: TimingCaches) -> None:
    used = put_cache(caches, b"old", shape=9.0)
    caches.keep(b"old and more", used, "shape", 2.0, never)
    assert caches.fetch().seconds_without == {"shape": 9.0}


def test_a_cache_that_did_not_change_is_not_written_again(caches: TimingCaches, lines: list[str]) -> None:
    used = put_cache(caches, b"same")
    assert caches.keep(b"same", used, "shape", 9.0, never) == "unchanged"
    assert not lines


def test_only_so_many_times_are_remembered(caches: TimingCaches, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing_cache, "REMEMBERED", 2)
    put_cache(caches, b"cache", first=1.0, second=2.0)
    caches.keep(b"cache and more", caches.fetch().refused, "third", 3.0, never)
    assert caches.fetch().seconds_without == {"second": 2.0, "third": 3.0}


def test_a_release_that_writes_none_leaves_what_is_there(caches: TimingCaches) -> None:
    used = put_cache(caches, b"of another release")
    assert caches.keep(b"", used, "shape", 9.0, never) == "unchanged"
    assert caches.fetch().cache == b"of another release"


def test_a_smaller_cache_does_not_replace_a_good_one_unmerged(caches: TimingCaches) -> None:
    used = put_cache(caches, b"large and good")
    assert caches.keep(b"small", used, "shape", 9.0, lambda _first, _second: None) == "unchanged"
    assert caches.fetch().cache == b"large and good"
    assert caches.keep(b"small", used, "shape", 9.0, joined) == "saved"
    assert caches.fetch().cache == b"smalllarge and good"


# Two builds at the same time


def test_what_another_build_kept_meanwhile_is_merged(caches: TimingCaches) -> None:
    put_cache(caches, b"theirs")
    assert caches.keep(b"ours", Fetched(), "shape", 9.0, joined) == "saved"
    assert caches.fetch().cache == b"ourstheirs"


def test_where_merging_fails_the_newer_one_is_kept(caches: TimingCaches) -> None:
    put_cache(caches, b"theirs", theirs=5.0)
    caches.keep(b"ours", Fetched(), "shape", 9.0, lambda _first, _second: None)
    fetched = caches.fetch()
    assert fetched.cache == b"ours"
    assert fetched.seconds_without == {"theirs": 5.0, "shape": 9.0}


def test_of_many_builds_at_once_nothing_is_lost(caches: TimingCaches) -> None:
    words = [f"{number};".encode() for number in range(ATTEMPTS)]

    def union(first: bytes, second: bytes) -> bytes | None:
        return b"".join(sorted({word + b";" for word in (first + second).split(b";") if word}))

    with ThreadPoolExecutor(len(words)) as pool:
        kept = list(pool.map(lambda word: caches.keep(word, Fetched(), word.decode(), 9.0, union), words))
    assert kept == ["saved"] * len(words)
    fetched = caches.fetch()
    assert fetched.cache == b"".join(words)
    assert len(fetched.seconds_without) == len(words)


def test_a_build_that_others_always_overtake_gives_up_and_says_so(
    caches: TimingCaches, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalShelf, "put", lambda *_given, **_named: False)
    assert caches.keep(b"ours", Fetched(), "shape", 9.0, never) == "not saved"
    assert lines == [f"timing cache not kept: other builds replaced {NAME} {ATTEMPTS} times meanwhile"]


# A bad cache


def change(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def described_as(**changed: str) -> Callable[[bytes], bytes]:
    def made(data: bytes) -> bytes:
        line, _, cache = data.partition(b"\n")
        return json.dumps(json.loads(line) | changed).encode() + b"\n" + cache

    return made


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (change, "cut short or changed"),
        (lambda data: data[:-3], "cut short or changed"),
        (lambda data: data.partition(b"\n")[0], "cut short or changed"),
        (lambda data: data[5:], "does not begin with its description"),
        (lambda _data: b"", "does not begin with its description"),
        (lambda _data: b"\xff\xfe\n", "does not begin with its description"),
        (described_as(tensorrt="9.2.0"), "made by TensorRT 9.2.0, this is 10.7.0"),
        (described_as(gpu="L4"), f"measured on L4, this is {GPU}"),
    ],
)
def test_a_bad_cache_is_discarded_with_a_reason_and_replaced(
    caches: TimingCaches, lines: list[str], spoil: Callable[[bytes], bytes], why: str
) -> None:
    put(caches, spoil(packed(GPU, TENSORRT, b"a good cache", {})))
    used = caches.fetch()
    assert used.cache is None
    assert [f"timing cache {NAME} is discarded: " in line and why in line for line in lines] == [True]
    assert caches.keep(b"new", used, "shape", 9.0, never) == "saved"
    assert caches.fetch().cache == b"new"


def test_one_that_tensorrt_refused_is_replaced_and_not_merged(caches: TimingCaches) -> None:
    used = put_cache(caches, b"large and refused")
    assert caches.keep(b"new", used.refused, "shape", 9.0, never) == "saved"
    assert caches.fetch().cache == b"new"


def test_one_that_was_refused_is_discarded_even_for_nothing(caches: TimingCaches) -> None:
    used = put_cache(caches, b"refused")
    assert caches.keep(b"", used.refused, "shape", 9.0, never) == "saved"
    assert caches.fetch().cache is None
    assert caches.keep(b"new", caches.fetch(), "shape", 9.0, never) == "saved"
    assert caches.fetch().cache == b"new"


def test_a_good_one_that_came_meanwhile_is_not_lost_to_a_refused_one(caches: TimingCaches) -> None:
    refused = put_cache(caches, b"refused").refused
    put_cache(caches, b"theirs")
    caches.keep(b"ours", refused, "shape", 9.0, joined)
    assert caches.fetch().cache == b"ourstheirs"


class UnreachableShelf:
    """A shelf that cannot be reached."""

    def get(self, name: str) -> Kept | None:
        raise StoreError("cannot be reached", subject=name)

    def put(self, name: str, data: bytes, *, after: str | None) -> bool:
        raise StoreError("cannot be reached", subject=f"{name} {len(data)} {after}")


def test_a_shelf_that_is_away_stops_nothing(lines: list[str]) -> None:
    caches = TimingCaches(UnreachableShelf(), GPU, TENSORRT, lines.append)
    assert caches.fetch() == Fetched()
    assert caches.keep(b"ours", Fetched(), "shape", 9.0, never) == "not saved"
    assert lines
    assert all("cannot be reached" in line for line in lines)


def test_a_description_of_a_newer_enginery_can_be_read() -> None:
    described, cache = unpacked(described_as(more="that is not known here")(packed(GPU, TENSORRT, b"cache", {})))
    assert described is not None
    assert cache == b"cache"


# Builds with the stand-in


@pytest.fixture
def site(tmp_path: Path, trtllm_examples: Mapping[str, Example]) -> Site:
    return make_site(tmp_path, "0.16.0", tensorrt=TENSORRT, checkpoint=trtllm_examples["0.16.0"].checkpoint())


def cache_of(facts: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    found = facts["timing_cache"]
    assert isinstance(found, dict)
    return found


def own(site: Site, tensorrt: str = TENSORRT) -> TimingCaches:
    return TimingCaches(site.store.shelf(), GPU, tensorrt, lambda _: None)


def test_the_second_build_begins_with_what_the_first_measured(site: Site) -> None:
    first = site.build()
    assert cache_of(first) == {"used": False, "kept": "saved"}
    assert "68 new layers timed" in site.log
    second = site.build()
    assert "0 new layers timed" in site.log
    assert "68 new layers timed" not in site.log
    facts = cache_of(second)
    assert facts["used"] is True
    assert facts["kept"] == "unchanged"
    assert facts["seconds_without"] == first["seconds"]
    before, now = first["seconds"], second["seconds"]
    assert isinstance(before, float)
    assert isinstance(now, float)
    assert facts["seconds_saved"] == round(before - now, 3)


def test_a_build_of_another_shape_says_nothing_of_savings(site: Site) -> None:
    site.build()
    assert set(cache_of(site.build("--max_batch_size", "4"))) == {"used", "kept"}


def test_the_cache_is_no_part_of_the_output(site: Site) -> None:
    site.build()
    context = site.context()
    site.build(context=context)
    assert sorted(path.name for path in context.output.iterdir()) == ["config.json", "rank0.engine"]


def test_0_8_reads_a_cache_but_writes_none(tmp_path: Path) -> None:
    site = make_site(tmp_path, "0.8.0", tensorrt=TENSORRT)
    assert cache_of(site.build()) == {"used": False, "kept": "unchanged"}
    own(site).keep(MAGIC + b'{"tensorrt": "10.7.0", "timed": []}', Fetched(), "shape", 9.0, never)
    assert cache_of(site.build()) == {"used": True, "kept": "unchanged"}
    assert site.stand_in.calls(BUILD)[-1].argv[-2:] == ("--timing_cache", "given.cache")
    assert own(site).fetch().cache


@pytest.mark.parametrize("crash", [False, True])
def test_a_build_that_fails_over_its_cache_succeeds_without(site: Site, *, crash: bool) -> None:
    site.build()
    site.stand_in.misbehave(BUILD, "bad_timing_cache", crash=crash)
    context = site.context()
    facts = site.build(context=context)
    assert "the timing cache is discarded, and the build begins again without it" in site.log
    assert cache_of(facts) == {"used": False, "kept": "saved"}
    assert sorted(path.name for path in context.output.iterdir()) == ["config.json", "rank0.engine"]
    assert len(context.completed) == 1
    site.stand_in.behave()
    assert cache_of(site.build())["used"] is True


def test_a_build_that_fails_for_another_reason_does_not_lose_its_cache(site: Site) -> None:
    site.build()
    before = own(site).fetch()
    site.stand_in.misbehave(BUILD, "gpu_out_of_memory")
    with pytest.raises(CommandError):
        site.build()
    assert len(site.stand_in.calls(BUILD)) == 2
    assert own(site).fetch() == before


def test_a_cache_of_another_tensorrt_is_refused_by_it_and_replaced(site: Site) -> None:
    foreign = MAGIC + b'{"tensorrt": "9.2.0", "timed": ["x"]}'
    own(site).keep(foreign, Fetched(), "shape", 9.0, never)
    facts = site.build()
    assert "TensorRT did not take the timing cache; it is discarded" in site.log
    assert cache_of(facts) == {"used": False, "kept": "saved"}
    kept = own(site).fetch().cache
    assert kept is not None
    assert b"9.2.0" not in kept


def test_what_another_build_measured_meanwhile_is_merged_by_tensorrt(site: Site) -> None:
    site.build()
    mine = own(site).fetch().cache
    assert mine is not None
    own(site).keep(
        MAGIC + b'{"tensorrt": "10.7.0", "timed": ["theirs"]}', own(site).fetch().refused, "shape", 9.0, never
    )
    builder_sees_nothing = site.context()
    builder_sees_nothing.shelf = LateShelf(site.store.shelf())
    facts = site.build(context=builder_sees_nothing)
    assert cache_of(facts)["kept"] == "saved"
    merged = own(site).fetch().cache
    assert merged is not None
    assert b'"theirs"' in merged
    assert len(merged) > len(mine)


def test_where_tensorrt_cannot_merge_the_newer_is_kept_and_the_build_counts(site: Site) -> None:
    own(site).keep(b"no cache of TensorRT's", Fetched(), "shape", 9.0, never)
    context = site.context()
    context.shelf = LateShelf(site.store.shelf())
    assert cache_of(site.build(context=context))["kept"] == "saved"
    assert "two timing caches could not be merged" in site.log
    assert len(context.completed) == 1


def test_without_knowing_its_tensorrt_nothing_is_cached(site: Site) -> None:
    site.tensorrt = ""
    facts = site.build()
    assert cache_of(facts) == {"used": False, "kept": "not saved"}
    assert "no timing cache: the version of TensorRT is not known" in site.log
    assert not (site.store.root / "shelf").exists()


class LateShelf:
    """A shelf whose first read finds nothing, because the cache is put there a moment later."""

    def __init__(self, shelf: LocalShelf) -> None:
        self.shelf = shelf
        self.was_read = False

    def get(self, name: str) -> Kept | None:
        found = self.shelf.get(name) if self.was_read else None
        self.was_read = True
        return found

    def put(self, name: str, data: bytes, *, after: str | None) -> bool:
        return self.shelf.put(name, data, after=after)
