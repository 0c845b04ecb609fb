"""Tests of a local directory as the source of a model."""

import json
import shutil
import socket
from pathlib import Path

import pytest

from enginery.core.digests import file_digest
from enginery.core.errors import SourceError
from enginery.sources import ResolvedSource, parameters, resolve
from enginery.spec.spec import Source
from tests.support.models.checkpoints import source_layout, write_source
from tests.support.models.directories import model_directory, safetensors, sharded_model_directory, write
from tests.support.models.downloads import plan_and_download, run_download
from tests.support.store.outputs import contents


def at(directory: Path, **options: object) -> Source:
    return Source.model_validate({"path": str(directory), **options})


def test_a_directory_is_resolved_to_its_needed_files(tmp_path: Path) -> None:
    resolved = resolve(at(model_directory(tmp_path / "m")))
    assert resolved.kind == "path"
    assert resolved.location == str(tmp_path / "m")
    assert [file.name for file in resolved.files] == sorted(file.name for file in resolved.files)
    assert all(file.sha256 == file_digest(tmp_path / "m" / file.name) for file in resolved.files)
    assert resolved.license_files == ["LICENSE", "USE_POLICY.md"]
    assert resolved.size == sum((tmp_path / "m" / file.name).stat().st_size for file in resolved.files)
    assert ResolvedSource.model_validate_json(resolved.model_dump_json()) == resolved


def test_the_same_bytes_elsewhere_have_the_same_parameters(tmp_path: Path) -> None:
    first = at(model_directory(tmp_path / "first"))
    second = at(shutil.copytree(tmp_path / "first", tmp_path / "second"))
    wanted = parameters(resolve(first), first)
    assert wanted == parameters(resolve(second), second)
    assert "first" not in str(wanted)


def test_files_that_are_not_needed_change_nothing(tmp_path: Path) -> None:
    source = at(model_directory(tmp_path / "m"))
    before = parameters(resolve(source), source)
    write(tmp_path / "m", {"README.md": "changed", "new.txt": "new"})
    assert parameters(resolve(source), source) == before


def test_a_model_is_planned_before_its_weights_are_there_and_not_built(tmp_path: Path) -> None:
    directory = model_directory(tmp_path / "m")
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 32, "hidden_size": 4096,
        "num_attention_heads": 32, "intermediate_size": 11008, "vocab_size": 32000, "tie_word_embeddings": False,
    }  # fmt: skip
    write(directory, {"config.json": json.dumps(config)})
    assert [note for note in resolve(at(directory)).notes if "far too few" in note]
    with pytest.raises(SourceError, match="tensors that LlamaForCausalLM of this config.json needs are missing"):
        plan_and_download(at(directory), tmp_path / "out")


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "LICENSE"])
def test_another_byte_is_another_commit(tmp_path: Path, name: str) -> None:
    source = at(model_directory(tmp_path / "m"))
    before = resolve(source)
    content = (tmp_path / "m" / name).read_bytes()
    (tmp_path / "m" / name).write_bytes(content[:-4] + bytes([content[-4] ^ 1]) + content[-3:])
    assert resolve(source).commit != before.commit


def test_another_name_is_another_commit(tmp_path: Path) -> None:
    source = at(model_directory(tmp_path / "m"))
    before = resolve(source)
    (tmp_path / "m" / "LICENSE").rename(tmp_path / "m" / "LICENSE.txt")
    assert resolve(source).commit != before.commit


def test_the_download_holds_the_needed_files_and_tells_what_they_are(tmp_path: Path) -> None:
    resolved = resolve(at(model_directory(tmp_path / "m")))
    facts = plan_and_download(at(tmp_path / "m"), tmp_path / "out")
    made = contents(tmp_path / "out")
    assert made == {file.name: (tmp_path / "m" / file.name).read_bytes() for file in resolved.files}
    assert facts == {
        "source": "path", "repository": None, "commit": resolved.commit, "files": 7, "bytes": resolved.size,
        "license_files": ["LICENSE", "USE_POLICY.md"],
    }  # fmt: skip


def test_the_owners_files_are_copied_not_linked(tmp_path: Path) -> None:
    plan_and_download(at(model_directory(tmp_path / "m")), tmp_path / "out")
    assert not (tmp_path / "out" / "model.safetensors").samefile(tmp_path / "m" / "model.safetensors")


def test_a_snapshot_of_links_is_followed(tmp_path: Path) -> None:
    model_directory(tmp_path / "blobs")
    (tmp_path / "snapshot").mkdir()
    for path in (tmp_path / "blobs").iterdir():
        (tmp_path / "snapshot" / path.name).symlink_to(path)
    plan_and_download(at(tmp_path / "snapshot"), tmp_path / "out")
    assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())
    assert resolve(at(tmp_path / "snapshot")).commit == resolve(at(tmp_path / "blobs")).commit


def test_a_file_changed_after_the_plan_is_named(tmp_path: Path) -> None:
    source = at(model_directory(tmp_path / "m"))
    wanted = parameters(resolve(source), source)
    write(tmp_path / "m", {"model.safetensors": safetensors(fill=7)})
    with pytest.raises(SourceError, match="changed since the plan") as caught:
        run_download(wanted, tmp_path / "out")
    assert caught.value.subject == str(tmp_path / "m" / "model.safetensors")


