"""The example model is packaged, published and rolled out to a real Triton."""

import json
import shutil
from pathlib import Path
from uuid import uuid4

from enginery.backends.validate import validate, validate_call
from enginery.builds.validation import read_report
from enginery.core import s3
from enginery.dev.triton import start_triton
from enginery.registry import Registry, publish
from enginery.spec.validation import Message, Prompt, ValidationOptions
from enginery.store.context import StepContext
from enginery.store.steps import Stage
from enginery.toolchains.identity import Toolchain
from enginery.triton.client import TritonClient
from enginery.triton.repository import package
from enginery.triton.rollout import is_serving, rollout
from tests.support.models.chat_templates import PLAIN
from tests.support.registry.builds import QUESTION, Build
from tests.support.s3.server import S3Server
from tests.support.store.records import a_record

BARE = (Message(role="system", content=""), Message(role="user", content=QUESTION))
"""A chat of which the template makes the question without the token that the tokenizer adds."""
TEMPLATE = PLAIN.replace("{{ bos_token }}", "{{ bos_token if messages[0].role == 'user' }}")
OPTIONS = ValidationOptions(
    max_tokens=100,
    prompts=(
        Prompt(prompt=QUESTION, contains="neuf"),
        Prompt(prompt=QUESTION, max_tokens=3),
        Prompt(prompt=QUESTION, chat=True, contains="neuf"),
        Prompt(messages=BARE, max_tokens=4, may_be_empty=True, may_repeat=True),
    ),
)


def a_context(directory: Path, parameters: object, toolchain: Toolchain | None, **inputs: Path) -> StepContext:
    directory.mkdir()
    return StepContext(
        key="0" * 64,
        parameters=parameters,  # type: ignore[arg-type]
        inputs=inputs,
        output=directory,
        chain=(a_record(Stage.DOWNLOAD),),
        toolchain=toolchain,
        log=print,
    )


def test_the_example_model_is_served_from_s3_and_answers_the_tutorials_request(  # noqa: PLR0913, PLR0917  fixtures
    s3_server: S3Server,
    tiny_engine: Path,
    tiny_weights: Path,
    toolchain: Toolchain,
    triton_site: Path,
    tmp_path: Path,
) -> None:
    bucket = f"engines-{uuid4().hex[:12]}"
    s3_server.create_bucket(bucket)
    weights = tmp_path / "weights"
    shutil.copytree(tiny_weights, weights)
    (weights / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    call = validate_call(OPTIONS)
    validated = a_context(tmp_path / "report", call.parameters, toolchain, engine=tiny_engine, weights=weights)
    validate(validated)
    options = {"model": "tiny-llama", "target": "cpu-int4", "serving": {}, "provider": "cpu"}
    packaged = a_context(tmp_path / "models", options, None, engine=tiny_engine, weights=weights)
    package(packaged)
    order = Build().parameters(f"s3://{bucket}/prod")
    inputs = {"model_repository": packaged.output, "report": validated.output, "weights": weights}
    published = a_context(tmp_path / "published", order, None, **inputs)
    publish(published)

    serving = f"s3://{bucket}/serving"
    read = f"s3://{s3_server.url}/{bucket}/serving"
    s3.Prefix(s3.Address.parse(serving)).put_bytes(".keep", b"")
    server = start_triton(
        read, triton_site=triton_site, serving_python=toolchain.python, log_file=tmp_path / "triton.log"
    )
    try:
        target = {"endpoints": [server.url], "model_repository": serving}
        parameters = {"model": "tiny-llama", "build_id": order["build_id"], **target}
        rolled_out = a_context(tmp_path / "rolled-out", parameters, None, published=published.output)
        rollout(rolled_out)
        assert is_serving(rolled_out.parameters)
        request = {"text_input": QUESTION, "parameters": {"max_tokens": 100, "bad_words": [""], "stop_words": [""]}}
        client = TritonClient(server.url)
        answered = [client.generate(model, request)["text_output"] for model in ("ensemble", "tensorrt_llm_bls")]
    finally:
        server.service.stop()
        s3.close_clients()
    assert all("un deux trois quatre cinq six sept huit neuf" in answer for answer in answered)
    results = read_report(validated.output).results
    recorded = {(result.text_sent, result.got.strip()) for result in results}
    facts = json.loads((rolled_out.output / "rollout.json").read_text())
    served = {(one["prompt"], one["answer"].strip()) for one in facts["endpoints"][0]["answers"]}
    assert served == recorded
    assert len(recorded) == len(results) == 4
    assert results[2].text_sent == f"<|begin_of_text|>{QUESTION}"
    assert results[2].token_ids == results[0].token_ids
    assert (results[3].text_sent, results[3].as_raw_text) == (QUESTION, False)
    assert results[3].got != results[1].got
    assert (packaged.output / "preprocessing" / "1" / "chat_template.jinja").read_text(encoding="utf-8") == TEMPLATE
    assert Registry(f"s3://{bucket}/prod").manifest("tiny-llama", str(order["build_id"])).validation.passed
