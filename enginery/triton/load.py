"""Measures a served model under load, with AIPerf: NVIDIA's load generator, in a toolchain of its own.

AIPerf sends requests to Triton's `generate_stream` endpoint, through its endpoint type `template`. A model that is not
decoupled has no such endpoint. Then `generate` is used, which gives an answer in one piece: there is no time to the
first token and none between tokens.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from enginery.builds import Machine
from enginery.core.errors import CommandError, UsageError
from enginery.core.files import write_atomic
from enginery.core.model import Frozen
from enginery.core.progress import Log
from enginery.toolchains import Access, Toolchain, ensure
from enginery.triton.client import TritonClient

AIPERF = "aiperf-0.13"
RESULT = "profile_export_aiperf.json"
TIMEOUT_SECONDS = 3600.0
BUILTIN = "builtin"
"""AIPerf's own tokenizer, for a model whose tokenizer is not at hand."""
ENVIRONMENT = {"HF_HUB_DISABLE_TELEMETRY": "1"}
"""Not HF_HUB_OFFLINE: with it AIPerf looks for a tokenizer's directory in the Hub's cache."""
SEED = "20260101"


class Latency(Frozen):
    """Milliseconds, over all requests."""

    median: float
    p99: float
    mean: float


class ServedLoad(Frozen):
    """The speed with one number of requests at once.

    Attributes:
        concurrency: how many requests.
        requests: how many were answered.
        errors: how many failed.
        first_ms: from the request to the first token; None without streaming.
        gap_ms: between two tokens, the mean of each request; None without streaming.
        request_ms: from the request to the end of the answer.
        output_tokens: the mean length of an answer, as counted with the tokenizer.
        tokens_per_second: of all requests together.
        requests_per_second: how many were answered.
    """

    concurrency: int
    requests: int
    errors: int
    first_ms: Latency | None
    gap_ms: Latency | None
    request_ms: Latency
    output_tokens: float
    tokens_per_second: float
    requests_per_second: float


class ServedSpeed(Frozen):
    """How fast a served model is.

    Attributes:
        url: the server.
        model: the model that was asked.
        streaming: whether its answers come token by token.
        server: the server's name and version.
        client: the machine that sent the requests, and that may be the server's too.
        tokenizer: what tokens were counted with: a directory, or `builtin`.
        notes: what to know about the figures.
    """

    url: str
    model: str
    streaming: bool
    server: str
    client: Machine
    generator: str
    prompt_tokens: int
    output_tokens: int
    tokenizer: str
    loads: tuple[ServedLoad, ...]
    notes: tuple[str, ...] = ()


def measure_served(  # noqa: PLR0913  each is an option of the command
    url: str,
    model: str,
    *,
    concurrency: Sequence[int],
    prompt_tokens: int,
    output_tokens: int,
    requests: int,
    tokenizer: Path | None,
    log: Log,
) -> ServedSpeed:
    """Measure a served model with each number of requests at once.

    Args:
        url: the server, such as `http://triton:8000`.
        model: the model to ask, such as `ensemble`.
        concurrency: how many requests at once.
        prompt_tokens: tokens of each prompt.
        output_tokens: tokens of each answer.
        requests: how many requests for each of those at once.
        tokenizer: the directory of the model's tokenizer, to count tokens with; None for an approximation.
        log: is called with AIPerf's lines.

    Raises:
        RolloutError: when the server cannot be reached.
        UsageError: when the server does not serve this model.
        CommandError: when AIPerf fails, or no request was answered.
        ToolchainError: when AIPerf cannot be installed.
    """
    client = TritonClient(url)
    client.require_ready()
    config = client.model_config(model)
    if config is None:
        raise UsageError(f"serves no model {model!r}", subject=url, remedy="name one that it serves with --model")
    streaming = bool(config.get("model_transaction_policy", {}).get("decoupled"))
    load = os.getloadavg()[0]
    aiperf = ensure(AIPERF, log)
    lengths = (prompt_tokens, output_tokens)
    command = _Command(aiperf, client.url, model, lengths, str(tokenizer or BUILTIN), log, streaming=streaming)
    loads = tuple(command.run(number, requests * number) for number in concurrency)
    return ServedSpeed(
        url=client.url,
        model=model,
        streaming=streaming,
        server=client.server(),
        client=Machine.this(load),
        generator=f"aiperf {aiperf.facts()['aiperf']}",
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        tokenizer=str(tokenizer or BUILTIN),
        loads=loads,
        notes=tuple(_notes(tokenizer, streaming=streaming)),
    )


