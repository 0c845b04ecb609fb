# ruff: noqa: F811  fixtures are imported
"""Tests of an S3 prefix as a source, with a real S3 API."""

from pathlib import Path
from typing import Any

import pytest

from enginery.core.errors import SourceError
from enginery.core.s3.objects import Prefix
from enginery.sources import bucket as bucket_source
from enginery.sources import parameters, resolve, staging
from enginery.spec.spec import Source
from tests.support.http.faulty_proxy import Fault, Proxy
from tests.support.models.checkpoints import source_layout, write_source
from tests.support.models.directories import model_directory, safetensors, sharded_model_directory, write
from tests.support.models.downloads import plan_and_download, run_download
from tests.support.s3.fixtures import bucket, prefix, proxy, server  # noqa: F401
from tests.support.s3.server import S3Server
from tests.support.store.outputs import contents

pytestmark = pytest.mark.usefixtures("bucket")


def uploaded(prefix: Prefix, directory: Path, **options: object) -> Source:
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            prefix.put_bytes(path.relative_to(directory).as_posix(), path.read_bytes())
    return Source.model_validate({"s3": str(prefix.address), **options})


def test_a_prefix_is_resolved_to_its_needed_objects(prefix: Prefix, tmp_path: Path) -> None:
    resolved = resolve(uploaded(prefix, model_directory(tmp_path / "m")))
    assert (resolved.kind, resolved.location) == ("s3", str(prefix.address))
    assert [file.name for file in resolved.files] == [
        "LICENSE", "USE_POLICY.md", "config.json", "generation_config.json", "model.safetensors",
        "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert resolved.license_files == ["LICENSE", "USE_POLICY.md"]


def test_the_needed_objects_are_downloaded(prefix: Prefix, tmp_path: Path) -> None:
    source = uploaded(prefix, sharded_model_directory(tmp_path / "m"))
    resolved = resolve(source)
    facts = plan_and_download(source, tmp_path / "out")
    assert contents(tmp_path / "out") == {
        file.name: (tmp_path / "m" / file.name).read_bytes() for file in resolved.files
    }
    assert facts == {
        "source": "s3", "repository": str(prefix.address), "commit": resolved.commit, "files": 10,
        "bytes": resolved.size, "license_files": ["LICENSE", "USE_POLICY.md"],
    }  # fmt: skip


@pytest.mark.parametrize("prefix_text", ["incoming//tiny", "/tiny", "incoming//", "with space/ü+%2F?x#y"])
def test_a_source_may_be_any_prefix_that_others_have_made(
    bucket: str, server: S3Server, tmp_path: Path, prefix_text: str
) -> None:
    under = f"{prefix_text.removesuffix('/')}/" if prefix_text != "incoming//" else prefix_text
    files = contents(model_directory(tmp_path / "m"))
    for name, data in files.items():
        server.admin.put_object(Bucket=bucket, Key=f"{under}{name}", Body=data)
    source = Source.model_validate({"s3": f"s3://{bucket}/{prefix_text}"})
    plan_and_download(source, tmp_path / "out")
    downloaded = contents(tmp_path / "out")
    assert downloaded
    assert downloaded.items() <= files.items()


def test_writing_the_same_bytes_again_changes_nothing(prefix: Prefix, tmp_path: Path) -> None:
    source = uploaded(prefix, model_directory(tmp_path / "m"))
    before = parameters(resolve(source), source)
    prefix.put_bytes("model.safetensors", safetensors())
    prefix.put_bytes("README.md", b"changed")
    assert parameters(resolve(source), source) == before


def test_other_bytes_are_another_download(prefix: Prefix, tmp_path: Path) -> None:
    source = uploaded(prefix, model_directory(tmp_path / "m"))
    before = resolve(source).commit
    prefix.put_bytes("model.safetensors", safetensors(fill=3))
    assert resolve(source).commit != before


def test_an_object_changed_after_the_plan_is_named(prefix: Prefix, tmp_path: Path) -> None:
    source = uploaded(prefix, model_directory(tmp_path / "m"))
    wanted = parameters(resolve(source), source)
    prefix.put_bytes("model.safetensors", safetensors(fill=3))
    with pytest.raises(SourceError, match="was changed since the plan") as caught:
        run_download(wanted, tmp_path / "out")
    assert caught.value.subject == f"{prefix.address}/model.safetensors"


def test_an_object_changed_while_it_is_downloaded_is_named(
    prefix: Prefix, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = uploaded(prefix, model_directory(tmp_path / "m"))
    wanted = parameters(resolve(source), source)
    check = bucket_source.check_unchanged

    def change_after(*arguments: Any) -> None:
        check(*arguments)
        prefix.put_bytes("model.safetensors", safetensors(fill=3))  # the same number of bytes

    monkeypatch.setattr(bucket_source, "check_unchanged", change_after)
    with pytest.raises(SourceError, match="was changed since it was looked up") as caught:
        run_download(wanted, tmp_path / "out")
    assert caught.value.subject == f"{prefix.address}/model.safetensors"
    assert not caught.value.transient


def test_an_object_gone_after_the_plan_is_named(prefix: Prefix, tmp_path: Path) -> None:
    source = uploaded(prefix, model_directory(tmp_path / "m"))
    wanted = parameters(resolve(source), source)
    prefix.delete("tokenizer.json")
    with pytest.raises(SourceError, match="is gone since the plan") as caught:
        run_download(wanted, tmp_path / "out")
    assert caught.value.subject == f"{prefix.address}/tokenizer.json"


def test_an_expected_digest_is_checked(prefix: Prefix, tmp_path: Path) -> None:
    source = uploaded(prefix, model_directory(tmp_path / "m"), sha256={"model.safetensors": "0" * 64})
    with pytest.raises(SourceError, match="sha256 is") as caught:
        plan_and_download(source, tmp_path / "out")
    assert "0" * 64 in caught.value.problem
    assert "model.safetensors" in caught.value.subject


def test_damaged_weights_are_refused(prefix: Prefix, tmp_path: Path) -> None:
    source = uploaded(prefix, write(model_directory(tmp_path / "m"), {"model.safetensors": safetensors()[:-4]}))
    with pytest.raises(SourceError, match="its header says"):
        plan_and_download(source, tmp_path / "out")


def test_an_empty_prefix_is_reported(prefix: Prefix) -> None:
    with pytest.raises(SourceError, match="nothing under this prefix") as caught:
        resolve(Source(s3=str(prefix.address)))
    assert caught.value.subject == str(prefix.address)


def test_everything_wrong_with_the_model_is_reported_at_once(prefix: Prefix, tmp_path: Path) -> None:
    source = uploaded(prefix, write(tmp_path / "bad", {"config.json": "{", "notes.txt": b"x"}))
    with pytest.raises(SourceError, match="3 things are wrong"):
        resolve(source)


def test_what_the_prefix_holds_instead_of_a_model_is_named(prefix: Prefix, tmp_path: Path) -> None:
    adapter = {"adapter_config.json": {"base_model_name_or_path": "acme/base"}, "adapter_model.safetensors": b"x"}
    with pytest.raises(SourceError, match="a LoRA adapter for acme/base") as caught:
        resolve(uploaded(prefix, write(tmp_path / "adapter", adapter)))
    assert "merge it into acme/base" in caught.value.remedy


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "generation_config.json"])
def test_a_small_file_that_no_tool_reads_is_refused_by_the_plan(prefix: Prefix, tmp_path: Path, name: str) -> None:
    source = uploaded(prefix, write(model_directory(tmp_path / "m"), {name: b"\xef\xbb\xbf{}"}))
    with pytest.raises(SourceError, match=f"{name} .*byte order mark"):
        resolve(source)


