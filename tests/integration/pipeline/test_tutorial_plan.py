"""The command line plans the spec of NVIDIA's tutorial from a local Hub with the real protocol.
The printed commands are those of the tutorial."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import close_session, constants

from enginery.cli.app import main
from tests.support.http.hub import HubServer, running_hub
from tests.support.models.directories import model_directory, write
from tests.support.models.examples import LLAMA_3_8B
from tests.support.paths import CHECKOUT

SPEC = CHECKOUT / "infra" / "models" / "llama-3-8b-instruct.yaml"
NAME = "meta-llama/Meta-Llama-3-8B-Instruct"
STEPS = "llama-3-8b-instruct-steps"
PLACES = f"--model_dir {STEPS}/download --output_dir {STEPS}/convert/h100"
BUILD = (
    f"trtllm-build --checkpoint_dir {STEPS}/convert/h100 --output_dir {STEPS}/build/h100"
    " --gpt_attention_plugin bfloat16 --gemm_plugin bfloat16"
)

Plan = Callable[..., list[str]]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub with a gated model of this name and shape. The environment has a token for it."""
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    model = write(model_directory(tmp_path / "model"), {"config.json": LLAMA_3_8B})
    with running_hub(tmp_path / "hub") as running:
        running.add_model(NAME, model, gated=True)
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setenv("HF_TOKEN", running.add_token("hf_of_the_reader", NAME))
        yield running
    close_session()


@pytest.fixture
def commands(hub: HubServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Plan:
    """Runs `enginery plan SPEC --commands`. Returns its lines."""

    def plan(*settings: str) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["enginery", "plan", str(SPEC), *settings, "--commands"])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        return capsys.readouterr().out.splitlines()

    return plan


def line_of(lines: list[str], command: str) -> str:
    """The only line that runs this command, without the variables and the directory before the program."""
    (found,) = [line for line in lines if f"bin/{command} " in line]
    return found[found.index(f"bin/{command} ") + len("bin/") :]


@pytest.mark.parametrize(
    ("settings", "script"),
    [
        ((), "examples/llama/convert_checkpoint.py"),
        (("--set", 'targets.0.release="1.2.1"'), "examples/models/core/llama/convert_checkpoint.py"),
    ],
    ids=["0.8.0", "1.2.1"],
)
def test_the_tutorials_spec_prints_the_tutorials_commands_and_their_translation(
    commands: Plan, hub: HubServer, settings: tuple[str, ...], script: str
) -> None:
    lines = commands(*settings)
    assert line_of(lines, "python") == f"python {script} {PLACES} --dtype bfloat16"
    assert line_of(lines, "trtllm-build") == BUILD
    assert hub.bytes_sent["model.safetensors"] == 0
