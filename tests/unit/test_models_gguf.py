"""A model from a GGUF file: the file itself, the same numbers, the right tokens."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from chatlm.errors import ModelError
from chatlm.hub import gguf_folder, installed, names, pull
from chatlm.hub.checksums import FileRecord, record_file
from chatlm.hub.disk import NoSpace
from chatlm.hub.gguf.file import GgufError, GgufFile
from chatlm.hub.jobs import ignore_progress, never_cancelled
from chatlm.hub.model_folder import ModelOrigin, read_manifest, write_manifest
from chatlm.hub.weights import fingerprint_weights
from tests.gguf_files import CONTROL, TEMPLATE, save_gguf
from tests.models import left_over, load_plain, tiny_model, write_folder


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "Tiny Llama.gguf"
    return save_gguf(path, "llama tied", changes={"context_length": 128})


@pytest.fixture(scope="module")
def made(gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `ensure` made for the tiny model, in a home of its own."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHATLM_HOME", str(home))
        with pytest.raises(ModelError, match="not on this machine"):
            installed.find_model(str(gguf))
        return pull.ensure_model(str(gguf)).folder


def test_the_folder_has_all_that_a_model_needs(made: Path) -> None:
    names = {path.name for path in made.iterdir()}
    assert names == {
        "chat_template.jinja",
        "chatlm-model.json",
        "config.json",
        "generation_config.json",
        "Tiny Llama.gguf",
        "gguf.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert (made / "chat_template.jinja").read_text() == TEMPLATE
    generation = json.loads((made / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [2, 0]
    config = json.loads((made / "config.json").read_text())
    assert (config["tie_word_embeddings"], config["dtype"]) == (True, "bfloat16")
    tokenizer = json.loads((made / "tokenizer_config.json").read_text())
    assert tokenizer["model_max_length"] == 128


def test_the_file_takes_no_more_space_than_it_has(made: Path, gguf: Path) -> None:
    assert (made / gguf.name).samefile(gguf)
    manifest = read_manifest(made)
    assert manifest is not None
    assert manifest.files[gguf.name] == record_file(gguf)
    assert manifest.origin.revision == manifest.files[gguf.name].sha256


def test_it_is_found_by_path_and_by_name_without_hashing_again(
    made: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, stamp: str) -> FileRecord:
        raise AssertionError("the file was hashed")

    monkeypatch.setenv("CHATLM_HOME", str(made.parents[1]))
    monkeypatch.setattr(names, "_record", refuse)
    location = installed.find_model(str(gguf))
    assert location.folder == made
    assert location.kind == "chat"
    assert location.name.startswith("Tiny-Llama-")
    assert installed.find_model(location.name) == pull.ensure_model(str(gguf)) == location
    details = installed.describe_model(location.name)
    assert details.source == f"gguf {gguf}"
    assert (details.parameters, details.dtypes) == (count_weights(gguf), ("F32",))


def test_a_copy_is_known_by_its_content_and_a_changed_file_is_new(
    made: Path, gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHATLM_HOME", str(made.parents[1]))
    copy = tmp_path / gguf.name
    copy.write_bytes(gguf.read_bytes())
    assert installed.find_model(str(copy)).folder == made
    copy.write_bytes(gguf.read_bytes() + b"more")
    with pytest.raises(ModelError, match="not on this machine"):
        installed.find_model(str(copy))


def test_a_damaged_folder_is_repaired_by_its_name(
    made: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHATLM_HOME", str(made.parents[1]))
    name = installed.find_model(str(gguf)).name
    (made / "config.json").unlink()
    with pytest.raises(ModelError, match="damaged") as caught:
        installed.find_model(name)
    assert caught.value.hint.endswith(f"chatlm models pull --force {name}")
    assert pull.pull_model(name, force=True).folder == made
    assert installed.verify_model(name).problems == ()


def count_weights(gguf: Path) -> int:
    from safetensors.torch import load_file

    tensors = load_file(gguf.parent / "original" / "model.safetensors").values()
    return sum(tensor.numel() for tensor in tensors)


def test_it_is_repaired_from_its_own_file_where_the_user_deleted_his(
    home: Path, tmp_path: Path
) -> None:
    path = save_gguf(tmp_path / "tiny.gguf")
    location = pull.pull_model(str(path))
    path.unlink()
    (location.folder / "tokenizer.json").unlink()
    assert pull.pull_model(location.name) == location
    assert installed.verify_model(location.name).problems == ()
    assert installed.describe_model(location.name).source == f"gguf {path}"


def test_a_folder_from_which_its_file_is_gone_cannot_be_repaired(home: Path) -> None:
    folder = write_folder(home / "models" / "gone-12345678", tiny_model())
    write_manifest(folder, "gone-12345678", "chat", ModelOrigin("gguf", "/nowhere/gone.gguf", "12"))
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match="cannot be downloaded again") as caught:
        pull.pull_model("gone-12345678")
    assert caught.value.hint == "Remove it: chatlm models remove gone-12345678"
    assert installed.remove_model("gone-12345678")
    assert not folder.exists()


def test_what_is_removed_frees_only_what_nothing_else_has(home: Path, tmp_path: Path) -> None:
    path = save_gguf(tmp_path / "tiny.gguf")
    name = pull.pull_model(str(path)).name
    size = installed.describe_model(name).bytes
    assert size > path.stat().st_size
    freed = installed.remove_model(name)
    assert 0 < freed < size - path.stat().st_size + 5000  # the manifest is not in the size
    assert path.is_file()
    name = pull.pull_model(str(path)).name
    path.unlink()
    assert installed.remove_model(name) > size


def test_where_the_disk_has_no_links_the_file_is_copied(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    path = save_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setattr(os, "link", refuse)
    seen: list[tuple[str, int, int | None]] = []
    location = pull.pull_model(str(path), lambda *given: seen.append(given))
    copy = location.folder / path.name
    assert not copy.samefile(path)
    assert copy.read_bytes() == path.read_bytes()
    assert ("copy", copy.stat().st_size, copy.stat().st_size) in seen
    assert {stage for stage, _, _ in seen} == {"prepare", "copy", "check"}


def test_too_little_space_for_a_copy_is_noticed_before_it(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    path = save_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(NoSpace, match=r"needed to copy tiny\.gguf, and 10 B are free"):
        pull.pull_model(str(path))
    assert left_over(home) == []


def test_a_file_without_permission_to_write_is_linked(home: Path, tmp_path: Path) -> None:
    path = save_gguf(tmp_path / "tiny.gguf")
    path.chmod(0o400)
    assert (pull.pull_model(str(path)).folder / path.name).stat().st_mode & 0o777 == 0o400


def test_a_link_to_a_file_is_followed(home: Path, tmp_path: Path) -> None:
    path = save_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "mine.gguf").symlink_to(path)
    place = pull.pull_model(str(tmp_path / "mine.gguf")).folder / "mine.gguf"
    assert place.samefile(path)
    assert not place.is_symlink()


def test_a_change_of_the_users_file_in_place_is_noticed(home: Path, tmp_path: Path) -> None:
    path = save_gguf(tmp_path / "tiny.gguf")
    name = pull.pull_model(str(path)).name
    data = path.read_bytes()
    path.write_bytes(data[:100] + b"\xff" + data[101:])
    with pytest.raises(ModelError, match=r"is damaged: tiny\.gguf: its content changed"):
        installed.find_model(name)


def test_a_folder_of_an_earlier_version_with_safetensors_keeps_working(
    home: Path, tmp_path: Path
) -> None:
    path = save_gguf(tmp_path / "tiny.gguf")
    location = pull.pull_model(str(path))
    (location.folder / path.name).unlink()
    (location.folder / "gguf.json").write_text('{"general": {"name": "Tiny"}}')
    shutil.copy(tmp_path / "original" / "model.safetensors", location.folder)
    origin = ModelOrigin("gguf", str(path), record_file(path).sha256, names.file_stamp(path))
    write_manifest(location.folder, location.name, "chat", origin)
    assert installed.find_model(str(path)) == location
    assert installed.verify_model(location.name).problems == ()
    assert installed.describe_model(location.name).dtypes == ("BF16",)
    load_plain(location.folder, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_are_those_of_the_gguf(made: Path, gguf: Path, dtype: torch.dtype) -> None:
    ids = torch.arange(3, 63).unsqueeze(0)
    model = load_plain(made, dtype)
    assert model.dtype == dtype
    with torch.inference_mode():
        ours = model(ids).logits
        theirs = load_plain(gguf.parent / "original", dtype)(ids).logits
    assert torch.equal(ours, theirs)
    assert theirs.std() > 0.1  # the numbers say something


def test_what_ends_a_reply_is_read_from_the_folder(made: Path) -> None:
    model = load_plain(made, torch.float32)
    assert model.generation_config.eos_token_id == [2, 0]
    assert Path(model.name_or_path) == made


def test_two_spaces_are_one_token_and_digits_are_single(made: Path) -> None:
    tokenizer = load_tokenizer(made)
    assert tokenizer.encode("a  1").tokens == ["a", "ĠĠ", "1"]
    assert tokenizer.encode("x12").tokens == ["x", "1", "2"]
    for text in ("a  1", "  ", "é 日本\n\t", "it's  12  3"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_control_tokens_are_special(made: Path) -> None:
    table = json.loads((made / "tokenizer.json").read_text())
    assert [t["content"] for t in table["added_tokens"] if t["special"]] == CONTROL


def load_tokenizer(folder: Path) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def test_an_unknown_architecture_is_a_clear_error_and_leaves_nothing(
    home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    strange = save_gguf(tmp_path / "odd.gguf")
    strange.write_bytes(strange.read_bytes().replace(b"llama", b"lhama"))
    capfd.readouterr()
    with pytest.raises(ModelError, match=r"the architecture 'lhama' of odd\.gguf") as caught:
        pull.pull_model(str(strange))
    assert "safetensors version" in caught.value.hint
    files = [p.name for p in (home / "models").rglob("*") if p.is_file()]
    assert files == ["lock"]
    assert capfd.readouterr() == ("", "")  # the libraries' bars and warnings stay in the child


@pytest.mark.parametrize(
    ("script", "error", "reason"),
    [
        ("echo NOT ENOUGH; exit 3", NoSpace, "NOT ENOUGH"),
        ("echo 'I/O error: No space left on device (os error 28)'; exit 1", NoSpace, "filled up"),
        ("kill -9 $$", ModelError, "memory was full"),
        ("echo Traceback; echo 'ValueError: odd'; exit 1", ModelError, "ValueError: odd"),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
def test_how_the_child_process_ends_badly(
    script: str,
    error: type[ModelError],
    reason: str,
    gguf: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gguf_folder, "module_command", lambda *_: ["sh", "-c", script])
    with pytest.raises(error, match=reason):
        gguf_folder.prepare_folder(
            gguf, tmp_path / "made", tmp_path, ignore_progress, never_cancelled
        )


SHARDS = ["big-00001-of-00003.gguf", "big-00002-of-00003.gguf", "big-00003-of-00003.gguf"]


def split(folder: Path, **changes: Any) -> list[Path]:
    """A tiny model in three parts."""
    save_gguf(folder / "big.gguf", part_tensors=7, **changes)
    return [folder / name for name in SHARDS]


@pytest.mark.parametrize("given", SHARDS)
def test_the_parts_of_a_split_file_are_one_model(home: Path, tmp_path: Path, given: str) -> None:
    parts = split(tmp_path)
    location = pull.pull_model(str(tmp_path / given))
    assert location.name.startswith("big-")
    assert "00001" not in location.name
    assert all((location.folder / part.name).samefile(part) for part in parts)
    assert installed.find_model(str(parts[1])) == location
    assert installed.verify_model(location.name).problems == ()
    assert installed.verify_model(str(parts[2])).problems == ()
    assert installed.find_model(str(location.folder)).kind == "chat"
    assert installed.describe_model(location.name).parameters == count_weights(parts[0])
    ids = torch.arange(3, 63).unsqueeze(0)
    with torch.inference_mode():
        ours = load_plain(location.folder, torch.float32)(ids).logits
        theirs = load_plain(tmp_path / "original", torch.float32)(ids).logits
    assert torch.equal(ours, theirs)


def test_a_part_that_is_missing_is_named(home: Path, tmp_path: Path) -> None:
    parts = split(tmp_path)
    folder = pull.pull_model(str(parts[0])).folder
    mine = shutil.copytree(folder, tmp_path / "mine")
    (mine / "chatlm-model.json").unlink()
    parts[1].unlink()
    with pytest.raises(ModelError, match=r"00002-of-00003\.gguf, a part of big-00003-of-00003"):
        pull.pull_model(str(parts[2]))
    (mine / parts[2].name).unlink()
    with pytest.raises(ModelError, match=r"big-00003-of-00003\.gguf is missing") as caught:
        installed.find_model(str(mine))
    assert caught.value.hint == "Put all parts of the model into one folder."


def test_a_changed_part_is_another_model(home: Path, tmp_path: Path) -> None:
    parts = split(tmp_path)
    first = pull.pull_model(str(parts[0]))
    (tmp_path / "other").mkdir()
    others = split(tmp_path / "other", variant="llama tied")
    assert installed.is_installed(str(parts[0]))
    assert not installed.is_installed(str(others[0]))
    assert pull.pull_model(str(others[0])).name != first.name


def test_parts_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    parts = split(tmp_path)
    shutil.copy(parts[1], parts[2])
    with pytest.raises(GgufError, match=r"00003\.gguf is damaged: it is not part 3 of 3"):
        GgufFile(parts[0])
    alone = parts[0].rename(tmp_path / "alone.gguf")
    with pytest.raises(GgufError, match="is the first of 3 parts of a split GGUF, but has"):
        GgufFile(alone)
    with pytest.raises(GgufError, match="is a later part of a split GGUF"):
        gguf_folder.prepare_in_process(parts[1], tmp_path / "made")


def test_a_folder_with_several_files_is_refused(made: Path, tmp_path: Path) -> None:
    mine = shutil.copytree(made, tmp_path / "mine")
    (mine / "chatlm-model.json").unlink()
    assert installed.verify_model(str(mine)).problems == ()
    shutil.copy(mine / "Tiny Llama.gguf", mine / "other.gguf")
    with pytest.raises(ModelError, match="it has several GGUF files"):
        installed.find_model(str(mine))


def test_a_folder_of_gguf_files_alone_says_what_to_give_instead(tmp_path: Path) -> None:
    path = save_gguf(tmp_path / "mine" / "tiny.gguf")
    with pytest.raises(ModelError, match=r"it has no config\.json") as caught:
        installed.find_model(str(path.parent))
    assert caught.value.hint == f"Give the GGUF file itself: {path}"
    shutil.copy(tmp_path / "mine" / "original" / "config.json", path.parent)
    with pytest.raises(ModelError, match="chatlm did not make it") as caught:
        installed.find_model(str(path.parent))
    assert caught.value.hint == f"Give the file itself: {path}"


def test_a_folder_whose_file_is_cut_short_is_refused(made: Path, tmp_path: Path) -> None:
    mine = shutil.copytree(made, tmp_path / "mine")
    (mine / "chatlm-model.json").unlink()
    path = mine / "Tiny Llama.gguf"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="is truncated"):
        installed.find_model(str(mine))


def test_the_same_file_under_another_name_has_the_same_fingerprint(
    made: Path, tmp_path: Path
) -> None:
    mine = shutil.copytree(made, tmp_path / "mine")
    (mine / "Tiny Llama.gguf").rename(mine / "other.gguf")
    assert fingerprint_weights(mine) == fingerprint_weights(made)
    with (mine / "other.gguf").open("rb+") as file:
        file.seek(-40, 2)
        file.write(b"other")
    assert fingerprint_weights(mine) != fingerprint_weights(made)
