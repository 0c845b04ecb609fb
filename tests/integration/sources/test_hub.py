"""Tests of the Hub as a source, with its real protocol."""

from pathlib import Path

import pytest
from huggingface_hub import constants

from enginery.core.errors import SourceError
from enginery.core.home import home
from enginery.sources import hub, parameters, resolve, staging
from enginery.spec.spec import Source
from tests.support.http.hub import HubServer
from tests.support.models.checkpoints import fp8_layout, source_layout, write_source
from tests.support.models.directories import model_directory, safetensors, sharded_model_directory, write
from tests.support.models.downloads import plan_and_download, run_download
from tests.support.store.outputs import contents

NAME = "acme/tiny"
SOURCE = Source(huggingface=NAME)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return model_directory(tmp_path / "model")


def test_a_branch_is_resolved_to_its_commit_without_downloading_weights(server: HubServer, model: Path) -> None:
    commit = server.add_model(NAME, model)
    resolved = resolve(SOURCE)
    assert (resolved.kind, resolved.location, resolved.commit) == ("huggingface", NAME, commit)
    assert [file.name for file in resolved.files] == [
        "LICENSE", "USE_POLICY.md", "config.json", "generation_config.json", "model.safetensors",
        "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert resolved.license_files == ["LICENSE", "USE_POLICY.md"]
    assert not resolved.gated
    assert server.bytes_sent["model.safetensors"] == 0


def test_branch_tag_and_commit_lead_to_the_same_parameters(server: HubServer, model: Path) -> None:
    commit = server.add_model(NAME, model)
    server.add_model(NAME, model, revision="v1")
    wanted = [
        parameters(resolve(source), source)
        for source in (Source(huggingface=NAME, revision=revision) for revision in ("main", "v1", commit))
    ]
    assert wanted[0] == wanted[1] == wanted[2]


def test_a_moved_branch_is_another_download(server: HubServer, model: Path) -> None:
    server.add_model(NAME, model)
    before = parameters(resolve(SOURCE), SOURCE)
    server.add_model(NAME, write(model, {"model.safetensors": safetensors(fill=9)}))
    assert parameters(resolve(SOURCE), SOURCE) != before


def test_a_plan_made_before_a_branch_moved_downloads_what_was_planned(
    server: HubServer, model: Path, tmp_path: Path
) -> None:
    server.add_model(NAME, model)
    wanted = parameters(resolve(SOURCE), SOURCE)
    server.add_model(NAME, write(model, {"model.safetensors": safetensors(fill=9)}))
    run_download(wanted, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == safetensors()


def test_only_the_needed_files_are_downloaded(server: HubServer, model: Path, tmp_path: Path) -> None:
    commit = server.add_model(NAME, model)
    facts = plan_and_download(SOURCE, tmp_path / "out")
    resolved = resolve(SOURCE)
    assert contents(tmp_path / "out") == {file.name: (model / file.name).read_bytes() for file in resolved.files}
    assert facts == {
        "source": "huggingface", "repository": NAME, "commit": commit, "files": 7, "bytes": resolved.size,
        "license_files": ["LICENSE", "USE_POLICY.md"],
    }  # fmt: skip
    assert not {"pytorch_model.bin", "original/consolidated.00.pth", "onnx/model.onnx"} & set(server.bytes_sent)


def test_sharded_weights_arrive_whole(server: HubServer, tmp_path: Path) -> None:
    directory = sharded_model_directory(tmp_path / "sharded", values=50_000, shards=6)
    server.add_model(NAME, directory)
    plan_and_download(SOURCE, tmp_path / "out")
    for path in directory.glob("model*"):
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


def test_planning_again_asks_for_the_commit_only(server: HubServer, model: Path) -> None:
    server.add_model(NAME, model)
    resolve(SOURCE)
    before = server.bytes_sent.copy()
    resolve(SOURCE)
    assert server.bytes_sent == before


def test_a_spoilt_remembered_file_is_asked_for_again(server: HubServer, model: Path) -> None:
    commit = server.add_model(NAME, model)
    resolve(SOURCE)
    write(home() / "sources" / "hub" / commit, {"config.json": "[]"})
    assert resolve(SOURCE).commit == commit
    assert len(server.asked("/config.json")) == 2


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"adapter_config.json": {"base_model_name_or_path": "acme/base"}, "adapter_model.bin": b"x"}, "acme/base"),
        ({"Q4_K_M/model-00001-of-00002.gguf": b"x", "config.json": {"model_type": "llama"}}, "GGUF"),
        ({"model_index.json": {}, "vae/config.json": {}, "unet/model.safetensors": b"x"}, "diffusers"),
    ],
)
def test_what_a_repository_is_instead_of_a_model_is_named(
    server: HubServer, tmp_path: Path, files: dict[str, object], words: str
) -> None:
    server.add_model(NAME, write(tmp_path / "other", files))
    with pytest.raises(SourceError, match=words) as caught:
        resolve(SOURCE)
    assert "things are wrong" not in caught.value.problem


