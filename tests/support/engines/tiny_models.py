"""Builds small models with random weights, and lets them answer: `python tiny_models.py DIRECTORY ARCHITECTURE ...`.

Runs in the onnxruntime toolchain. `results.json` in the directory gets what went wrong with each, empty if nothing did,
and `ARCHITECTURE.weights.json` how near the engine's weights are to the model's.
"""

import json
import os
import runpy
import shutil
import sys
from importlib import import_module
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", ORT_DISABLE_TELEMETRY="1")

import numpy as np
import torch  # type: ignore[import-not-found,unused-ignore]
import transformers  # type: ignore[import-not-found,unused-ignore]

CHECKOUT = Path(__file__).parents[3]
COMPARE = CHECKOUT / "enginery" / "toolchains" / "drivers" / "compare_onnx_weights.py"
TOKENIZER = CHECKOUT / "examples" / "tiny-llama" / "model"
PROMPT = [1, 5, 9]
CLOSE = 1e-3
"""Logits of two correct computations in float32 differ by less."""
SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": json.loads((TOKENIZER / "config.json").read_text())["vocab_size"],
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
TYPES = {
    "Qwen3ForCausalLM": ("qwen3", {}),
    "GraniteForCausalLM": ("granite", {}),
    "Phi3ForCausalLM": ("phi3", {"original_max_position_embeddings": 256, "sliding_window": 256}),
    "Gemma2ForCausalLM": ("gemma2", {"sliding_window": 64}),
    "Gemma3ForCausalLM": ("gemma3_text", {"sliding_window": 8}),
}


def weights(architecture: str, directory: Path) -> Path:
    """A model with random weights. A new model's norms are all ones or zeros; here each is another."""
    kind, more = TYPES[architecture]
    config = transformers.AutoConfig.for_model(kind, **SHAPE, **more)
    model = getattr(transformers, architecture)(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1 if weight.dim() == 1 else 0)
    model.save_pretrained(directory)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TOKENIZER / name, directory)
    return directory


def build(model: Path, engine: Path) -> None:
    """Build the engine as the build step does."""
    sys.argv = ["builder", "-i", str(model), "-o", str(engine), "-c", f"{engine}.cache", "-p", "fp32", "-e", "cpu"]
    sys.argv += ["--extra_options", "hf_token=false", "hf_remote=false"]
    runpy.run_module("onnxruntime_genai.models.builder", run_name="__main__")


def compare(engine: Path, model: Path, output: Path) -> None:
    """Compare the weights as the validation does."""
    sys.argv = [str(COMPARE), "--engine", str(engine), "--weights", str(model), "--output", str(output)]
    runpy.run_path(str(COMPARE), run_name="__main__")


def answer(engine: Path, model: Path) -> None:
    """Generate some tokens as the validation does, and as the served model does."""
    answer_prompts = import_module("enginery.toolchains.drivers.answer_prompts")
    tokens = list(answer_prompts.generate(answer_prompts.load(engine, model, 1), PROMPT, len(PROMPT) + 4))
    session = import_module("enginery.triton.models.generation").GenaiEngine(engine).start([PROMPT], len(PROMPT) + 4)
    served = int(session.logits()[0].argmax())
    session.append([served])
    if served != tokens[0] or len(tokens) > 4:
        raise RuntimeError(f"validated with {tokens}, served with {served}")


def predict(engine: Path, model: Path) -> None:
    """Predict a sequence that is longer than the sliding windows, as the validation does, and as transformers does."""
    answer_prompts = import_module("enginery.toolchains.drivers.answer_prompts")
    ids = [1, *range(3, 103)]
    found = np.full((len(ids), SHAPE["vocab_size"]), np.nan)
    for skipped, logits in answer_prompts.predictions(answer_prompts.load(engine, model, 1), ids, 1):
        found[skipped : skipped + len(logits)] = logits
    original = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.inference_mode():
        wanted = original(torch.tensor([ids])).logits[0].numpy()
    if not np.allclose(found, wanted, atol=CLOSE):
        raise RuntimeError(f"predicted logits are wrong by {np.abs(found - wanted).max():.3g}")


def main(directory: Path, architectures: list[str]) -> None:
    """Try each architecture."""
    results = {}
    for architecture in architectures:
        engine = directory / f"{architecture}.engine"
        try:
            build(weights(architecture, directory / architecture), engine)
            compare(engine, directory / architecture, directory / f"{architecture}.weights.json")
            answer(engine, directory / architecture)
            predict(engine, directory / architecture)
            results[architecture] = ""
        except (Exception, SystemExit) as error:  # noqa: BLE001  whatever a builder raises
            results[architecture] = f"{type(error).__name__}: {error}"
    (directory / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    # Drivers import the files beside them.
    sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / "enginery" / "toolchains" / "drivers")]
    main(Path(sys.argv[1]), sys.argv[2:])
