"""`make demo` and `enginery demo`: the whole pipeline on this machine, from a spec to an answer of a Triton server."""

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Self

import urllib3
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from enginery import toolchains
from enginery.cli.output import outcomes_table
from enginery.core.errors import RolloutError, UsageError
from enginery.dev import REGISTRY, TITLES, Services, in_environment, newest_toolchain, services
from enginery.spec import Spec, read_spec

if TYPE_CHECKING:
    from collections.abc import Callable

    from enginery.pipeline import BuildSummary

BODY = (
    '{"text_input": "How do I count to nine in French?",'
    ' "parameters": {"max_tokens": 100, "bad_words": [""], "stop_words": [""]}}'
)
"""The request that the TensorRT-LLM tutorial sends in its step 9."""

EXPECTED = "neuf"
HEADERS = {"Content-Type": "application/json"}
GENERATE = "/v2/models/ensemble/generate"
ANSWER_SECONDS = 60.0
SECONDS_BETWEEN_LINES = 5.0
LINE_LENGTH = 110
SERVED_TARGET = "cpu-int4"

NEXT = """\
  source .venv/bin/activate      put enginery on your PATH
  enginery dev up                keep Prefect with its UI, S3 and Triton running
  eval "$(enginery dev env)"     make the commands below use them
  enginery list                  what is published
  enginery lineage tiny-llama@candidate/cpu-int4
                                 where the served build came from
  enginery plan infra/models/tiny-llama.yaml --commands
                                 every command of the pipeline, to paste"""
"""The last lines that are printed: commands to try next."""


def run_demo(console: Console, load_flow: "Callable[[], Callable[..., BuildSummary]]") -> int:
    """Build, publish, roll out and query the example model; returns the exit status.

    Services that already run are used and not stopped. The others are started, and stopped at the end.

    Raises:
        EngineryError: when a part of the demo fails.
    """
    started = time.monotonic()
    were_running = services.status() is not None
    with Progress(console) as progress, ThreadPoolExecutor(max_workers=2, thread_name_prefix="demo") as threads:
        progress.say("starting Prefect, S3 and Triton; the first time, making environments takes minutes")
        flow = threads.submit(load_flow)  # Prefect takes seconds to import
        ready = threads.submit(toolchains.ensure, newest_toolchain("onnxruntime"), progress.detail)
        with services.session(progress.log) as running, in_environment(services.environment(running)):
            ready.result()
            summary = _build(flow, running, progress)
            progress.say("asking the model")
            answer = query_model(running.triton_url)
            good = EXPECTED in answer
            verdict = "[green]the answer is right[/]" if good else f"[red]the answer is wrong: no {EXPECTED!r} in it[/]"
            _show(console, summary, running, answer, were_running=were_running)
            console.print(f"{verdict}, after {time.monotonic() - started:.0f} s")
            progress.say("the services ran before and keep running" if were_running else "stopping the services")
    return 0 if good else 1


def demo_spec(triton_url: str) -> Spec:
    """The example's spec, published to the local S3 and rolled out to the local Triton.

    Raises:
        UsageError: when Enginery was installed without its examples.
    """
    package = Path(__file__).parents[1]
    for infra in (package / "_infra", package.parent / "infra"):
        path = infra / "models" / "tiny-llama.yaml"
        if path.is_file():
            rollout = (f"rollout.endpoints=[{triton_url}]", f"rollout.target={SERVED_TARGET}")
            return read_spec(path, (f"publish.to={REGISTRY}", *rollout))
    raise UsageError("the example model is not installed", remedy="run the demo in a clone of Enginery's repository")


def query_model(triton_url: str) -> str:
    """Send the tutorial's request and return the text of the answer.

    Raises:
        RolloutError: when the model does not answer.
    """
    pool = urllib3.PoolManager(retries=False, timeout=ANSWER_SECONDS)
    try:
        response = pool.request("POST", f"{triton_url}{GENERATE}", body=BODY, headers=HEADERS)
        return str(response.json()["text_output"])
    except (urllib3.exceptions.HTTPError, ValueError, KeyError) as error:
        remedy = "read the log of Triton in the services' directory"
        raise RolloutError(f"the model does not answer: {error}", subject=triton_url, remedy=remedy) from error


def _build(flow: "Future[Callable[..., BuildSummary]]", running: Services, progress: "Progress") -> "BuildSummary":
    spec = demo_spec(running.triton_url)
    progress.say(f"building {spec.name} for {' and '.join(target.name for target in spec.targets)}")
    return flow.result()(spec, store=None, say=progress.log)


class Progress:
    """The output of the demo while it works: important lines, and below them a status line."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.started = self.last_line = time.monotonic()
        self.status = console.status("starting")
        self.lock = threading.Lock()

    def __enter__(self) -> Self:
        self.status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.status.stop()

    def say(self, line: str) -> None:
        """Print a line that stays on the screen."""
        self._status(line)
        with self.lock:
            self.last_line = time.monotonic()
            self.console.print(f"[dim]{self.last_line - self.started:5.1f} s[/]  ", end="")
            self.console.print(line, markup=False)

    def detail(self, line: str) -> None:
        """Show a line as the status. Without a terminal, print a line every few seconds."""
        if self.console.is_terminal:
            self._status(line)
        elif time.monotonic() - self.last_line > SECONDS_BETWEEN_LINES:
            self.say(shorten(line, LINE_LENGTH, placeholder=" …"))

    def _status(self, line: str) -> None:
        first = line.partition("\n")[0][: self.console.width - 4]
        self.status.update(Text(first))

    def log(self, line: str) -> None:
        """Print an important log line of the services, toolchains or flow; show any other line as the status."""
        step, bar, _ = line.partition(" | ")
        important = line.startswith((*TITLES.values(), "toolchain ", "making toolchain ")) or (not bar and ": " in step)
        (self.say if important else self.detail)(line)


def _show(console: Console, summary: "BuildSummary", running: Services, answer: str, *, were_running: bool) -> None:
    console.print(outcomes_table(summary.steps))
    console.print(f"[bold]{summary.sentence}[/]")
    for address in summary.published:
        console.print(f"  published  {address}", markup=False)
    if were_running and summary.run_url:
        console.print(f"  Prefect    {summary.run_url}", markup=False)
    curl = f"curl -X POST {running.triton_url}{GENERATE} -d '{BODY}'"
    console.print(Panel(answer.strip(), title="How do I count to nine in French?", title_align="left", expand=False))
    console.print("Ask again:" if were_running else "Ask again, after `enginery dev up` has printed its address:")
    console.print(f"  {curl}", markup=False, soft_wrap=True)
    console.print("Next:", NEXT, sep="\n", markup=False)