def _notes(tokenizer: Path | None, *, streaming: bool) -> Sequence[str]:
    notes = []
    if not streaming:
        notes.append("the model is not decoupled, so it streams nothing: set serving.decoupled to see single tokens")
    if tokenizer is None:
        notes.append("tokens are counted with another tokenizer: name the model's own with --tokenizer")
    return notes


class _Command:
    """AIPerf's command, but for the number of requests."""

    def __init__(  # noqa: PLR0913, PLR0917  what all runs have in common
        self,
        toolchain: Toolchain,
        url: str,
        model: str,
        lengths: tuple[int, int],
        tokenizer: str,
        log: Log,
        *,
        streaming: bool,
    ) -> None:
        self.toolchain, self.url, self.model, self.tokenizer, self.log = toolchain, url, model, tokenizer, log
        self.lengths, self.streaming = lengths, streaming

    def run(self, concurrency: int, requests: int) -> ServedLoad:
        """Send so many requests, after a warm-up, and read what AIPerf found."""
        with TemporaryDirectory(prefix="enginery-bench-") as scratch:
            directory = Path(scratch)
            write_atomic(directory / "payload.json", self._payload())
            argv = [*self._argv(directory), "--concurrency", str(concurrency), "--request-count", str(requests)]
            argv += ["--warmup-request-count", str(max(2 * concurrency, 4))]
            access = Access(name="bench", environment=ENVIRONMENT, cwd=directory, network=True)
            done = self.toolchain.run(argv, access, self.log, TIMEOUT_SECONDS)
            path = directory / RESULT
            found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            if "request_latency" not in found:
                remedy = "read AIPerf's lines above, and the server's log"
                raise CommandError(
                    "no request was answered", subject=self.url, remedy=remedy, last_lines=done.last_lines
                )
        return _load(concurrency, found)

    def _payload(self) -> str:
        """The request as AIPerf fills it in. `min_tokens` keeps the answer from ending early."""
        stream = ', "stream": true' if self.streaming else ""
        tokens = '"max_tokens": {{ max_tokens }}, "min_tokens": {{ max_tokens }}'
        return f'{{"text_input": {{{{ text|tojson }}}}, {tokens}{stream}}}'

    def _argv(self, directory: Path) -> list[str]:
        endpoint = "generate_stream" if self.streaming else "generate"
        prompt, output = map(str, self.lengths)
        return [
            str(self.toolchain.directory / "bin" / "aiperf"),
            "profile",
            *("--model", self.model, "--url", self.url, "--endpoint-type", "template"),
            *("--custom-endpoint", f"/v2/models/{self.model}/{endpoint}"),
            *(["--streaming"] if self.streaming else []),
            *("--extra-inputs", f"payload_template:{directory / 'payload.json'}"),
            *("--extra-inputs", "response_field:text_output"),
            *("--tokenizer", self.tokenizer, "--random-seed", SEED),
            *("--isl", prompt, "--isl-stddev", "0", "--osl", output),
            *("--ui", "none", "--artifact-dir", str(directory)),
        ]


def _load(concurrency: int, found: dict[str, Any]) -> ServedLoad:
    errors = sum(int(one.get("count", 0)) for one in found.get("error_summary") or ())
    return ServedLoad(
        concurrency=concurrency,
        requests=int(found["request_count"]["avg"]),
        errors=errors,
        first_ms=_latency(found, "time_to_first_token"),
        gap_ms=_latency(found, "inter_token_latency"),
        request_ms=Latency(**_parts(found["request_latency"])),
        output_tokens=round(found["output_sequence_length"]["avg"], 2),
        tokens_per_second=round(found["output_token_throughput"]["avg"], 2),
        requests_per_second=round(found["request_throughput"]["avg"], 3),
    )


def _latency(found: dict[str, Any], name: str) -> Latency | None:
    return Latency(**_parts(found[name])) if name in found else None


def _parts(measure: dict[str, Any]) -> dict[str, float]:
    return {ours: round(measure[theirs], 4) for ours, theirs in (("median", "p50"), ("p99", "p99"), ("mean", "avg"))}
