# ruff: noqa: F811  fixtures are imported
"""Tests of the stand-in for TensorRT-LLM's commands: its engines and their answers."""

import os
from pathlib import Path

import pytest

from enginery.releases.flags import BUILD
from tests.support.paths import TINY_LLAMA
from tests.support.trtllm import make_release
from tests.support.trtllm.facts import layout
from tests.support.trtllm.files import timing_cache
from tests.support.trtllm.fixtures import built, middle, new, old  # noqa: F401
from tests.support.trtllm.using import ANSWER, DRIVER, LIMITS, PROMPT, Example, build, config_of, drive, run


def test_an_engine_directory_is_laid_out_as_the_releases(built: Example) -> None:
    assert {path.name for path in built.engine(2).iterdir()} == {"config.json", "rank0.engine", "rank1.engine"}
    found, fields = config_of(built.engine(2)), layout(built.stand_in.release)
    assert list(found) == ["version", "pretrained_config", "build_config"]
    assert found["version"] == built.stand_in.release
    assert found["pretrained_config"] == config_of(built.checkpoint(2))
    not_kept = {"dry_run", "visualize_network"}
    assert set(found["build_config"]) == set(fields["build_config"]) - not_kept
    assert set(found["build_config"]["plugin_config"]) == set(fields["plugin_config"])
    assert found["build_config"]["max_batch_size"] == 4
    assert found["build_config"]["plugin_config"]["gpt_attention_plugin"] == "bfloat16"


def test_unset_lengths_become_what_the_release_makes_of_them(old: Example, middle: Example) -> None:
    assert config_of(old.engine())["build_config"]["max_num_tokens"] == 4 * 128
    assert config_of(middle.engine())["build_config"]["max_seq_len"] == 256
    assert config_of(middle.engine())["build_config"]["kv_cache_type"] == "PAGED"


def test_an_engine_tells_of_which_weights_it_was_made(middle: Example, tmp_path: Path) -> None:
    build(middle.stand_in, middle.checkpoint(), tmp_path / "again", *LIMITS)
    assert (tmp_path / "again" / "rank0.engine").read_bytes() == (middle.engine() / "rank0.engine").read_bytes()
    first, second = ((middle.engine(2) / f"rank{rank}.engine").read_bytes() for rank in (0, 1))
    assert first != second


