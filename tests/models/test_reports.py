"""Tests of what is read from the logs of loaders. Each line says where it is from."""

import pytest

from enginery.models.reports import LoadReport

# transformers 5.23, utils/loading_report.py: seen in the log of onnxruntime-genai 0.18's builder
TABLE = [
    "[transformers] \x1b[1mLlamaForCausalLM LOAD REPORT\x1b[0m from: /weights",
    "Key                                                 | Status     |  |",
    "----------------------------------------------------+------------+--+-",
    "model.layers.{0, 1}.mlp.up_proj.weight_scale_inv    | UNEXPECTED |  |",
    "model.layers.{0...31}.self_attn.rotary_emb.inv_freq | UNEXPECTED |  |",
    "model.layers.1.mlp.down_proj.weight                 | \x1b[31mMISSING\x1b[0m    |  |",
    "model.layers.0.mlp.up_proj.weight  | MISMATCH   | Reinit due to size mismatch - ckpt: torch.Size([1]) vs model:",
    "",
    "Notes:",
    "- UNEXPECTED:\tcan be ignored when loading from different task/architecture; not ok if you expect identical arch.",
    "- MISSING:\tthose params were newly initialized because missing from the checkpoint.",
]

# transformers 4.46, modeling_utils.py, _load_pretrained_model
NOT_INITIALIZED = (
    "Some weights of LlamaForCausalLM were not initialized from the model checkpoint at /w [1] and are newly"
)
NOT_USED = "Some weights of the model checkpoint at /w were not used when initializing LlamaForCausalLM:"
SENTENCES = [
    f"{NOT_INITIALIZED} initialized: ['lm_head.weight', 'model.norm.weight']",
    "You should probably TRAIN this model on a down-stream task to be able to use it for predictions and inference.",
    f"{NOT_USED} ['model.layers.0.self_attn.q_proj.bias', 'model.layers.0.self_attn.rotary_emb.inv_freq']",
    "- This IS expected if you are initializing LlamaForCausalLM from the checkpoint of a model trained on another",
    f"{NOT_INITIALIZED} initialized because the shapes did not match:",
    "- model.norm.weight: found shape torch.Size([8]) in the checkpoint and torch.Size([9]) in the model instantiated",
]


def faults(*lines: str) -> list[str]:
    written: list[str] = []
    report = LoadReport()
    log = report.watch(written.append)
    for line in lines:
        log(line)
    assert written == list(lines)
    return [fault.problem for fault in report.faults()]


def test_the_table_of_transformers_5_is_read_with_and_without_colours() -> None:
    assert faults(*TABLE) == [
        "filled with random numbers, because the weights do not have them: model.layers.1.mlp.down_proj.weight",
        "of another shape in the weights than in the model: model.layers.0.mlp.up_proj.weight",
        "in the weights but not in the model: model.layers.{0, 1}.mlp.up_proj.weight_scale_inv",
    ]


def test_the_sentences_of_transformers_4_are_read() -> None:
    assert faults(*SENTENCES) == [
        "filled with random numbers, because the weights do not have them: lm_head.weight, model.norm.weight",
        "of another shape in the weights than in the model: model.norm.weight",
        "in the weights but not in the model: model.layers.0.self_attn.q_proj.bias",
    ]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        # TensorRT-LLM 0.12 to 1.3, models/modeling_utils.py, PretrainedModel.load
        ("RuntimeError: Required but not provided tensors:{'transformer.layers.1.mlp.fc.weight'}",
         "do not have them: transformer.layers.1.mlp.fc.weight"),
        # TensorRT-LLM 0.8, models/modeling_utils.py
        ("Expected but not provided tensors: {'lm_head.weight'}", "do not have them: lm_head.weight"),
        # PyTorch, Module.load_state_dict
        ('\tMissing key(s) in state_dict: "lm_head.weight", "model.norm.weight". ',
         "do not have them: lm_head.weight, model.norm.weight"),
        ('\tUnexpected key(s) in state_dict: "layers.0.self_attn.q_proj.bias". ',
         "not in the model: layers.0.self_attn.q_proj.bias"),
        ("\tsize mismatch for lm_head.weight: copying a param with shape torch.Size([8]) from checkpoint, the shape in",
         "another shape in the weights than in the model: lm_head.weight"),
    ],
)  # fmt: skip
def test_the_lines_of_tensorrt_llm_and_pytorch_are_read(line: str, found: str) -> None:
    (fault,) = faults(line)
    assert fault.endswith(found)


@pytest.mark.parametrize(
    "line",
    [
        "transformer.h.{0...11}.attn.bias | UNEXPECTED |  |",
        "transformer.h.0.attn.masked_bias | UNEXPECTED |  |",
        "model.layers.{0, 1}.self_attn.k_proj.k_scale | UNEXPECTED |  |",
        "vision_tower.layers.0.mlp.fc1.weight | UNEXPECTED |  |",
        "mtp.layers.0.mlp.up_proj.weight | UNEXPECTED |  |",
        "lm_head.weight | UNEXPECTED |  |",
        "v_head.summary.weight | UNEXPECTED |  |",
        "model.layers.{0, 1}.self_attn.rotary_emb.inv_freq | MISSING |  |",
        "model.layers.61.eh_proj.weight | UNEXPECTED |  |\nmodel.layers.61.mlp.up_proj.weight | UNEXPECTED |  |",
        # TensorRT-LLM 0.16, models/modeling_utils.py: a warning about what it does not need
        "[TRT-LLM] [W] Provided but not required tensors: {'transformer.rope.inv_freq'}",
        "Building the engine: layers | done |",
        "Saving model.layers.0.mlp.up_proj.weight (f32, [8, 4])",
    ],
)
def test_what_loaders_rightly_leave_out_is_no_fault(line: str) -> None:
    assert faults(*line.splitlines()) == []


def test_a_line_that_was_cut_because_it_is_long_still_names_its_first_tensors() -> None:
    names = ", ".join(f"'model.layers.{layer}.mlp.up_proj.weight'" for layer in range(9))
    whole = (
        f"Some weights of X were not initialized from the model checkpoint at /w and are newly initialized: [{names}"
    )
    (fault,) = faults(f"{whole[:300]} … (cut)")
    assert "model.layers.0.mlp.up_proj.weight" in fault
