"""Images: their bytes are stored by hash, checked, exported, imported and removed with chats."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from click.testing import CliRunner

from chatlm.cli.main import cli
from chatlm.errors import StoreError, UsageError
from chatlm.store import blobs, export, writes
from chatlm.store.blobs import describe_image
from chatlm.store.export import missing_images, stream_export
from chatlm.store.importing.importer import ImportProgress, import_file
from chatlm.store.store import Store
from chatlm.tui.chat.incognito import copy_incognito_chats
from chatlm.types.conversations import Conversation
from chatlm.types.parts import Image, Part, Text
from chatlm.types.replies import StopReason
from tests import image_files


def picture(colour: str = "red", file_format: str = "PNG") -> bytes:
    stream = io.BytesIO()
    PIL.Image.new("RGB", (3, 2), colour).save(stream, file_format)
    return stream.getvalue()


def part_of(content: bytes, name: str = "") -> Image:
    image = describe_image(content, name)
    assert image is not None
    return image


CAT = picture()
CAT_PART = part_of(CAT, "cat.png")


@pytest.fixture
def path(home: Path) -> Path:
    home.mkdir()
    return home / "chats.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store(path) as opened:
        yield opened


@pytest.fixture
def folder(path: Path) -> Path:
    """The folder of the blobs; a store makes it when it needs it."""
    return path.parent / "blobs"


def add_chat(store: Store, content: bytes = CAT, title: str = "Cats") -> int:
    chat = store.create_conversation(title).id
    parts: tuple[Part, ...] = (Text("What is this?"), part_of(content, "cat.png"))
    turn = store.add_turn(chat, parts, blobs=[content])
    reply = store.start_reply(turn.id, model="m")
    store.finish_reply(reply.id, text="A cat.", stop_reason=StopReason.END)
    return chat


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()} if folder.exists() else set()


def import_into(store: Store, file: Path) -> ImportProgress:
    *_, state = import_file(store, file)
    return state


def images_of(chat: Conversation) -> list[Image]:
    return list(chat.images())


# --- storing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "GIF", "WEBP"])
def test_an_image_is_described_by_its_content(file_format: str) -> None:
    content = picture(file_format=file_format)
    expected = Image(
        f"image/{file_format.lower()}", 3, 2, hashlib.sha256(content).hexdigest(), "a.bin"
    )
    assert describe_image(content, "a.bin") == expected


def test_what_is_no_image_is_not_described(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = CAT.replace((3).to_bytes(4) + (2).to_bytes(4), (10**6).to_bytes(4) * 2)
    for content in (b"", b"<svg/>", CAT[:20], picture(file_format="BMP"), bomb):
        assert describe_image(content) is None
    assert describe_image(image_files.png_of(8000, 8000, b"")) is not None
    assert describe_image(image_files.png_of(8001, 8000, b"")) is None
    monkeypatch.setattr(blobs, "MAX_IMAGE_BYTES", len(CAT) - 1)
    assert describe_image(CAT) is None


def test_bytes_are_stored_once_and_are_private(store: Store, folder: Path) -> None:
    before = os.umask(0)
    try:
        add_chat(store)
        add_chat(store)
    finally:
        os.umask(before)
    assert names(folder) == {CAT_PART.sha256}
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / CAT_PART.sha256).stat().st_mode & 0o777 == 0o600
    assert store.blob(CAT_PART.sha256) == CAT


def test_a_full_disk_stores_neither_message_nor_half_an_image(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    chat = store.create_conversation().id
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left on device"):
        store.add_turn(chat, (CAT_PART,), blobs=[CAT])
    assert names(folder) == set()
    assert store.conversation(chat).turns == ()


def test_a_damaged_image_is_named_and_stored_anew(store: Store, folder: Path) -> None:
    chat = add_chat(store)
    blob = folder / CAT_PART.sha256
    blob.write_bytes(CAT[:-1] + b"?")
    with pytest.raises(StoreError, match="damaged") as caught:
        store.blob(CAT_PART.sha256)
    assert str(blob) in caught.value.message
    assert "The chat itself is intact" in caught.value.hint
    assert store.conversation(chat).turns[0].user.text == "What is this?"
    add_chat(store)
    assert store.blob(CAT_PART.sha256) == CAT


def test_a_chat_opens_without_its_image_and_says_that_it_is_missing(
    store: Store, folder: Path
) -> None:
    chat = store.conversation(add_chat(store))
    assert missing_images(store, chat) == set()
    (folder / CAT_PART.sha256).unlink()
    with pytest.raises(StoreError, match="missing"):
        store.blob(CAT_PART.sha256)
    assert missing_images(store, chat) == {CAT_PART.sha256}
    shown = CliRunner().invoke(cli, ["chats", "show", "1"])
    assert "[Image: cat.png, 3×2, missing]" in shown.stdout
    exported = CliRunner().invoke(cli, ["chats", "export", "1", "--format", "jsonl"])
    assert exported.exit_code == 0
    assert "What is this?" in exported.stdout
    assert "Exported without an image." in exported.stderr


# --- deleting -----------------------------------------------------------------------------------


def test_the_last_chat_takes_its_image_along(store: Store, folder: Path) -> None:
    first, second = add_chat(store), add_chat(store)
    dog = add_chat(store, picture("brown"))
    fork = store.fork(first).id
    for chat in (first, second):
        store.delete(chat)
        assert CAT_PART.sha256 in names(folder)
    store.delete(fork)
    assert names(folder) == {part_of(picture("brown")).sha256}
    store.delete(dog)
    assert names(folder) == set()


def test_an_image_stays_until_the_trash_is_emptied(store: Store, folder: Path) -> None:
    chat = add_chat(store)
    store.trash(chat)
    store.empty_trash(datetime(2000, 1, 1, tzinfo=UTC))
    assert names(folder) == {CAT_PART.sha256}
    store.empty_trash()
    assert names(folder) == set()


def test_files_of_others_in_the_folder_stay(store: Store, folder: Path) -> None:
    chat = add_chat(store)
    (folder / "README").write_text("mine")
    store.delete(chat)
    assert names(folder) == {"README"}


def test_an_incognito_chat_leaves_no_image(home: Path) -> None:
    home.mkdir()
    with Store(None) as store:
        chat = add_chat(store)
        assert store.blob(CAT_PART.sha256) == CAT
        store.delete(chat)
        assert not store.has_blob(CAT_PART.sha256)
    assert list(home.iterdir()) == []


def test_a_saved_incognito_chat_has_its_images(store: Store) -> None:
    with Store(None) as incognito:
        copy_incognito_chats(incognito, store, add_chat(incognito), "")
    assert store.blob(CAT_PART.sha256) == CAT


# --- export and import --------------------------------------------------------------------------


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "other" / "chats.db") as opened:
        yield opened


@pytest.mark.parametrize("form", ["jsonl", "messages"])
def test_images_are_exported_and_imported(
    store: Store, other: Store, tmp_path: Path, form: Any
) -> None:
    chat = add_chat(store)
    file = tmp_path / "chats.jsonl"
    file.write_text("".join(stream_export(store, [chat], form)))
    state = import_into(other, file)
    assert state.left_out == {}
    copy = other.conversation(state.added[0])
    assert images_of(copy) == [CAT_PART]
    assert other.blob(CAT_PART.sha256) == CAT


def test_chats_without_images_are_exported_as_before(store: Store) -> None:
    turn = store.add_turn(store.create_conversation().id, "Hello")
    (line,) = stream_export(store, [1], "jsonl")
    assert "blobs" not in json.loads(line)
    assert turn.user.text in line


def export_of(store: Store) -> dict[str, Any]:
    (line,) = stream_export(store, [add_chat(store)], "jsonl")
    value: dict[str, Any] = json.loads(line)
    return value


def test_an_image_without_its_bytes_is_imported_as_missing_and_counted(
    store: Store, other: Store, tmp_path: Path
) -> None:
    value = export_of(store)
    del value["blobs"]
    (tmp_path / "a.jsonl").write_text(json.dumps(value) + "\n")
    state = import_into(other, tmp_path / "a.jsonl")
    assert state.left_out == {"bytes of images": 1}
    assert images_of(other.conversation(1)) == [CAT_PART]


@pytest.mark.parametrize(
    ("data", "problem"),
    [("!", "is not base64"), ("AAAA", "is not the hash of its content"), (3, "must be text")],
)
def test_bytes_that_are_not_those_of_the_hash_are_refused(
    store: Store, other: Store, tmp_path: Path, data: Any, problem: str
) -> None:
    value = export_of(store)
    value["blobs"] = {CAT_PART.sha256: data}
    (tmp_path / "a.jsonl").write_text(json.dumps(value) + "\n")
    state = import_into(other, tmp_path / "a.jsonl")
    assert problem in state.unreadable[0].problem
    assert other.list_conversations() == []


def test_an_export_that_could_not_be_imported_again_is_refused(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = add_chat(store)
    monkeypatch.setattr(export, "MAX_CHAT_BYTES", 100)
    with pytest.raises(UsageError, match=f"Chat {chat} takes"):
        list(stream_export(store, [chat], "jsonl"))


def data_url(content: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def test_foreign_messages_bring_their_data_urls_along(other: Store, tmp_path: Path) -> None:
    urls = [data_url(CAT), "https://example.org/a.png", data_url(b"no image"), "data:,x"]
    content = [{"type": "text", "text": "Look"}]
    content += [{"type": "image_url", "image_url": {"url": url}} for url in urls]  # type: ignore[dict-item]
    chat: dict[str, Any] = {"messages": [{"role": "user", "content": content}]}
    (tmp_path / "a.jsonl").write_text(json.dumps(chat) + "\n")
    state = import_into(other, tmp_path / "a.jsonl")
    assert state.left_out == {"parts of type image_url": 3}
    user = other.conversation(1).turns[0].user
    assert user.parts == (Text("Look"), part_of(CAT))
    assert other.blob(CAT_PART.sha256) == CAT


def chatgpt_archive(file: Path, files: dict[str, bytes], pointers: list[str]) -> Path:
    parts = [{"content_type": "image_asset_pointer", "asset_pointer": each} for each in pointers]
    content = {"content_type": "multimodal_text", "parts": [*parts, "What are these?"]}
    message = {"author": {"role": "user"}, "content": content}
    chat: dict[str, Any] = {"mapping": {"u": {"message": message, "parent": None, "children": []}}}
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("conversations.json", json.dumps([chat]))
        for name, data in files.items():
            archive.writestr(name, data)
    return file


def test_the_images_of_chatgpts_archive_are_imported(other: Store, tmp_path: Path) -> None:
    dog, bird = picture("brown"), picture("blue", "JPEG")
    file = chatgpt_archive(
        tmp_path / "export.zip",
        {
            "file-Abc-cat.png": CAT,
            "file_000-sanitized.png": dog,
            "user-1/file-Bird.jpg": bird,
            "file-Abcd.png": picture("green"),
            "file-Abc (1).png": picture("grey"),
            "file-Text.png": b"not an image",
        },
        [
            "file-service://file-Abc",
            "sediment://file_000#p1",
            "file-service://file-Bird",
            "file-service://file-Text",
            "file-service://file-Gone",
            "file-service://",
        ],
    )
    state = import_into(other, file)
    assert state.left_out == {"images and files": 3}
    user = other.conversation(1).turns[0].user
    assert user.parts == (
        part_of(CAT, "cat.png"),
        part_of(dog, "sanitized.png"),
        part_of(bird, "file-Bird.jpg"),
        Text("What are these?"),
    )
    assert [other.blob(image.sha256) for image in images_of(other.conversation(1))] == [
        CAT,
        dog,
        bird,
    ]


def test_an_archive_with_a_damaged_image_is_imported_without_it(
    other: Store, tmp_path: Path
) -> None:
    file = chatgpt_archive(
        tmp_path / "export.zip", {"file-Abc.png": CAT}, ["file-service://file-Abc"]
    )
    file.write_bytes(file.read_bytes().replace(CAT, CAT[::-1]))
    assert import_into(other, file).left_out == {"images and files": 1}
    assert other.conversation(1).turns[0].user.text == "What are these?"


@pytest.mark.parametrize("moment", ["before the chat is stored", "before the import goes on"])
def test_a_killed_import_is_repeated_and_leaves_no_lone_image(
    path: Path, folder: Path, tmp_path: Path, moment: str
) -> None:
    file = chatgpt_archive(
        tmp_path / "export.zip", {"file-Abc-cat.png": CAT}, ["file-service://file-Abc"]
    )
    Store(path).close()
    child = os.fork()
    if not child:
        killed = Store(path)
        if moment == "before the chat is stored":
            writes.insert_conversation = lambda db, chat: os._exit(9)  # type: ignore[assignment]
        for state in import_file(killed, file):
            if state.added:
                os._exit(9)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert names(folder) == {CAT_PART.sha256}
    with Store(path) as store:
        if not store.list_conversations():
            store.empty_trash()  # as at every start of the UI
            assert names(folder) == set()
        import_into(store, file)
        (chat,) = store.list_conversations()
        assert store.blob(images_of(store.conversation(chat.id))[0].sha256) == CAT
