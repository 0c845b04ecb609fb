"""Every record of what converters refuse, change or guess, in every release: refused where it holds, else accepted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from enginery.backends.request import Request
from enginery.backends.tensorrt.backend import TensorRT
from enginery.backends.tensorrt.converters import Conversion, conversion
from enginery.backends.tensorrt.release import family_for
from enginery.releases import refusal, refusal_ids, releases
from enginery.releases.facts import builds_engines
from tests.support.plans.tensorrt import findings, request_of

SHAPE = {
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "vocab_size": 50304,
    "max_position_embeddings": 2048,
    "torch_dtype": "float16",
    "tie_word_embeddings": False,
}
FLOAT = {"precision": "float16"}
BFLOAT = {"precision": "bfloat16"}
SMOOTH = {"precision": "int8_sq"}
INT8_CACHE = {"precision": "float16", "convert": {"kv_cache": "int8"}}
FP8 = {"precision": "fp8"}
AWQ = {"precision": "int4_awq"}
TWO = {"tensor_parallel": 2}
STAGES = {"pipeline_parallel": 2}


def model(architecture: str, kind: str, **more: Any) -> dict[str, Any]:
    return {**SHAPE, "architectures": [architecture], "model_type": kind, **more}


GPT2 = model("GPT2LMHeadModel", "gpt2")
STARCODER = model("GPTBigCodeForCausalLM", "gpt_bigcode")
STARCODER_2 = model("Starcoder2ForCausalLM", "starcoder2")
SANTACODER = model("GPT2LMHeadCustomModel", "gpt2")
GLM_2 = model("ChatGLMModel", "chatglm", padded_vocab_size=65024, _name_or_path="THUDM/chatglm2-6b", rope_ratio=50)
LLAMA = model("LlamaForCausalLM", "llama")
QWEN2 = model("Qwen2ForCausalLM", "qwen2")
MIXTRAL = model("MixtralForCausalLM", "mixtral", num_local_experts=8, num_experts_per_tok=2)
EXAONE = model("ExaoneForCausalLM", "exaone")
DEEPSEEK = model("DeepseekV2ForCausalLM", "deepseek_v2", topk_method="greedy", routed_scaling_factor=1.0)
MPT = model("MPTForCausalLM", "mpt")
TIED = {"tie_word_embeddings": True}


class Row(NamedTuple):
    """How a record is met.

    Attributes:
        code: the finding that it leads to; empty if the record is met in another way.
        config: the model.
        target: what is asked for.
        met: for a record without a finding, whether the plan does what is right.
    """

    code: str
    config: dict[str, Any]
    target: dict[str, Any]
    met: Callable[[Request, Conversion], bool] = lambda _, __: True


def extra(*words: str, **target: Any) -> dict[str, Any]:
    return {**FLOAT, **target, "convert": {**target.get("convert", {}), "extra_args": list(words)}}


def calibrated(dataset: str, **target: Any) -> dict[str, Any]:
    return {**target, "convert": {"calibration": {"dataset": dataset}}}


def gives(*words: str) -> Callable[[Request, Conversion], bool]:
    return lambda _, made: " ".join(words) in " ".join(made.argv)


def shows(name: str) -> Callable[[Request, Conversion], bool]:
    return lambda _, made: made.weights_name == name


def notes(text: str) -> Callable[[Request, Conversion], bool]:
    return lambda request, _: any(text in note for note in TensorRT().notes(request))


EMBEDDING = "--use_parallel_embedding"
UNEVEN = {"vocab_size": 50257}
TABLE: dict[str, Row] = {
    "gpt: variant": Row("", STARCODER, FLOAT, gives("--gpt_variant starcoder ")),
    "gpt: --gpt_variant without effect": Row("", STARCODER_2, FLOAT, shows("starcoder2")),
    "gpt: int8 of multi-query attention": Row("E138", STARCODER, SMOOTH),
    "chatglm: version": Row("", GLM_2, FLOAT, gives("--chatglm_version chatglm2 ")),
    "chatglm: --chatglm_version without effect": Row("", GLM_2, SMOOTH, shows("chatglm2")),
    "chatglm: tensor_parallel with int8": Row("E136", GLM_2, {**SMOOTH, **TWO}),
    "chatglm: pipeline_parallel": Row("E135", GLM_2, {**FLOAT, **STAGES}),
    "bloom: pipeline_parallel": Row("E135", model("BloomForCausalLM", "bloom"), {**FLOAT, **STAGES}),
    "gptneox: pipeline_parallel": Row("E135", model("GPTNeoXForCausalLM", "gpt_neox"), {**FLOAT, **STAGES}),
    "opt: pipeline_parallel": Row("E135", model("OPTForCausalLM", "opt"), {**FLOAT, **STAGES}),
    "phi: pipeline_parallel": Row("E135", model("PhiForCausalLM", "phi"), {**FLOAT, **STAGES}),
    "mamba: pipeline_parallel": Row("E135", model("MambaForCausalLM", "mamba"), {**FLOAT, **STAGES}),
    "mamba: tensor_parallel": Row("E136", model("MambaForCausalLM", "mamba"), {**FLOAT, **TWO}),
    "phi: flags without effect": Row("E136", model("PhiForCausalLM", "phi"), {**FLOAT, **TWO}),
    "llama: InternLM2": Row(
        "",
        model("InternLM2ForCausalLM", "internlm2"),
        FLOAT,
        lambda _, made: made.script.command == "convert_checkpoint.py internlm2",
    ),
    "llama: tied embeddings": Row("E137 W134", LLAMA | TIED, FLOAT),
    "llama: tied embeddings with int8": Row("E137", LLAMA | TIED, INT8_CACHE),
    "qwen: tied embeddings": Row("E137 W134", QWEN2 | TIED, FLOAT),
    "qwen: tied embeddings with int8": Row("E137", QWEN2 | TIED, INT8_CACHE),
    "llama: EXAONE by its path": Row("", EXAONE, FLOAT, shows("exaone")),
    "llama: tied embeddings of EXAONE": Row("W134", EXAONE | TIED, FLOAT),
    "llama: SmoothQuant of other layers": Row("E138", MIXTRAL, SMOOTH),
    "qwen: SmoothQuant of other layers": Row("E138", model("Qwen2MoeForCausalLM", "qwen2_moe"), SMOOTH),
    "baichuan: --int8_kv_cache without effect": Row(
        "", model("BaichuanForCausalLM", "baichuan"), INT8_CACHE, gives("--calibrate_kv_cache")
    ),
    "gemma: tokenizer for an int8 KV cache": Row(
        "", model("GemmaForCausalLM", "gemma"), INT8_CACHE, gives("--tokenizer_dir {weights}/tokenizer.model")
    ),
    "llama: --load_by_shard with int8": Row("E146", LLAMA, extra("--load_by_shard", **SMOOTH)),
    "llama: --load_by_shard with experts": Row("E146", MIXTRAL, extra("--load_by_shard")),
    "chatglm: --use_embedding_sharing": Row("E146", GLM_2, extra("--use_embedding_sharing")),
    "llama: --load_model_on_cpu with int8": Row("E146", LLAMA, extra("--load_model_on_cpu", **INT8_CACHE)),
    "qwen: --load_model_on_cpu with int8": Row("E146", QWEN2, extra("--load_model_on_cpu", **SMOOTH)),
    "--use_embedding_sharing with tensor_parallel": Row("E146", LLAMA, extra("--use_embedding_sharing", **TWO)),
    "--use_embedding_sharing with pipeline_parallel": Row("E146", LLAMA, extra("--use_embedding_sharing", **STAGES)),
    "--moe_tp_size and --moe_ep_size": Row("E146", MIXTRAL, extra("--moe_tp_size", "2", "--moe_ep_size=2", **TWO)),
    **{
        f"{family}: --use_parallel_embedding of an uneven vocabulary": Row(
            "E146", model(architecture, family, **UNEVEN), extra(EMBEDDING, **TWO)
        )
        for family, architecture in {
            "bloom": "BloomForCausalLM",
            "gptneox": "GPTNeoXForCausalLM",
            "opt": "OPTForCausalLM",
            "falcon": "FalconForCausalLM",
            "mpt": "MPTForCausalLM",
        }.items()
    },
    "chatglm: --use_parallel_embedding of an uneven vocabulary": Row(
        "E146", GLM_2 | {"padded_vocab_size": 65023}, extra(EMBEDDING, **TWO)
    ),
    "gemma: tensor_parallel of an uneven vocabulary": Row(
        "E136", model("GemmaForCausalLM", "gemma", vocab_size=256001), {**FLOAT, **TWO}
    ),
    **{
        f"{family}: bfloat16 without a GPU": Row(
            "", model(architecture, family), BFLOAT, notes("with one, Ampere or newer")
        )
        for family, architecture in {
            "llama": "LlamaForCausalLM",
            "falcon": "FalconForCausalLM",
            "baichuan": "BaichuanForCausalLM",
            "phi": "PhiForCausalLM",
            "mamba": "MambaForCausalLM",
            "nemotron_nas": "DeciLMForCausalLM",
            "deepseek_v1": "DeepseekForCausalLM",
            "deepseek_v2": "DeepseekV2ForCausalLM",
        }.items()
    },
    "deepseek_v2: topk_method": Row("E138", DEEPSEEK | {"topk_method": "noaux_tc"}, FLOAT),
    "deepseek_v2: routed_scaling_factor": Row("E138", DEEPSEEK | {"routed_scaling_factor": 16.0}, FLOAT),
    "deepseek_v2: GPU memory": Row("W136", DEEPSEEK, {**FLOAT, "gpu": "A100-SXM4-40GB"}),
    "calibration data set": Row("E145", LLAMA, calibrated("owner/texts", **SMOOTH)),
    "quantize.py: calibration data set": Row("E145", LLAMA, calibrated("lambada", **FP8)),
    "quantize.py: model type": Row("E138 W135", model("GPTNeoXForCausalLM", "gpt_neox"), FP8),
    "quantize.py: no checkpoint for the model type": Row("E138", model("BloomForCausalLM", "bloom"), FP8),
    "quantize.py: AWQ with more than 32 texts": Row(
        "",
        LLAMA,
        {**AWQ, "convert": {"kv_cache": "fp8", "calibration": {"size": 64}}},
        notes("calibrates AWQ with 32 texts, and not with 64"),
    ),
    "quantize.py: --kv_cache_dtype without effect": Row("E139", LLAMA, AWQ),
    "quantize.py: MPT by its path": Row("", MPT, FP8, shows("mpt")),
}
"""Record, without `convert_checkpoint.py` at its beginning -> how it is met."""
ENGINES = [release for release in releases() if builds_engines(release)]
OURS = {"E134", "E135", "E136", "E137", "E138", "E139", "E145", "E146", "W134", "W135", "W136"}


def record(name: str) -> str:
    if name.startswith("quantize.py"):
        return name
    family, colon, what = name.partition(": ")
    return f"convert_checkpoint.py {family}: {what}" if colon else f"convert_checkpoint.py: {name}"


def asked(row: Row, release: str) -> Request:
    return request_of(row.config, spec={}, release=release, **row.target)


def converted(request: Request) -> Conversion | None:
    """The conversion, if the release has a converter for the model."""
    assert request.model
    family = family_for(request.target.release, request.model.architecture).family
    return conversion(request, request.target.release, family) if family else None


def test_every_record_is_in_the_table() -> None:
    ids = {one for one in refusal_ids() if one.startswith(("convert_checkpoint.py", "quantize.py"))}
    assert {record(name) for name in TABLE} == ids


@pytest.mark.parametrize("name", TABLE)
def test_every_record_is_met_in_some_release(name: str) -> None:
    held = [one for one in ENGINES if refusal(record(name), one).value]
    assert any(converted(asked(TABLE[name], one)) for one in held)


@pytest.mark.parametrize("release", ENGINES)
@pytest.mark.parametrize("name", TABLE)
def test_a_record_is_met_where_it_holds_and_nothing_is_refused_elsewhere(name: str, release: str) -> None:
    row = TABLE[name]
    request = asked(row, release)
    made = converted(request)
    if made is None:
        return
    found = {finding.code for finding in findings(request)} & OURS
    held = refusal(record(name), release).value is not None
    if not row.code:
        assert not held or row.met(request, made)
    elif held:
        assert found & set(row.code.split())
    else:
        assert not found & set(row.code.split()) or _another(name, release)


def _another(name: str, release: str) -> bool:
    """Whether another record has the same finding for the same target."""
    same = {
        "quantize.py: no checkpoint for the model type": "quantize.py: model type",
        "quantize.py: calibration data set": "calibration data set",
    }
    return name in same and refusal(record(same[name]), release).value is not None


def argv(config: dict[str, Any], release: str, **target: Any) -> str:
    made = converted(request_of(config, spec={}, release=release, **FLOAT | target))
    assert made
    return " ".join(made.argv)


@pytest.mark.parametrize(
    ("config", "release", "given"),
    [
        (GPT2, "0.9.0", "gpt2"),
        (GPT2, "0.14.0", "gpt2"),
        (GPT2, "0.16.0", ""),
        (STARCODER_2, "0.11.0", "starcoder2"),
        (STARCODER_2, "0.15.0", ""),
        (STARCODER, "1.3.0rc3", "starcoder"),
        (SANTACODER, "0.16.0", "santacoder"),
        (model("JAISLMHeadModel", "jais"), "0.14.0", ""),
    ],
)
def test_a_gpt_is_named_where_its_script_cannot_know_it(config: dict[str, Any], release: str, given: str) -> None:
    words = argv(config, release).split()
    found = words[words.index("--gpt_variant") + 1] if "--gpt_variant" in words else ""
    assert found == given


@pytest.mark.parametrize(
    ("config", "version"),
    [
        ({"architectures": ["GLMModel"], "model_type": "glm"}, "glm"),
        ({"vocab_size": 130528}, "chatglm"),
        ({"padded_vocab_size": 65024}, "chatglm3"),
        ({"padded_vocab_size": 65024, "rope_ratio": 1}, "chatglm3"),
        ({"padded_vocab_size": 65024, "_name_or_path": "THUDM/chatglm2-6b-32k", "rope_ratio": 50}, "chatglm2"),
        ({"padded_vocab_size": 65024, "_name_or_path": "THUDM/codegeex2-6b"}, "chatglm2"),
        ({"padded_vocab_size": 151552, "rope_ratio": 500}, "glm4"),
        ({"padded_vocab_size": 151552, "_name_or_path": "THUDM/glm-4-9b-chat"}, "glm4"),
    ],
)
@pytest.mark.parametrize("release", ["0.12.0", "0.16.0", "1.3.0rc3"])
def test_a_chatglm_is_told_from_the_others_by_its_configuration(
    config: dict[str, Any], version: str, release: str
) -> None:
    assert f"--chatglm_version {version} " in argv(model("ChatGLMModel", "chatglm") | config, release)


def test_a_chatglm_whose_version_cannot_be_known_is_refused_until_the_spec_says_it() -> None:
    unknown = model("ChatGLMModel", "chatglm", padded_vocab_size=65024, rope_ratio=50)
    (finding,) = [one for one in findings(request_of(unknown, spec={}, release="0.16.0", **FLOAT)) if one.code in OURS]
    assert (finding.code, finding.path) == ("E134", "convert.extra_args")
    told = request_of(unknown, spec={}, release="0.16.0", **SMOOTH, convert={"extra_args": ["--chatglm_version=glm4"]})
    assert not OURS & {one.code for one in findings(told)}
    made = converted(told)
    assert made
    assert made.weights_name == "glm4"
    assert "--chatglm_version glm4" not in " ".join(made.argv)


def test_a_version_that_an_older_release_does_not_know_is_refused() -> None:
    config = model("ChatGLMModel", "chatglm", padded_vocab_size=151552)
    assert "E122" in {one.code for one in findings(request_of(config, spec={}, release="0.11.0", **FLOAT))}


def test_tied_embeddings_can_be_shared_where_the_release_has_a_flag_for_it() -> None:
    def found(release: str, *words: str, **target: Any) -> set[str]:
        asked_for = request_of(LLAMA | TIED, spec={}, release=release, **extra(*words, **target))
        return OURS & {one.code for one in findings(asked_for)}

    shared = "--use_embedding_sharing"
    assert found("0.14.0") == {"W134"}
    assert found("0.14.0", shared) == set()
    assert found("0.14.0", shared, **TWO) == {"E146"}
    assert found("0.14.0", shared, EMBEDDING, **TWO) == set()
    assert found("0.13.0", shared) == {"W134"}


def test_a_model_that_quantize_py_takes_for_another_is_a_warning() -> None:
    later = model("Gemma2ForCausalLM", "gemma2")
    for release, taken in {"0.14.0": {"W135"}, "0.15.0": set[str]()}.items():
        request = request_of(later, spec={}, release=release, **FP8)
        assert OURS & {one.code for one in findings(request)} == taken


@pytest.mark.parametrize(
    ("target", "refused"),
    [
        (FP8, False),
        (AWQ, True),
        (AWQ | {"convert": {"kv_cache": "fp8"}}, False),
        ({"precision": "w4a8_awq", "convert": {"kv_cache": "int8"}}, True),
        ({"precision": "int8_wo", "convert": {"kv_cache": "fp8"}}, True),
        ({"precision": "float16", "convert": {"kv_cache": "fp8"}}, False),
        ({"precision": "int4_wo", "convert": {"kv_cache": "fp8"}}, False),
        (SMOOTH, False),
    ],
)
def test_a_release_that_does_not_ask_for_the_kv_cache_is_refused_where_it_makes_another(
    target: dict[str, Any], *, refused: bool
) -> None:
    found = {one.code for one in findings(request_of(LLAMA, spec={}, release="0.14.0", **target))}
    assert ("E139" in found) is refused


def test_a_directory_of_own_texts_is_refused_where_scripts_do_not_read_one(tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "train.jsonl").write_text("{}")
    for release, target, refused in (
        ("0.10.0", FP8, True),
        ("0.11.0", FP8, False),
        ("0.13.0", SMOOTH, True),
        ("0.14.0", SMOOTH, False),
    ):
        request = request_of(LLAMA, spec={}, release=release, **calibrated(str(texts), **target))
        assert ("E145" in {one.code for one in findings(request)}) is refused, release