def test_a_checkpoint_with_a_rank_too_few_is_not_built(built: Example, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    for name in ("config.json", "rank0.safetensors"):
        (checkpoint / name).write_bytes((built.checkpoint(2) / name).read_bytes())
    printed = build(built.stand_in, checkpoint, tmp_path / "engine", status=1)
    assert "Traceback (most recent call last)" in printed
    assert not (tmp_path / "engine" / "rank1.engine").exists()


def test_a_checkpoint_that_is_not_there_ends_in_a_traceback(middle: Example, tmp_path: Path) -> None:
    printed = build(middle.stand_in, tmp_path / "none", tmp_path / "engine", status=1)
    assert "FileNotFoundError: [Errno 2] No such file or directory" in printed


def test_weights_cut_off_are_noticed(middle: Example, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    for name in ("config.json", "rank0.safetensors"):
        (checkpoint / name).write_bytes((middle.checkpoint() / name).read_bytes())
    whole = (checkpoint / "rank0.safetensors").read_bytes()
    (checkpoint / "rank0.safetensors").write_bytes(whole[:-100])
    assert "MetadataIncompleteBuffer" in build(middle.stand_in, checkpoint, tmp_path / "engine", status=1)


def test_early_attention_plugins_must_be_of_the_checkpoints_type(old: Example, tmp_path: Path) -> None:
    words = ("--checkpoint_dir", old.checkpoint(), "--output_dir", tmp_path / "engine")
    printed = run(old.stand_in, BUILD, *words, cwd=tmp_path, status=1)
    assert "of type float16 does not take inputs of type bfloat16" in printed


def test_without_a_gpu_nothing_is_built(middle: Example, tmp_path: Path) -> None:
    words = ("--checkpoint_dir", middle.checkpoint(), "--output_dir", tmp_path / "engine")
    printed = run(middle.stand_in, BUILD, *words, cwd=tmp_path, status=1, CUDA_VISIBLE_DEVICES="")
    assert "RuntimeError: No CUDA GPUs are available" in printed


def test_a_timing_cache_is_written_where_the_command_works_and_used_again(middle: Example, tmp_path: Path) -> None:
    assert "68 new layers timed" in build(middle.stand_in, middle.checkpoint(), tmp_path / "one")
    found = timing_cache.read(tmp_path / "model.cache")
    assert found is not None
    assert found.tensorrt == "10.7.0"
    again = build(middle.stand_in, middle.checkpoint(), tmp_path / "two", "--input_timing_cache", "model.cache")
    assert "0 new layers timed" in again


def test_the_first_release_writes_no_timing_cache(old: Example, tmp_path: Path) -> None:
    build(old.stand_in, old.checkpoint(), tmp_path / "engine")
    assert not (tmp_path / "model.cache").exists()


def test_a_timing_cache_of_another_tensorrt_is_ignored_with_a_warning(middle: Example, tmp_path: Path) -> None:
    timing_cache.TimingCache("9.2.0").write(tmp_path / "old.cache")
    printed = build(middle.stand_in, middle.checkpoint(), tmp_path / "engine", "--input_timing_cache", "old.cache")
    assert "[TRT] [W] Timing cache was generated with a different TensorRT version" in printed
    assert "68 new layers timed" in printed


def test_a_timing_cache_that_is_none_is_ignored_with_an_error(middle: Example, tmp_path: Path) -> None:
    (tmp_path / "bad.cache").write_bytes(b"nonsense")
    printed = build(middle.stand_in, middle.checkpoint(), tmp_path / "engine", "--input_timing_cache", "bad.cache")
    assert "[TRT] [E]" in printed
    assert (tmp_path / "engine" / "rank0.engine").exists()


LLM_DRIVER = """
import sys
from tensorrt_llm import SamplingParams
module = __import__(sys.argv[1], fromlist=["LLM"])
model = module.LLM(model=sys.argv[2], tokenizer=sys.argv[3], **eval(sys.argv[4]))
for found in model.generate([sys.argv[5]], SamplingParams(max_tokens=int(sys.argv[6]))):
    print("said", found.outputs[0].text, found.outputs[0].finish_reason, len(found.outputs[0].token_ids))
"""


def ask_llm(  # noqa: PLR0913  the words of one command
    one: Example, module: str, model: Path, arguments: str = "{}", tokens: int = 40, *, status: int = 0
) -> str:
    words = ("python3", "-c", LLM_DRIVER, module, model, TINY_LLAMA, arguments, PROMPT, tokens)
    return run(one.stand_in, *words, cwd=one.directory, status=status)


MERGE = """
import sys, pathlib, tensorrt
config = tensorrt.Builder(tensorrt.Logger(tensorrt.Logger.WARNING)).create_builder_config()
first, second = (config.create_timing_cache(pathlib.Path(name).read_bytes()) for name in sys.argv[1:3])
print("combined", first.combine(second, ignore_mismatch=False))
pathlib.Path("merged.cache").write_bytes(bytes(first.serialize()))
"""


def test_timing_caches_can_be_combined_unless_of_different_versions(middle: Example, tmp_path: Path) -> None:
    for name, version, timed in (("a", "10.7.0", "x"), ("b", "10.7.0", "y"), ("c", "10.8.0", "z")):
        timing_cache.TimingCache(version, frozenset({timed})).write(tmp_path / name)
    assert "combined True" in run(middle.stand_in, "python3", "-c", MERGE, "a", "b", cwd=tmp_path)
    assert timing_cache.read(tmp_path / "merged.cache") == timing_cache.TimingCache("10.7.0", frozenset({"x", "y"}))
    assert "combined False" in run(middle.stand_in, "python3", "-c", MERGE, "a", "c", cwd=tmp_path)


def test_run_prints_the_scripted_answer_as_the_real_one_does(built: Example) -> None:
    places = ("--engine_dir", built.engine(), "--tokenizer_dir", TINY_LLAMA)
    words = (*places, "--max_output_len", "40", "--input_text", PROMPT)
    printed = run(built.stand_in, "python3", built.stand_in.script("run.py"), *words, cwd=built.directory)
    assert f'Input [Text 0]: "<|begin_of_text|>{PROMPT}"\nOutput [Text 0 Beam 0]: "{ANSWER}"\n' in printed


@pytest.mark.parametrize("kind", ["ModelRunner", "ModelRunnerCpp"])
def test_a_runner_gives_the_scripted_answer(built: Example, kind: str) -> None:
    length = (built.stand_in.release == "0.8.0" and 128 + 1024) or 256
    assert f"said {ANSWER} (1, 1, {length})" in drive(built, kind, built.engine(), TINY_LLAMA, PROMPT)


def test_a_runner_says_again_what_is_not_scripted(middle: Example) -> None:
    assert "said anything (1, 1, 256)" in drive(middle, "ModelRunner", middle.engine(), TINY_LLAMA, "anything")


def test_an_engine_for_two_ranks_runs_under_mpi(built: Example) -> None:
    assert drive(built, "ModelRunnerCpp", built.engine(2), TINY_LLAMA, PROMPT, ranks=2).count(f"said {ANSWER}") == 1
    last = built.stand_in.calls("tensorrt_llm")[-2:]
    assert sorted((call.rank, call.world_size) for call in last) == [(0, 2), (1, 2)]


def test_an_engine_for_two_ranks_is_refused_by_one(built: Example) -> None:
    printed = drive(built, "ModelRunnerCpp", built.engine(2), TINY_LLAMA, PROMPT, status=1)
    assert ("mpiSize == tp * pp" if built.stand_in.release == "0.8.0" else "MPI size 1 != TP size 2 * PP") in printed
    printed = drive(built, "ModelRunner", built.engine(2), TINY_LLAMA, PROMPT, status=1)
    assert "AssertionError: Engine world size (2 * 1) != Runtime world size (1)" in printed


def test_an_engine_for_one_rank_is_refused_by_two(middle: Example) -> None:
    printed = drive(middle, "ModelRunnerCpp", middle.engine(), TINY_LLAMA, PROMPT, ranks=2, status=1)
    assert "MPI size 2 != TP size 1 * PP size 1 * CP Size 1" in printed
    assert "mpirun detected that one or more processes exited with non-zero status" in printed


def test_a_runner_refuses_arguments_the_release_does_not_have(built: Example) -> None:
    code = (
        "from tensorrt_llm.runtime import ModelRunnerCpp\n"
        f"ModelRunnerCpp.from_dir({str(built.engine())!r}, kv_cache_fraction=1)"
    )
    printed = run(built.stand_in, "python3", "-c", code, cwd=built.directory, status=1)
    assert "from_dir() got an unexpected keyword argument 'kv_cache_fraction'" in printed


def test_a_prompt_beyond_the_engines_limits_is_refused(middle: Example) -> None:
    printed = drive(middle, "ModelRunner", middle.engine(), TINY_LLAMA, "one two three " * 60, status=1)
    assert "exceeds the engine or specified limit (128)" in printed


def test_an_engine_of_another_tensorrt_or_gpu_is_not_loaded(middle: Example, tmp_path: Path) -> None:
    other = make_release(tmp_path / "other", "0.16.0", tensorrt="10.8.0")
    words = ("python3", "-c", DRIVER, "ModelRunner", middle.engine(), TINY_LLAMA, PROMPT)
    assert "expecting library version 10.8.0 got 10.7.0" in run(other, *words, cwd=tmp_path, status=1)
    small = make_release(
        tmp_path / "small", "0.16.0", gpus=[{"name": "NVIDIA L4", "compute_cap": "8.9", "memory.total": "23034"}]
    )
    assert "expecting compute 8.9 got compute 9.0" in run(small, *words, cwd=tmp_path, status=1)


def test_llm_reads_engines_in_the_module_the_release_has_it_in(middle: Example, new: Example) -> None:
    assert f"said {ANSWER} stop" in ask_llm(middle, "tensorrt_llm", middle.engine(2))
    assert f"said {ANSWER} stop" in ask_llm(new, "tensorrt_llm._tensorrt_engine", new.engine(2))
    assert "No module named 'tensorrt_llm._tensorrt_engine'" in ask_llm(
        middle, "tensorrt_llm._tensorrt_engine", middle.engine(), status=1
    )


def test_llm_stops_at_the_wanted_length(middle: Example) -> None:
    assert "length 3" in ask_llm(middle, "tensorrt_llm", middle.engine(), tokens=3)


def test_llm_needs_as_many_gpus_as_ranks(middle: Example, tmp_path: Path) -> None:
    small = Example(make_release(tmp_path / "release", "0.16.0", gpus=1), tmp_path)
    assert "Only 1 GPUs are available, but 2 are required" in ask_llm(small, "tensorrt_llm", middle.engine(2), status=1)


def test_pytorch_llm_reads_a_hugging_face_model_and_no_engine(new: Example) -> None:
    good = "{'kv_cache_config': {'free_gpu_memory_fraction': 0.5}, 'tensor_parallel_size': 2}"
    assert f"said {ANSWER} stop" in ask_llm(new, "tensorrt_llm", TINY_LLAMA, good)
    assert "ValueError: Unrecognized model in" in ask_llm(new, "tensorrt_llm", new.engine(), status=1)


@pytest.mark.parametrize(
    ("release", "module", "arguments"),
    [("0.18.2", "tensorrt_llm._torch", "{}"), ("0.19.0", "tensorrt_llm", "{'backend': 'pytorch'}")],
)
def test_before_1_0_the_pytorch_llm_was_elsewhere(release: str, module: str, arguments: str, tmp_path: Path) -> None:
    one = Example.of(tmp_path, release)
    assert f"said {ANSWER} stop" in ask_llm(one, module, TINY_LLAMA, arguments)
    assert "unexpected keyword argument 'nonsense'" in ask_llm(one, module, TINY_LLAMA, "{'nonsense': 1}", status=1)


@pytest.mark.parametrize("wrong", ["{'max_batch_sise': 1}", "{'kv_cache_config': {'fraction': 1}}"])
def test_pytorch_llm_refuses_arguments_it_does_not_have(new: Example, wrong: str) -> None:
    assert "Extra inputs are not permitted" in ask_llm(new, "tensorrt_llm", TINY_LLAMA, wrong, status=1)


def test_mpirun_refuses_root_without_its_flag(middle: Example, monkeypatch: pytest.MonkeyPatch) -> None:
    status = 1 if os.geteuid() == 0 else 0
    printed = run(middle.stand_in, "mpirun", "-n", "2", "true", cwd=middle.directory, status=status)
    assert ("--allow-run-as-root" in printed) == (status == 1)
