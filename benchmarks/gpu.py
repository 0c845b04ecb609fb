"""Builds and validates engines of ONNX Runtime on this machine's NVIDIA GPU with `enginery run-step`, as a worker does.

    python -m benchmarks.gpu RESULT.json

The toolchain is `host`: python3 on PATH with ONNX Runtime GenAI for CUDA, torch and safetensors. The result file has
the commands, their seconds, the GPU memory in use, and facts about the machine.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import yaml

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "tiny-llama"
PRECISIONS = ("bfloat16", "int4")
SAMPLE_SECONDS = 0.25
KEPT_LINES = ("engine loaded on", "prompt ")
"""Log lines that begin with one of these are kept in the result."""
QUESTION = {"prompt": "How do I count to nine in French?"}


class GpuMemory:
    """The most memory in use on the GPU while the block runs, in MiB, sampled through `nvidia-smi`."""

    def __init__(self) -> None:
        self.most = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            self.most = max(self.most, int(_smi("memory.used").removesuffix(" MiB")))


def _smi(fields: str) -> str:
    query = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip()


def gpu_facts() -> dict[str, str]:
    """The machine's GPU, driver, number of cores, Python and kernel."""
    fields = ("name", "compute_cap", "memory.total", "driver_version")
    gpu = dict(zip(fields, _smi(",".join(fields)).split(", "), strict=True))
    return {**gpu, "cpu_cores": str(os.cpu_count()), "python": platform.python_version(), "kernel": platform.release()}


def spec_for(name: str, weights: Path, prompts: list[dict[str, Any]]) -> dict[str, Any]:
    """A spec with one target for each precision, for the GPU of this machine."""
    common = {"gpu": "auto", "backend": "onnxruntime", "toolchain": "host"}
    targets = [{"name": precision, "precision": precision, **common} for precision in PRECISIONS]
    validation = {"max_tokens": 64, "prompts": prompts}
    return {"name": name, "source": {"path": str(weights)}, "targets": targets, "validation": validation}


def measured(argv: list[str], work: Path) -> dict[str, Any]:
    """Run one `enginery` command and describe it. Paths are shown relative to `work`.

    Raises:
        RuntimeError: when it fails, with its output.
    """
    command = [sys.executable, "-c", "from enginery.cli.app import main; main()", *argv]
    started = time.perf_counter()
    with GpuMemory() as memory:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(f"{argv} ended with status {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    shown = " ".join(["enginery", *argv]).replace(f"{work}/", "")
    return {
        "command": shown,
        "seconds": round(seconds, 1),
        "gpu_memory_mib": memory.most,
        "outcome": json.loads(done.stdout),
        "said": [line for line in done.stderr.splitlines() if line.startswith(KEPT_LINES)],
    }


def run_spec(spec: dict[str, Any], work: Path) -> dict[str, Any]:
    """Plan a spec, then build and validate each target."""
    file, plan = work / f"{spec['name']}.yaml", work / f"{spec['name']}.json"
    file.write_text(yaml.safe_dump(spec), encoding="utf-8")
    planned = measured(["plan", str(file), "--json"], work)
    plan.write_text(json.dumps(planned["outcome"]), encoding="utf-8")
    targets = {target["name"]: {"gpu": target["gpu"]} for target in planned["outcome"]["targets"]}
    for name, found in targets.items():
        for stage in ("build", "validate"):
            step = ["run-step", str(plan), f"{stage}/{name}", "--with-inputs", "--json"]
            ran = measured(step, work)
            facts = {key: ran["outcome"][key] for key in ("seconds", "size", "facts")}
            found[stage] = {**ran, "outcome": facts}
            print(f"{spec['name']} {stage} {name}: {ran['seconds']} s, {ran['gpu_memory_mib']} MiB", flush=True)
    return {"plan_seconds": planned["seconds"], "targets": targets}


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    result = parser.parse_args().result
    prompts = yaml.safe_load((EXAMPLE / "prompts.yaml").read_text(encoding="utf-8"))["prompts"]
    with TemporaryDirectory(prefix="enginery-gpu-") as scratch:
        work = Path(scratch)
        os.environ["ENGINERY_HOME"] = str(work / "home")
        shutil.copytree(EXAMPLE / "model", work / "tiny-llama")
        script = [str(shutil.which("python3")), str(ROOT / "benchmarks" / "random_llama.py"), str(work / "llama-1b")]
        made = subprocess.run(script, capture_output=True, text=True, check=True).stdout.strip()
        found = {
            "machine": gpu_facts(),
            "tiny-llama": run_spec(spec_for("tiny-llama", work / "tiny-llama", prompts), work),
            "llama-1b": {
                "weights": f"random, {made}",
                **run_spec(spec_for("llama-1b", work / "llama-1b", [QUESTION]), work),
            },
        }
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
