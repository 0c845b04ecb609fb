"""Rules about `speculative_config` of the LLM API."""

import re
from collections.abc import Callable, Mapping

from enginery.backends.pytorch.rule import Arguments, Rule, at, given, items, positive, under

SPECULATIVE = "speculative_config"
EAGLE = frozenset({"Eagle", "Eagle3"})
SIZE = re.compile(r"-?[0-9]{1,9}")


def decoding_type(one: Arguments) -> str:
    """The type of speculative decoding; empty if there is none."""
    found = at(one, (SPECULATIVE, "decoding_type"))
    return found if isinstance(found, str) else ""


def _drafts(*names: str) -> Callable[[Arguments], bool]:
    return lambda one: decoding_type(one) in names


def _lacks(names: frozenset[str], *keys: str) -> Callable[[Arguments], bool]:
    """A test for types of speculative decoding without one of these numbers, or with one that is not positive."""
    return lambda one: decoding_type(one) in names and not all(positive(at(one, (SPECULATIVE, key))) for key in keys)


def _lacks_model(names: frozenset[str]) -> Callable[[Arguments], bool]:
    keys = ("speculative_model", "speculative_model_dir")
    return lambda one: decoding_type(one) in names and not any(given(one, SPECULATIVE, key) for key in keys)


def _schedule(one: Arguments) -> dict[int, int]:
    """The draft lengths by batch size; empty if there are none. Keys may be text, as YAML and JSON write them."""
    found = at(one, (SPECULATIVE, "draft_len_schedule"))
    pairs = found.items() if isinstance(found, Mapping) else ()
    return {int(size): length for size, length in pairs if SIZE.fullmatch(str(size)) and type(length) is int}


def _most(one: Arguments) -> int | None:
    found = at(one, (SPECULATIVE, "max_draft_len"))
    return found if type(found) is int else None


def _begins_otherwise(one: Arguments) -> bool:
    schedule, most = _schedule(one), _most(one)
    return most is not None and 1 in schedule and schedule[1] != most


def _exceeds(one: Arguments) -> bool:
    most = _most(one)
    return most is not None and any(length > most for length in _schedule(one).values())


def _disconnected(one: Arguments) -> bool:
    choices = [choice for choice in items(at(one, (SPECULATIVE, "eagle_choices"))) if isinstance(choice, list)]
    return any(len(choice) > 1 and choice[:-1] not in choices for choice in choices)


def _tree(one: Arguments) -> bool:
    return decoding_type(one) in EAGLE and at(one, (SPECULATIVE, "use_dynamic_tree")) is True


def _samples_greedily(one: Arguments) -> bool:
    if at(one, (SPECULATIVE, "allow_advanced_sampling")) is True:
        return False
    if decoding_type(one) in EAGLE:
        return at(one, (SPECULATIVE, "eagle3_one_model")) is not False
    two_models = at(one, (SPECULATIVE, "mtp_eagle_one_model")) is False
    return decoding_type(one) == "MTP" and (not two_models or at(one, (SPECULATIVE, "use_mtp_vanilla")) is True)


_SCHEDULE = (SPECULATIVE, "draft_len_schedule")
_DRAFT_LENGTH, _DRAFT_MODEL = (SPECULATIVE, "max_draft_len"), (SPECULATIVE, "speculative_model")
_SIZES = ("max_window_size", "max_ngram_size", "max_verification_set_size")
TARGET = frozenset({"DraftTarget"})

SPECULATIVE_RULES = tuple(
    rule._replace(id=f"{SPECULATIVE}: {rule.id}")
    for rule in (
        Rule(
            *("acceptance_window below 0", (SPECULATIVE, "acceptance_window")),
            under((SPECULATIVE, "acceptance_window"), 0),
        ),
        Rule(
            *("acceptance_length_threshold below 0", (SPECULATIVE, "acceptance_length_threshold")),
            under((SPECULATIVE, "acceptance_length_threshold"), 0),
        ),
        Rule("draft_len_schedule with a batch below 1", _SCHEDULE, lambda one: any(n < 1 for n in _schedule(one))),
        Rule(
            *("draft_len_schedule with a length below 0", _SCHEDULE),
            lambda one: any(length < 0 for length in _schedule(one).values()),
        ),
        Rule(
            *("draft_len_schedule without batch 1", _SCHEDULE),
            lambda one: isinstance(at(one, _SCHEDULE), Mapping) and 1 not in _schedule(one),
        ),
        Rule("draft_len_schedule that begins with another length", _SCHEDULE, _begins_otherwise),
        Rule("draft_len_schedule over max_draft_len", _SCHEDULE, _exceeds),
        Rule("a type that the PyTorch backend lacks", (SPECULATIVE, "decoding_type"), _drafts("Medusa")),
        Rule("Lookahead in the PyTorch backend", (SPECULATIVE, "decoding_type"), _drafts("Lookahead")),
        Rule(
            *("Lookahead with sizes below 1", (SPECULATIVE, "max_window_size")),
            lambda one: (
                decoding_type(one) == "Lookahead" and any(under((SPECULATIVE, size), 1)(one) for size in _SIZES)
            ),
        ),
        Rule(
            *("Eagle without max_draft_len", _DRAFT_LENGTH),
            lambda one: decoding_type(one) in EAGLE and not given(one, *_DRAFT_LENGTH),
        ),
        Rule(
            *("Eagle with max_draft_len below 1", _DRAFT_LENGTH),
            lambda one: decoding_type(one) in EAGLE and under(_DRAFT_LENGTH, 1)(one),
        ),
        Rule("Eagle without a draft model", _DRAFT_MODEL, _lacks_model(EAGLE)),
        Rule(
            *("Eagle with choices and a dynamic tree", (SPECULATIVE, "use_dynamic_tree")),
            lambda one: _tree(one) and given(one, SPECULATIVE, "eagle_choices"),
        ),
        Rule(
            *("Eagle with a dynamic tree and no dynamic_tree_max_topK", (SPECULATIVE, "dynamic_tree_max_topK")),
            lambda one: _tree(one) and not positive(at(one, (SPECULATIVE, "dynamic_tree_max_topK"))),
        ),
        Rule(
            *("Eagle with choices that are not connected", (SPECULATIVE, "eagle_choices")),
            lambda one: decoding_type(one) in EAGLE and _disconnected(one),
        ),
        Rule("Eagle instead of Eagle3", (SPECULATIVE, "decoding_type"), _drafts("Eagle")),
        Rule(
            *("NGram without lengths", (SPECULATIVE, "max_matching_ngram_size")),
            _lacks(frozenset({"NGram"}), "max_draft_len", "max_matching_ngram_size"),
        ),
        Rule("DraftTarget without max_draft_len", _DRAFT_LENGTH, _lacks(TARGET, "max_draft_len")),
        Rule("DraftTarget without a draft model", _DRAFT_MODEL, _lacks_model(TARGET)),
        Rule(
            *("MTP with num_nextn_predict_layers below 1", (SPECULATIVE, "num_nextn_predict_layers")),
            lambda one: decoding_type(one) == "MTP" and under((SPECULATIVE, "num_nextn_predict_layers"), 1)(one),
        ),
        Rule("SaveState", (SPECULATIVE, "decoding_type"), _drafts("SaveState")),
        Rule(
            *("NGram with the overlap scheduler", (SPECULATIVE, "decoding_type")),
            lambda one: decoding_type(one) == "NGram" and at(one, ("disable_overlap_scheduler",)) is not True,
        ),
        Rule("one model without allow_advanced_sampling", (SPECULATIVE,), _samples_greedily),
    )
)