def test_a_file_gone_after_the_plan_is_named(tmp_path: Path) -> None:
    source = at(model_directory(tmp_path / "m"))
    wanted = parameters(resolve(source), source)
    (tmp_path / "m" / "tokenizer.json").unlink()
    with pytest.raises(SourceError, match="is gone since") as caught:
        run_download(wanted, tmp_path / "out")
    assert caught.value.subject.endswith("tokenizer.json")


def test_local_files_planned_on_another_machine_cannot_be_found_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = at(model_directory(tmp_path / "m"))
    wanted = parameters(resolve(source), source)
    monkeypatch.setenv("ENGINERY_HOME", str(tmp_path / "other-machine"))
    with pytest.raises(SourceError, match="not known on this machine") as caught:
        run_download(wanted, tmp_path / "out")
    assert "plan on the machine that has them" in caught.value.remedy


def test_the_newest_place_of_the_same_bytes_is_used(tmp_path: Path) -> None:
    first = at(model_directory(tmp_path / "first"))
    wanted = parameters(resolve(first), first)
    (tmp_path / "first").rename(tmp_path / "second")
    resolve(at(tmp_path / "second"))
    assert run_download(wanted, tmp_path / "out")["files"] == 7


@pytest.mark.parametrize("name", ["nowhere", "file"])
def test_what_is_not_a_directory_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SourceError, match="is not a directory that can be read") as caught:
        resolve(at(tmp_path / name))
    assert caught.value.subject == str(tmp_path / name)
    assert socket.gethostname() in caught.value.problem  # a worker may run on another machine


def test_an_expected_digest_that_differs_stops_everything_and_names_both(tmp_path: Path) -> None:
    model_directory(tmp_path / "m")
    digest = file_digest(tmp_path / "m" / "model.safetensors")
    resolve(at(tmp_path / "m", sha256={"model.safetensors": digest}))
    with pytest.raises(SourceError, match="model.safetensors has another SHA-256") as caught:
        resolve(at(tmp_path / "m", sha256={"model.safetensors": "0" * 64}))
    assert digest in caught.value.problem
    assert "0" * 64 in caught.value.problem


def test_truncated_weights_are_found_before_any_work(tmp_path: Path) -> None:
    sharded_model_directory(tmp_path / "m")
    write(tmp_path / "m", {"model-00002-of-00003.safetensors": safetensors()[:-20]})
    with pytest.raises(SourceError, match="model-00002-of-00003.safetensors is damaged"):
        resolve(at(tmp_path / "m"))


def test_a_clone_without_git_lfs_is_recognized(tmp_path: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    write(model_directory(tmp_path / "m"), {"model.safetensors": pointer})
    with pytest.raises(SourceError, match="pointer of Git LFS") as caught:
        resolve(at(tmp_path / "m"))
    assert "git lfs pull" in caught.value.remedy


def test_the_plan_refuses_a_directory_whose_weights_lack_a_tensor_and_names_it(tmp_path: Path) -> None:
    layout = source_layout()
    layout.pop("lm_head.weight")
    directory = write(write_source(tmp_path, layout), {"tokenizer.json": {}})
    with pytest.raises(SourceError, match=r"is missing: lm_head\.weight") as caught:
        resolve(at(directory))
    assert caught.value.config["architectures"] == ["LlamaForCausalLM"]


def test_a_quantization_that_only_an_old_file_claims_is_not_believed_where_the_weights_can_be_read(
    tmp_path: Path,
) -> None:
    directory = write(write_source(tmp_path), {"tokenizer.json": {}, "quant_config.json": {"w_bit": 4}})
    assert "quantization_config" not in resolve(at(directory)).config


def test_weights_are_not_searched_for_more_faults_if_a_part_is_missing(tmp_path: Path) -> None:
    directory = sharded_model_directory(tmp_path)
    (directory / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(SourceError, match="names files that are not there") as caught:
        resolve(at(directory))
    assert "things are wrong" not in caught.value.problem


def test_chat_templates_are_downloaded_and_the_plan_knows_them(tmp_path: Path) -> None:
    directory = model_directory(tmp_path / "m")
    assert resolve(at(directory)).chat_template == ""
    more = {"additional_chat_templates/tool_use.jinja": "tools", "additional_chat_templates/README.md": "x"}
    write(directory, {"chat_template.jinja": "{{ messages }}", **more})
    resolved = resolve(at(directory))
    assert resolved.chat_template == "chat_template.jinja"
    names = {file.name for file in resolved.files}
    assert {"chat_template.jinja", "additional_chat_templates/tool_use.jinja"} <= names
    assert "additional_chat_templates/README.md" not in names
    plan_and_download(at(directory), tmp_path / "out")
    assert (tmp_path / "out" / "additional_chat_templates" / "tool_use.jinja").read_text() == "tools"


def test_where_the_chat_template_is_changes_no_key(tmp_path: Path) -> None:
    directory = write(model_directory(tmp_path / "m"), {"tokenizer_config.json": {"chat_template": "{{ messages }}"}})
    resolved = resolve(at(directory))
    assert resolved.chat_template == "tokenizer_config.json"
    assert "chat_template" not in parameters(resolved, at(directory))


def test_a_template_that_cannot_be_read_stops_nothing_but_chats(tmp_path: Path) -> None:
    directory = write(model_directory(tmp_path / "m"), {"tokenizer_config.json": {"chat_template": 7}})
    assert resolve(at(directory)).chat_template == ""
