"""Tests of answers: where they end, batches, and streams."""

import pytest

from enginery.triton.models.generation import Answer, Question, batches, generate
from enginery.triton.models.sampling import Sampling
from tests.support.triton.served import END, FILLER, ScriptedEngine, decode

ENGINE = ScriptedEngine({"q": "answer", "long question": "yes", "?": "é!"})


def question(prompt: str = "q", max_tokens: int = 10, **others: object) -> Question:
    return Question(list(prompt.encode()), max_tokens, end_ids=[END], **others)  # type: ignore[arg-type]


def answered(*questions: Question) -> list[str]:
    answers = [Answer(each, decode, stream=False) for each in questions]
    generate(ENGINE, answers, lambda: None)
    return [decode(answer.tokens) for answer in answers]


def test_an_answer_ends_with_the_end_token_and_without_it() -> None:
    answer = Answer(question(), decode, stream=False)
    generate(ENGINE, [answer], lambda: None)
    assert answer.tokens == list(b"answer")
    assert answer.finished


def test_an_answer_ends_at_its_longest() -> None:
    assert answered(question(max_tokens=3)) == ["ans"]


def test_an_answer_ends_with_a_stop_word() -> None:
    assert answered(question(stop_words=[list(b"sw")])) == ["answ"]


def test_several_are_answered_together_each_to_its_own_end() -> None:
    assert answered(question("long question"), question(), question("?", 2)) == ["yes", "answer", "é"]


def test_nothing_is_put_behind_the_last_token() -> None:
    answered(question(max_tokens=3))
    assert ENGINE.sessions[-1].appended == [[ord("a")], [ord("n")]]


def test_a_finished_row_is_filled_while_others_go_on() -> None:
    answered(question("long question"), question())
    assert [row[0] for row in ENGINE.sessions[-1].appended] == [*b"yes", FILLER, FILLER, FILLER]


def test_the_engine_gets_the_length_of_prompt_and_answer() -> None:
    answered(question("long question", 2), question("q", 20))
    assert ENGINE.lengths[-1] == len("long question") + 20


def test_after_each_step_the_new_tokens_are_there() -> None:
    answer = Answer(question(), decode, stream=False)
    seen: list[str] = []
    generate(ENGINE, [answer], lambda: seen.append(decode(answer.tokens)))
    assert seen == ["a", "an", "ans", "answ", "answe", "answer", "answer"]


def test_a_stopped_answer_does_not_go_on() -> None:
    answer = Answer(question(), decode, stream=False)
    generate(ENGINE, [answer], lambda: answer.stop() if len(answer.tokens) == 2 else None)
    assert decode(answer.tokens) == "an"


def test_a_streamed_answer_gives_whole_characters_and_at_last_an_end() -> None:
    answer = Answer(question("?"), decode, stream=True)
    taken: list[list[str]] = []
    generate(ENGINE, [answer], lambda: taken.append([piece.text for piece in answer.take_pieces()]))
    assert taken == [[], ["é"], ["!"], [""]]


def test_an_echoed_prompt_is_streamed_first() -> None:
    answer = Answer(question("?", echo=True), decode, stream=True)
    generate(ENGINE, [answer], lambda: None)
    assert [piece.text for piece in answer.take_pieces()] == ["?", "é", "!", ""]


def test_log_probabilities_are_kept_only_where_they_are_wanted() -> None:
    for wanted, count in ((True, len("answer")), (False, 0)):
        answer = Answer(question(log_probs=wanted), decode, stream=False)
        generate(ENGINE, [answer], lambda: None)
        assert len(answer.log_probs) == count


def test_neighbours_do_not_change_a_drawn_answer() -> None:
    drawn = question(sampling=Sampling(temperature=9.0, seed=4))
    alone = answered(drawn)[0]
    assert answered(question(), drawn, question("?", sampling=Sampling(temperature=9.0, seed=5)))[1] == alone


def ending_with_fillers(prompt: str, count: int, max_tokens: int = 10) -> Question:
    return Question([*prompt.encode(), *[FILLER] * count], max_tokens, end_ids=[END])


def test_fillers_that_belong_to_a_prompt_are_appended_to_it_because_the_library_would_ignore_them() -> None:
    assert answered(ending_with_fillers("q", 2)) == ["answer"]
    assert ENGINE.heads[-1] == [[ord("q")]]
    assert ENGINE.sessions[-1].appended[:3] == [[FILLER], [FILLER], [ord("a")]]


def test_a_prompt_of_fillers_alone_begins_with_one() -> None:
    engine = ScriptedEngine({"": "yes"})
    answer = Answer(Question([FILLER] * 3, 10, end_ids=[END]), decode, stream=False)
    generate(engine, [answer], lambda: None)
    assert (engine.heads, decode(answer.tokens)) == ([[[FILLER]]], "yes")


def test_an_answer_does_not_end_at_the_token_after_which_the_library_appends_nothing() -> None:
    """Then a new session goes on, with all that is there so far. It also begins with what others have got."""
    engine = ScriptedEngine({"q": "an|swer", "?": "a longer text", "x": "y"})
    engine.last_token = ord("|")
    answers = [Answer(question(text), decode, stream=False) for text in ("q", "?", "x")]
    generate(engine, answers, lambda: None)
    assert [decode(answer.tokens) for answer in answers] == ["an|swer", "a longer t", "y"]
    assert [list(map(decode, heads)) for heads in engine.heads] == [["q", "?", "x"], ["qan|", "?a l"]]


def batched(*questions: Question, most: int = 8) -> list[list[int]]:
    return list(batches(ENGINE, questions, most))


def test_questions_share_a_batch() -> None:
    assert batched(question(), question("long question"), question(sampling=Sampling(top_p=0.5))) == [[0, 1, 2]]


def test_a_batch_has_no_more_rows_than_allowed() -> None:
    assert batched(*[question()] * 5, most=2) == [[0, 1], [2, 3], [4]]


def test_a_long_prompt_and_a_long_answer_that_exceed_the_context_go_apart() -> None:
    long_prompt, long_answer = question("x" * 30, 5), question("y", 30)
    assert batched(long_prompt, long_answer, question()) == [[0, 2], [1]]
    assert batched(ending_with_fillers("y", 11, 28), question("x" * 11, 2)) == [[0], [1]]


def test_a_prompt_of_fillers_alone_goes_alone() -> None:
    assert batched(question(), ending_with_fillers("", 2), ending_with_fillers("a", 2)) == [[0, 2], [1]]


@pytest.mark.parametrize("count", [0, 1])
def test_few_requests_make_as_many_batches(count: int) -> None:
    assert batched(*[question()] * count) == [[0]] * count
