from pathlib import Path

import pytest

from enginery.backends.reference.step import spread
from enginery.backends.reference.texts import Text, read_texts, require_texts, texts_digest
from enginery.core.errors import SourceError


def test_a_directory_gives_its_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("zwei")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.txt").write_text("eins")
    (tmp_path / "README.md").write_text("no text to compare on")
    assert read_texts(tmp_path) == [Text("b", "zwei"), Text("sub/a", "eins")]


def test_each_line_of_a_jsonl_file_is_a_text(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"text": "one\\u2028still one"}\n\n{"text": " "}\n{"text": "three", "more": 1}\n')
    assert read_texts(path) == [Text("mine:1", "one\u2028still one"), Text("mine:4", "three")]


def test_a_line_separator_inside_a_jsonl_text_does_not_end_the_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"text": "one\u2028still one"}\n', encoding="utf-8")
    assert read_texts(path) == [Text("mine:1", "one\u2028still one")]


def test_files_that_differ_only_in_their_ending_have_different_names(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "a.jsonl").write_text('{"text": "two"}')
    assert [text.name for text in read_texts(tmp_path)] == ["a.jsonl:1", "a.txt"]


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone")
    assert read_texts(tmp_path / "a.txt") == [Text("a", "one")]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.txt", b" \n", "only empty texts"),
        ("a.txt", b"\xff\xfe", "is not UTF-8: byte 0"),
        ("a.jsonl", b"no json", "line 1 is not JSON"),
        ("a.jsonl", b'{"text": "one"}\n{"texts": "two"}', "line 2 is not an object with a text"),
        ("a.jsonl", b'["one"]', "line 1 is not an object with a text"),
        ("a.csv", b"one", "does not end in .txt or .jsonl"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_what_is_wrong(
    tmp_path: Path, name: str, content: bytes, problem: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=problem) as error:
        read_texts(tmp_path / name)
    assert name in str(error.value)


def test_a_path_without_texts_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"has no files that end in \.txt or \.jsonl"):
        read_texts(tmp_path)
    with pytest.raises(SourceError, match="does not exist"):
        texts_digest(tmp_path / "gone")


def test_the_digest_changes_with_the_content_and_not_with_the_place(tmp_path: Path) -> None:
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "a.txt").write_text("same")
    first = texts_digest(tmp_path / "one")
    assert texts_digest(tmp_path / "two") == first
    (tmp_path / "two" / "a.txt").write_text("other")
    assert texts_digest(tmp_path / "two") != first


def test_texts_that_changed_since_the_plan_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one")
    planned = texts_digest(path)
    assert require_texts(path, planned) == [Text("a", "one")]
    path.write_text("two, and longer")
    with pytest.raises(SourceError, match="not the texts that the plan was made for"):
        require_texts(path, planned)


def test_of_very_many_texts_some_are_used_from_the_first_to_the_last() -> None:
    texts = [Text(str(number), "text") for number in range(1000)]
    assert [text.name for text in spread(texts, 4)] == ["0", "250", "500", "750"]
    assert spread(texts[:3], 4) == texts[:3]
    assert spread(texts[:3], 0) == texts[:1]