def test_the_error_says_that_a_repository_does_not_exist_or_is_private(server: HubServer, model: Path) -> None:
    server.add_model("acme/private", model, private=True)
    for name in ("acme/nothing", "acme/private"):
        with pytest.raises(SourceError, match="no such repository, or it is private") as caught:
            resolve(Source(huggingface=name))
        assert caught.value.subject == name
        assert "HF_TOKEN" in caught.value.remedy
        assert not caught.value.transient


def test_with_a_token_both_possibilities_are_still_told(
    server: HubServer, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add_model("acme/private", model, private=True)
    monkeypatch.setenv("HF_TOKEN", server.add_token("hf_stranger"))
    with pytest.raises(SourceError, match="no such repository, or the token in use may not see it"):
        resolve(Source(huggingface="acme/private"))
    monkeypatch.setenv("HF_TOKEN", server.add_token("hf_member", "acme/private"))
    assert resolve(Source(huggingface="acme/private")).files


def test_a_revision_that_does_not_exist_is_named(server: HubServer, model: Path) -> None:
    server.add_model(NAME, model)
    with pytest.raises(SourceError, match="no revision 'v9'") as caught:
        resolve(Source(huggingface=NAME, revision="v9"))
    assert f"{server.url}/{NAME}/tree/main" in caught.value.remedy


def test_a_revision_with_a_slash_is_found(server: HubServer, model: Path) -> None:
    server.add_model(NAME, model, revision="refs/pr/1")
    assert resolve(Source(huggingface=NAME, revision="refs/pr/1")).files


def test_a_gated_repository_without_a_token_says_where_to_accept_and_what_to_set(
    server: HubServer, model: Path
) -> None:
    server.add_model(NAME, model, gated=True)
    with pytest.raises(SourceError, match="gated, and no token was sent") as caught:
        resolve(SOURCE)
    assert f"{server.url}/{NAME}" in caught.value.remedy
    assert "set HF_TOKEN" in caught.value.remedy


def test_a_gated_repository_refuses_a_token_without_access_in_other_words(
    server: HubServer, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add_model(NAME, model, gated=True)
    monkeypatch.setenv("HF_TOKEN", server.add_token("hf_stranger"))
    with pytest.raises(SourceError, match="account has no access") as caught:
        resolve(SOURCE)
    assert f"{server.url}/{NAME}" in caught.value.remedy
    assert not caught.value.transient


def test_a_token_with_access_opens_a_gated_repository(
    server: HubServer, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add_model(NAME, model, gated=True)
    monkeypatch.setenv("HF_TOKEN", server.add_token("hf_member", NAME))
    assert resolve(SOURCE).gated
    assert plan_and_download(SOURCE, tmp_path / "out")["files"] == 7


def test_the_plan_reports_lost_access_although_the_small_files_are_remembered(
    server: HubServer, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add_model(NAME, model, gated=True)
    monkeypatch.setenv("HF_TOKEN", server.add_token("hf_member", NAME))
    resolve(SOURCE)
    monkeypatch.delenv("HF_TOKEN")
    sent = server.bytes_sent.copy()
    with pytest.raises(SourceError, match="gated, and no token was sent"):
        resolve(SOURCE)
    assert server.bytes_sent == sent
    assert server.requests[-1].method == "HEAD"


def test_an_open_repository_is_asked_for_nothing_more(server: HubServer, model: Path) -> None:
    server.add_model(NAME, model)
    resolve(SOURCE)
    assert "HEAD" not in {seen.method for seen in server.requests}


def test_the_saved_login_is_used_when_no_token_is_set(
    server: HubServer, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add_model(NAME, model, gated=True)
    server.add_token("hf_saved", NAME)
    write(tmp_path, {"token": "hf_saved"})
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    assert resolve(SOURCE).gated


def test_a_wrong_or_expired_token_has_its_own_error(
    server: HubServer, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add_model(NAME, model)
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    with pytest.raises(SourceError, match="does not accept the token"):
        resolve(SOURCE)


def test_access_lost_between_plan_and_download_is_reported(
    server: HubServer, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add_model(NAME, model, gated=True)
    monkeypatch.setenv("HF_TOKEN", server.add_token("hf_member", NAME))
    wanted = parameters(resolve(SOURCE), SOURCE)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(SourceError, match="gated, and no token was sent"):
        run_download(wanted, tmp_path / "out")


def test_the_token_reaches_the_hub_only(
    server: HubServer, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    token = "hf_thisisthesecret"
    server.add_model(NAME, model, gated=True)
    monkeypatch.setenv("HF_TOKEN", server.add_token(token, NAME))
    lines: list[str] = []
    wanted = parameters(resolve(SOURCE), SOURCE)
    facts = run_download(wanted, tmp_path / "out", lines)
    server.fail("corrupt", "model.safetensors", times=None)
    staging.remove_finished()
    with pytest.raises(SourceError) as caught:
        run_download(wanted, tmp_path / "again", lines)
    everything = f"{lines}{wanted}{facts}{caught.value}{capfd.readouterr()}"
    assert token not in everything
    assert not [path for path in home().rglob("*") if path.is_file() and token.encode() in path.read_bytes()]
    assert {seen.authorization for seen in server.requests if "/cdn/" in seen.path} == {None}
    assert f"Bearer {token}" in server.authorizations


def test_a_digest_that_the_hub_knows_to_differ_is_reported_at_once(server: HubServer, model: Path) -> None:
    server.add_model(NAME, model)
    with pytest.raises(SourceError, match="model.safetensors has another SHA-256") as caught:
        resolve(Source(huggingface=NAME, sha256={"model.safetensors": "0" * 64}))
    assert "0" * 64 in caught.value.problem
    assert server.bytes_sent["model.safetensors"] == 0


def test_a_digest_that_only_the_download_can_check_stops_it(server: HubServer, model: Path, tmp_path: Path) -> None:
    server.add_model(NAME, model)
    source = Source(huggingface=NAME, sha256={"tokenizer.json": "0" * 64})
    with pytest.raises(SourceError, match="wrong SHA-256: expected 000") as caught:
        plan_and_download(source, tmp_path / "out")
    assert caught.value.subject == "tokenizer.json"


def test_everything_wrong_with_a_repository_is_reported_at_once(server: HubServer, tmp_path: Path) -> None:
    directory = write(tmp_path / "bad", {"config.json": {"auto_map": {"A": "b.C"}}, "pytorch_model.bin": b"pickle"})
    server.add_model(NAME, directory)
    with pytest.raises(SourceError, match="3 things are wrong") as caught:
        resolve(SOURCE)
    for problem in ("no tokenizer", "auto_map", "only pickles"):
        assert problem in caught.value.problem
    assert caught.value.subject == f"{NAME} at main"


def test_an_allowed_pickle_is_downloaded(server: HubServer, model: Path, tmp_path: Path) -> None:
    (model / "model.safetensors").unlink()
    server.add_model(NAME, model)
    plan_and_download(Source(huggingface=NAME, allow_pickle=("pytorch_model.bin",)), tmp_path / "out")
    assert (tmp_path / "out" / "pytorch_model.bin").read_bytes() == b"pickle"


def test_damaged_weights_in_the_repository_itself_are_refused(server: HubServer, model: Path, tmp_path: Path) -> None:
    server.add_model(NAME, write(model, {"model.safetensors": safetensors()[:-8]}))
    with pytest.raises(SourceError, match="its header says") as caught:
        plan_and_download(SOURCE, tmp_path / "out")
    assert "correct it there" in caught.value.remedy


def test_weights_that_lack_a_tensor_are_refused_after_the_download_with_its_name(
    server: HubServer, tmp_path: Path
) -> None:
    lost = "model.layers.1.mlp.down_proj.weight"
    layout = {name: about for name, about in source_layout().items() if name != lost}
    server.add_model(NAME, write(write_source(tmp_path / "model", layout), {"tokenizer.json": {}}))
    with pytest.raises(SourceError, match=f"1 tensor that LlamaForCausalLM .* is missing: {lost}") as caught:
        plan_and_download(SOURCE, tmp_path / "out")
    assert (caught.value.exit_code, caught.value.subject) == (3, NAME)


def test_quantized_weights_that_say_so_nowhere_are_refused_after_the_download(
    server: HubServer, tmp_path: Path
) -> None:
    server.add_model(NAME, write(write_source(tmp_path / "model", fp8_layout()), {"tokenizer.json": {}}))
    with pytest.raises(SourceError, match=r"the weights are quantized \(fp8, .* does not say so"):
        plan_and_download(SOURCE, tmp_path / "out")


def test_a_file_beside_the_configuration_that_says_how_weights_are_quantized_is_read_by_the_plan(
    server: HubServer, tmp_path: Path
) -> None:
    files = {"tokenizer.json": {}, "quant_config.json": {"w_bit": 4, "q_group_size": 128, "zero_point": True}}
    server.add_model(NAME, write(write_source(tmp_path / "model"), files))
    quantization = resolve(SOURCE).config["quantization_config"]
    assert isinstance(quantization, dict)
    assert (quantization["quant_method"], quantization["said_in"]) == ("awq", "quant_config.json")


def test_a_file_too_large_for_plain_http_goes_through_the_hubs_own_downloader(
    server: HubServer, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "PLAIN_LIMIT_BYTES", 100)
    server.add_model(NAME, model)
    plan_and_download(SOURCE, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == safetensors()
    assert server.asked("/model.safetensors", "HEAD")


def test_the_servers_protocol_is_what_the_hubs_own_client_expects(
    server: HubServer, model: Path, tmp_path: Path
) -> None:
    from huggingface_hub import snapshot_download

    commit = server.add_model(NAME, model)
    made = Path(snapshot_download(NAME, endpoint=server.url, cache_dir=tmp_path / "cache"))
    assert made.name == commit
    assert (made / "onnx" / "model.onnx").read_bytes() == b"onnx"
    assert (made / "model.safetensors").read_bytes() == safetensors()
