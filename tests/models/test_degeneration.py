"""Tests of degenerate answers: what is a loop and what is not, and which script an answer is in."""

import pytest

from enginery.models.chat.degeneration import foreign_script, is_empty, loop_in

WEEK = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"


@pytest.mark.parametrize(
    ("answer", "unit", "times"),
    [
        ("two, two, two, two, two, tw", "two,", 5),
        ("two, " * 32, "two,", 32),
        (" the" * 64, "the", 64),
        (
            "L'Étoile, la Marseillaise, la femme au roi, la femme au roi, la femme au roi, la femme au",
            "la femme au roi,",
            4,
        ),
        ("The capital is Paris. The capital is Paris. The capital is Paris. The cap", "The capital is Paris.", 4),
        ("!" * 64, "!", 64),
        ("a" * 200, "a", 200),
        ("ababab" * 20, "ab", 60),
        ("我们我们我们我们我们我们", "我们", 6),
        ("\ufffd" * 64, "\ufffd", 64),
        (f"It is {WEEK}, I think. " + "So it is what it is, " * 8, "So it is what it is,", 8),
    ],
)
def test_an_answer_that_ends_in_the_same_words_again_and_again_is_a_loop(answer: str, unit: str, times: int) -> None:
    loop = loop_in(answer, ended=False)
    assert loop is not None
    assert loop.unit == unit
    assert abs(loop.times - times) <= 1


@pytest.mark.parametrize("answer", ["two, two, two, two", "two, two, two, two.", "no no no no no no", "!" * 12])
def test_an_answer_that_ended_is_a_loop_if_it_is_nothing_else(answer: str) -> None:
    assert loop_in(answer, ended=True)


LINES = "x = 1\nfor i in range(3):\n    print(x)\nprint(x)\nprint(x)\nprint(x)\nprint(x)\n"


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "Paris",
        "yes yes",
        "ha ha ha",
        WEEK,
        f"{WEEK} {WEEK}",
        "0 1 2 3",
        " ".join(map(str, range(40))),
        "un, deux, trois, quatre, cinq, six, sept, huit, neuf",
        "1000000000",
        "1,000,000,000",
        "10" * 20,
        "[0, 0, 0, 0, 0, 0, 0, 0]",
        "| a | b | c | d |\n|---|---|---|---|\n",
        "Row, row, row your boat. Merrily, merrily, merrily, merrily, life is but a dream.",
        "- apple\n- pear\n- plum\n- fig\n",
        "</div>\n</div>\n</div>\n</div>\n</div>",
        "def f():\n    a = 0\n    b = 0\n    c = 0\n    d = 0\n",
        LINES,
    ],
)
def test_lists_numbers_songs_tables_and_programs_are_no_loops(answer: str) -> None:
    assert loop_in(answer, ended=True) is None


@pytest.mark.parametrize("answer", [WEEK, f"{WEEK} {WEEK} Mon", "0 1 2 3 4 5 6 7 8 9 1", LINES, "Title\n=====\n\nSo"])
def test_a_cut_off_answer_is_a_loop_only_if_much_of_it_is_the_same(answer: str) -> None:
    assert loop_in(answer, ended=False) is None


def test_an_answer_of_white_space_is_empty() -> None:
    assert is_empty(" \n\t")
    assert not is_empty(" .")


@pytest.mark.parametrize(
    ("answer", "others", "script"),
    [
        ("Привет, как дела", ("Say hello", "Hello there"), "CYRILLIC"),
        ("你好你好世界", ("Say hello", "Hello"), "CJK"),
        ("こんにちは世界", ("Say hello", "Hello"), "CJK"),
        ("Paris is the capital, and then สวัสดีครับสวัสดีครับสวัสดีครับ", ("Which?", "Paris"), "THAI"),
        ("Привет, как дела", ("Say hello", "Привет"), ""),
        ("Привет, как дела", ("Скажи", "Hello"), ""),
        ("Hello there, my friend", ("Say hello", "Hello"), ""),
        ("Paris (Париж) is the capital of France", ("Which?", "Paris"), ""),
        ("1 + 1 = 2", ("?", "2"), ""),
        ("\uff28\uff45\uff4c\uff4c\uff4f there friends", ("Say hello", "Hello"), ""),
    ],
)
def test_the_script_of_an_answer_is_compared_with_prompt_and_reference(
    answer: str, others: tuple[str, ...], script: str
) -> None:
    assert foreign_script(answer, *others) == script