def test_a_large_file_that_no_tool_reads_is_refused_by_the_download(prefix: Prefix, tmp_path: Path) -> None:
    source = uploaded(prefix, write(model_directory(tmp_path / "m"), {"tokenizer.json": b"\xef\xbb\xbf{}"}))
    with pytest.raises(SourceError, match="byte order mark"):
        plan_and_download(source, tmp_path / "out")


def test_a_bucket_that_does_not_exist_is_named(prefix: Prefix) -> None:
    with pytest.raises(SourceError, match="bucket nowhere-at-all does not exist"):
        resolve(Source(s3="s3://nowhere-at-all/model"))


def test_wrong_credentials_are_reported(prefix: Prefix, proxy: Proxy, tmp_path: Path) -> None:
    body = b"<Error><Code>InvalidAccessKeyId</Code><Message>unknown</Message></Error>"
    proxy.fail(Fault("answer", times=1000, status=403, body=body))
    with pytest.raises(SourceError, match="credentials") as caught:
        resolve(Source(s3=str(prefix.address)))
    assert not caught.value.transient


def test_a_server_that_is_away_for_a_while_is_waited_for(prefix: Prefix, proxy: Proxy, tmp_path: Path) -> None:
    source = uploaded(prefix, model_directory(tmp_path / "m"))
    wanted = parameters(resolve(source), source)
    proxy.fail(Fault("reset", times=4))
    run_download(wanted, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == safetensors()


def test_a_truncated_object_is_detected_and_downloaded_again(prefix: Prefix, proxy: Proxy, tmp_path: Path) -> None:
    source = uploaded(prefix, model_directory(tmp_path / "m"))
    wanted = parameters(resolve(source), source)
    fault = Fault("truncate", matches=lambda _method, path: path.endswith("model.safetensors"))
    proxy.fail(fault)
    run_download(wanted, tmp_path / "out")
    assert fault.times == 0
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == safetensors()


def test_objects_that_arrived_are_not_downloaded_again(prefix: Prefix, proxy: Proxy, tmp_path: Path) -> None:
    source = uploaded(prefix, model_directory(tmp_path / "m"))
    wanted = parameters(resolve(source), source)
    run_download(wanted, tmp_path / "killed-before-it-was-stored")
    (staging.downloads_dir() / str(wanted["commit"]) / "tokenizer.json").unlink()
    calls: list[str] = []

    def note(method: str, path: str) -> bool:
        calls.append(path)
        return False

    proxy.fail(Fault("reset", matches=note))
    run_download(wanted, tmp_path / "out")
    assert [path for path in calls if "list-type" not in path] == [f"/{prefix.address.bucket}/pre/fix/tokenizer.json"]


def test_weights_that_lack_a_tensor_are_refused_after_the_download_with_its_name(
    prefix: Prefix, tmp_path: Path
) -> None:
    layout = source_layout()
    layout.pop("lm_head.weight")
    source = uploaded(prefix, write(write_source(tmp_path / "m", layout), {"tokenizer.json": {}}))
    with pytest.raises(SourceError, match=r"is missing: lm_head\.weight"):
        plan_and_download(source, tmp_path / "out")
