"""Tests of the page that shows a build: it is complete, runs no script, and loads nothing from elsewhere."""

from datetime import UTC, datetime
from html.parser import HTMLParser

from enginery.builds.manifest import BuildTarget, Manifest
from enginery.builds.report import html_report
from enginery.spec.validation import Message
from enginery.store.steps import FileRecord
from tests.support.registry.builds import a_report
from tests.support.speeds import GPU, a_speed
from tests.support.store.records import a_chain

TARGET = BuildTarget(
    name="cpu-int4",
    gpu="cpu",
    backend="onnxruntime",
    release="0.18.0",
    precision="int4",
    tensor_parallel=1,
    pipeline_parallel=1,
)


def manifest(answers: dict[str, str]) -> Manifest:
    return Manifest(
        model="tiny",
        build_id="cpu-int4-0123456789ab",
        target=TARGET,
        created=datetime(2026, 11, 22, 12, tzinfo=UTC),
        enginery="0.1.0",
        registry="s3://engines/test",
        channel="candidate",
        files=(FileRecord(path="model_repository/ensemble/config.pbtxt", sha256="a" * 64, size=1234),),
        steps=a_chain(),
        validation=a_report(answers),
    )


class Tags(HTMLParser):
    """Collects every tag of a page, and whether each opened tag is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002  the base class's
        self.seen.append(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def tags(page: str) -> Tags:
    parser = Tags()
    parser.feed(page)
    return parser


def test_the_page_tells_target_answers_steps_and_files() -> None:
    made = manifest({"What is the capital of Norway?": "Oslo"})
    page = html_report(made)
    for text in ("tiny/cpu-int4-0123456789ab", "onnxruntime", "Norway", "Oslo", "ensemble/config.pbtxt", "1,234"):
        assert text in page
    for record in made.steps:
        assert record.label in page
        assert record.key in page


def test_every_tag_is_closed() -> None:
    parser = tags(html_report(manifest({"Hi": "there"})))
    assert parser.open == []


def test_a_prompt_cannot_put_anything_into_the_page() -> None:
    page = html_report(manifest({"<script>alert(1)</script>": "<img src=x>"}))
    assert "<script>" not in page
    assert "<img" not in page
    assert "&lt;script&gt;" in page


def test_the_page_needs_nothing_from_elsewhere() -> None:
    page = html_report(manifest({"Hi": "there"}))
    assert not set(tags(page).seen) & {"script", "link", "img", "iframe"}
    assert "http" not in page


def test_the_same_build_makes_the_same_page_whenever_it_is_published() -> None:
    made = manifest({"Hi": "there"})
    later = made.model_copy(update={"created": datetime(2027, 1, 1, tzinfo=UTC)})
    assert html_report(made) == html_report(later)


def test_a_chat_shows_the_users_words_first_and_then_what_was_sent() -> None:
    made = manifest({"Capital of <France>?": "Paris"})
    (result,) = made.validation.results
    chat = {"messages": (Message(role="user", content=result.prompt),), "sent": "<|im_start|>user"}
    report = made.validation.model_copy(update={"results": (result.model_copy(update=chat),), "notes": ("odd & so",)})
    page = html_report(made.model_copy(update={"validation": report}))
    assert page.index("Capital of &lt;France&gt;?") < page.index("&lt;|im_start|&gt;user")
    assert "note: odd &amp; so" in page
    assert not tags(page).open


def test_an_answer_without_an_expectation_is_recorded_only() -> None:
    made = manifest({"a": "b"})
    (result,) = made.validation.results
    recorded = made.validation.model_copy(update={"results": (result.model_copy(update={"expected": {}}),)})
    assert "recorded only" in html_report(made.model_copy(update={"validation": recorded}))


def test_the_speed_is_shown_with_its_machine_if_it_was_measured() -> None:
    plain = manifest({"Hi": "there"})
    assert "How fast it is" not in html_report(plain)
    speed = a_speed(machine=GPU, concurrency=(1, 8), peak_gpu_bytes=3 << 30, watts=418.7)
    page = html_report(plain.model_copy(update={"speed": speed}))
    assert "How fast it is" in page
    assert "57 in 5 starts" in page
    assert "NVIDIA H200 with driver 570.86.15" in page
    assert "3.2 GB of GPU memory, 418.7 W" in page
    assert not tags(page).open
