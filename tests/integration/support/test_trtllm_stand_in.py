# ruff: noqa: F811  fixtures are imported
"""Tests of the stand-in for TensorRT-LLM's commands: its files, flags and checkpoints."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from enginery.releases.flags import BUILD, Flag, commands, flags_of
from enginery.toolchains.examples import checkout_version
from enginery.toolchains.probe import probe_environment
from tests.support.paths import TINY_LLAMA
from tests.support.trtllm import StandIn, make_release
from tests.support.trtllm.commands.parser import parser
from tests.support.trtllm.facts import layout
from tests.support.trtllm.files.tensor_names import header
from tests.support.trtllm.files.weights import read_file
from tests.support.trtllm.fixtures import RELEASES, built, middle, naughty, old  # noqa: F401
from tests.support.trtllm.using import LLAMA, Example, build, config_of, convert, run


@pytest.mark.parametrize("release", ["0.9.0", *RELEASES])
def test_every_script_of_the_release_lies_where_the_release_has_it(release: str, tmp_path: Path) -> None:
    stand_in = make_release(tmp_path, release)
    there = {path.relative_to(tmp_path) for path in stand_in.examples.rglob("*.py")}
    expected = {stand_in.script(name) for name in commands() if name != BUILD and flags_of(release, name).value}
    assert there == {path.relative_to(tmp_path) for path in expected}
    assert checkout_version(stand_in.examples) == release


def test_a_release_without_the_tensorrt_backend_has_no_builder_and_no_scripts(tmp_path: Path) -> None:
    stand_in = make_release(tmp_path, "1.3.0")
    assert not (stand_in.bin / BUILD).exists()
    assert not stand_in.examples.exists()


def test_a_probe_finds_the_release_and_its_tensorrt(built: Example) -> None:
    found = probe_environment(built.stand_in.python, built.stand_in.environment(), ["tensorrt_llm", "tensorrt"])
    assert found.packages["tensorrt-llm"] == built.stand_in.release
    assert found.packages["tensorrt"] == {"0.8.0": "9.2.0.post12.dev5", "0.16.0": "10.7.0"}.get(
        built.stand_in.release, "10.14.1.48"
    )
    assert found.broken == {}


def test_calls_are_remembered_with_their_arguments(naughty: StandIn, tmp_path: Path) -> None:
    run(naughty, BUILD, "--help", cwd=tmp_path)
    convert(naughty, tmp_path / "nothing", "--no_such_flag", status=2)
    assert [call.command for call in naughty.calls()] == [BUILD, LLAMA]
    assert naughty.calls(BUILD)[0].argv == ("--help",)
    assert naughty.calls("convert_checkpoint.py")[0].argv[-1] == "--no_such_flag"


def test_nvidia_smi_answers_for_the_gpus_it_was_given(naughty: StandIn, tmp_path: Path) -> None:
    naughty.gpus({"name": "NVIDIA L4", "compute_cap": "8.9", "memory.total": "23034"})
    query = ("--query-gpu=name,compute_cap,memory.total", "--format=csv,noheader,nounits")
    assert run(naughty, "nvidia-smi", *query, cwd=tmp_path) == "NVIDIA L4, 8.9, 23034\n"
    assert "not a valid field" in run(naughty, "nvidia-smi", "--query-gpu=nmae", "--format=csv", cwd=tmp_path, status=2)


@pytest.mark.parametrize("release", RELEASES)
def test_every_command_takes_all_flags_of_the_facts_at_once(release: str) -> None:
    for command in commands():
        if flags_of(release, command).value:
            every = [word for flag in flags_of(release, command).value.values() for word in words_of(flag)]
            parser(release, command).parse_args(every)


def words_of(flag: Flag) -> list[str]:
    """The words of a flag with a value that it accepts."""
    if flag.is_switch:
        return [flag.name]
    value = next(str(choice) for choice in (*flag.choices, "1") if choice is not None)
    return [flag.name, *[value] * (int(flag.nargs) if str(flag.nargs).isdigit() else 1)]


def test_help_names_exactly_the_flags_of_the_facts(built: Example, tmp_path: Path) -> None:
    printed = run(built.stand_in, BUILD, "--help", cwd=tmp_path)
    listed = {line.split()[0].rstrip(",") for line in printed.splitlines() if line.startswith("  -")}
    assert listed == {"-h", *flags_of(built.stand_in.release).value}


def test_help_of_the_first_release_begins_on_the_line_of_the_greeting(old: Example, tmp_path: Path) -> None:
    printed = run(old.stand_in, BUILD, "--help", cwd=tmp_path)
    assert printed.startswith("[TensorRT-LLM] TensorRT-LLM version: 0.8.0usage: trtllm-build ")


@pytest.mark.parametrize(
    ("release", "words"),
    [
        ("0.8.0", ("--max_seq_len", "64")),
        ("0.16.0", ("--max_output_len", "64")),
        ("1.2.1", ("--enable_xqa", "enable")),
    ],
)
def test_a_flag_of_another_release_is_refused(
    trtllm_examples: Mapping[str, Example], release: str, words: tuple[str, str], tmp_path: Path
) -> None:
    one = trtllm_examples[release]
    printed = build(one.stand_in, one.checkpoint(), tmp_path / "engine", *words, status=2)
    assert f"trtllm-build: error: unrecognized arguments: {' '.join(words)}" in printed
    assert not (tmp_path / "engine").exists()


def test_a_value_that_is_no_choice_is_refused(middle: Example, tmp_path: Path) -> None:
    printed = build(middle.stand_in, middle.checkpoint(), tmp_path / "engine", "--context_fmha", "maybe", status=2)
    assert "argument --context_fmha: invalid choice: 'maybe'" in printed


def test_a_checkpoint_has_a_file_for_each_rank_and_the_releases_fields(built: Example) -> None:
    found = config_of(built.checkpoint(2))
    assert {path.name for path in built.checkpoint(2).iterdir()} == {
        "config.json",
        "rank0.safetensors",
        "rank1.safetensors",
    }
    fields = layout(built.stand_in.release)
    assert set(found["mapping"]) == set(fields["mapping"]) - {"rank"}
    assert set(found["quantization"]) == set(fields["quantization"])
    assert (found["architecture"], found["dtype"], found["mapping"]["world_size"]) == (
        "LlamaForCausalLM",
        "bfloat16",
        2,
    )


def test_the_ranks_of_a_checkpoint_are_the_models_weights_in_parts(built: Example) -> None:
    source = read_file(TINY_LLAMA / "model.safetensors")
    ranks = [read_file(built.checkpoint(2) / f"rank{rank}.safetensors") for rank in (0, 1)]
    layer = "transformer.layers.1."
    joined = np.concatenate([rank[f"{layer}mlp.fc.weight"] for rank in ranks])
    assert np.allclose(joined.astype(np.float32), source["model.layers.1.mlp.gate_proj.weight"], rtol=0.01)
    rows = np.concatenate([rank[f"{layer}attention.dense.weight"] for rank in ranks], axis=1)
    assert np.allclose(rows.astype(np.float32), source["model.layers.1.self_attn.o_proj.weight"], rtol=0.01)
    queries = np.concatenate([rank[f"{layer}attention.qkv.weight"][:64] for rank in ranks])
    assert np.allclose(queries.astype(np.float32), source["model.layers.1.self_attn.q_proj.weight"], rtol=0.01)


def test_key_heads_are_repeated_where_there_are_more_ranks_than_heads(middle: Example, tmp_path: Path) -> None:
    convert(middle.stand_in, tmp_path / "checkpoint", "--tp_size", "4")
    first, second = (read_file(tmp_path / "checkpoint" / f"rank{rank}.safetensors") for rank in (0, 1))
    name = "transformer.layers.0.attention.qkv.weight"
    assert first[name].shape == (3 * 32, 128)
    assert np.array_equal(first[name][32:], second[name][32:])


def test_stages_of_a_pipeline_have_their_own_layers_numbered_from_zero(middle: Example, tmp_path: Path) -> None:
    convert(middle.stand_in, tmp_path / "checkpoint", "--pp_size", "2")
    first, last = (set(header(tmp_path / "checkpoint" / f"rank{rank}.safetensors")) for rank in (0, 1))
    assert "transformer.vocab_embedding.weight" in first - last
    assert {"lm_head.weight", "transformer.ln_f.weight"} <= last - first
    assert "transformer.layers.0.mlp.fc.weight" in first & last
    build(middle.stand_in, tmp_path / "checkpoint", tmp_path / "engine")


def test_the_first_release_takes_the_rope_base_from_a_flag_only(old: Example, middle: Example, tmp_path: Path) -> None:
    assert config_of(TINY_LLAMA)["rope_theta"] == 500000.0
    assert config_of(middle.checkpoint())["rotary_base"] == 500000.0
    assert config_of(old.checkpoint())["rotary_base"] == 10000.0
    convert(old.stand_in, tmp_path / "checkpoint", "--rotary_base", "500000")
    assert config_of(tmp_path / "checkpoint")["rotary_base"] == 500000.0


def test_weight_only_weights_are_small_and_have_scales(middle: Example, tmp_path: Path) -> None:
    convert(middle.stand_in, tmp_path / "checkpoint", "--use_weight_only", "--weight_only_precision", "int4")
    found = header(tmp_path / "checkpoint" / "rank0.safetensors")
    assert config_of(tmp_path / "checkpoint")["quantization"]["quant_algo"] == "W4A16"
    assert found["transformer.layers.0.mlp.fc.weight"]["shape"] == [128, 256 // 2]
    assert found["transformer.layers.0.mlp.fc.per_channel_scale"]["shape"] == [256]
    assert found["lm_head.weight"]["dtype"] == "BF16"


@pytest.mark.parametrize(
    ("qformat", "expected"),
    [
        ("fp8", ("FP8", "F8_E4M3", [256, 128], [1])),
        ("int4_awq", ("W4A16_AWQ", "I8", [128, 128], [256, 2])),
        ("int8_sq", ("W8A8_SQ_PER_CHANNEL", "I8", [256, 128], [256])),
    ],
)
def test_quantize_writes_weights_and_scales_of_the_right_shape(
    middle: Example, tmp_path: Path, qformat: str, expected: tuple[str, str, list[int], list[int]]
) -> None:
    words = ("--model_dir", TINY_LLAMA, "--output_dir", tmp_path / "q", "--dtype", "bfloat16", "--awq_block_size", "64")
    script = middle.stand_in.script("quantize.py")
    run(middle.stand_in, "python3", script, *words, "--qformat", qformat, "--kv_cache_dtype", "fp8", cwd=tmp_path)
    chosen, found = config_of(tmp_path / "q")["quantization"], header(tmp_path / "q" / "rank0.safetensors")
    layer = "transformer.layers.0."
    weight, scale = found[f"{layer}mlp.fc.weight"], found[f"{layer}mlp.fc.weights_scaling_factor"]
    assert (chosen["quant_algo"], weight["dtype"], weight["shape"], scale["shape"]) == expected
    assert chosen["kv_cache_quant_algo"] == "FP8"
    assert found[f"{layer}attention.kv_cache_scaling_factor"]["shape"] == [1]
    build(middle.stand_in, tmp_path / "q", tmp_path / "engine")


def test_calibration_data_that_is_not_there_is_missed(middle: Example, tmp_path: Path) -> None:
    places = ("--model_dir", TINY_LLAMA, "--output_dir", tmp_path / "q")
    words = (*places, "--qformat", "fp8", "--calib_dataset", "/no/data")
    printed = run(middle.stand_in, "python3", middle.stand_in.script("quantize.py"), *words, cwd=tmp_path, status=1)
    assert "FileNotFoundError: Couldn't find a dataset script or any data file at /no/data" in printed


def test_smoothquant_needs_calibration_data_from_the_hub_and_gets_none_offline(middle: Example, tmp_path: Path) -> None:
    words = ("--model_dir", TINY_LLAMA, "--output_dir", tmp_path / "q", "--smoothquant", "0.5", "--per_channel")
    argv = ("python3", middle.stand_in.script(LLAMA), *words)
    assert "OfflineModeIsEnabled" in run(middle.stand_in, *argv, cwd=tmp_path, status=1, HF_HUB_OFFLINE="1")
    run(middle.stand_in, *argv, cwd=tmp_path)
    algorithm = config_of(tmp_path / "q")["quantization"]["quant_algo"]
    assert algorithm == "W8A8_SQ_PER_CHANNEL_PER_TENSOR_PLUGIN"


def test_a_model_without_config_or_weights_ends_in_a_traceback(middle: Example, tmp_path: Path) -> None:
    printed = convert(middle.stand_in, tmp_path / "checkpoint", model=tmp_path, status=1)
    assert f"OSError: {tmp_path} does not appear to have a file named config.json" in printed
    (tmp_path / "config.json").write_bytes((TINY_LLAMA / "config.json").read_bytes())
    printed = convert(middle.stand_in, tmp_path / "checkpoint", model=tmp_path, status=1)
    assert "OSError: Error no file named model.safetensors" in printed


def test_heads_that_cannot_be_shared_out_are_refused(middle: Example, tmp_path: Path) -> None:
    printed = convert(middle.stand_in, tmp_path / "checkpoint", "--tp_size", "3", status=1)
    assert "AssertionError: num_attention_heads (4) is not a multiple of tp_size (3)" in printed
