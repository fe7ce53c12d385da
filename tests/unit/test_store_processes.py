"""Several chatlm at once, and one that is killed: nothing that was written is lost."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

from chatlm.store.store import Store
from tests.waiting import PATIENCE

WRITER = """
import sys
from pathlib import Path
from chatlm.types.replies import StopReason, Usage
from chatlm.store.store import Store

sys.stdin.readline()
with Store(Path(sys.argv[1])) as store:
    own = store.create_conversation(sys.argv[2])
    for number in range(30):
        for chat_id in (own.id, 1):
            turn = store.add_turn(chat_id, f"{sys.argv[2]} {number}")
            reply = store.start_reply(turn.id, model="m")
            store.journal_reply(reply.id, "half")
            store.finish_reply(reply.id, text="whole", stop_reason=StopReason.END, usage=Usage())
"""

JOURNALLER = """
import sys
from pathlib import Path
from chatlm.store.store import Store

store = Store(Path(sys.argv[1]))
turn = store.add_turn(store.create_conversation().id, "question")
reply = store.start_reply(turn.id, model="m")
text = ""
for number in range(1_000_000):
    text += f"{number} "
    store.journal_reply(reply.id, text)
    print(number, flush=True)
"""


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_processes_open_a_new_database_and_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "chats.db"
    names = ["a", "b", "c"]
    writers = [start(WRITER, path, name) for name in names]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=PATIENCE)
        assert writer.returncode == 0
    with Store(path) as store:
        listed = store.list_conversations()
        assert sorted(chat.title for chat in listed) == names
        assert not any(chat.unfinished for chat in listed)
        shared = store.conversation(1)
        for name in names:
            numbers = [
                int(turn.user.text.split()[1])
                for turn in shared.turns
                if turn.user.text.startswith(name)
            ]
            both = 60 if name == shared.title else 30
            assert len(numbers) == both
            assert numbers == sorted(numbers)
        assert [turn.position for turn in shared.turns] == list(range(120))


def test_kill_9_loses_at_most_the_text_being_written(tmp_path: Path) -> None:
    path = tmp_path / "chats.db"
    process = start(JOURNALLER, path)
    assert process.stdout is not None
    last = -1
    for line in process.stdout:
        last = int(line)
        if last >= 40:
            break
    process.send_signal(signal.SIGKILL)
    rest = process.stdout.read().split()
    process.wait(timeout=PATIENCE)
    process.communicate()
    last = int(rest[-1]) if rest else last

    with Store(path) as store:
        (summary,) = store.list_conversations()
        assert summary.unfinished
        reply = store.conversation(summary.id).turns[0].reply
        assert reply is not None
        assert reply.stop_reason is None
        assert reply.can_continue
        numbers = [int(word) for word in reply.text.split()]
        assert numbers == list(range(len(numbers)))
        assert last <= numbers[-1] <= last + 1
        assert store.search(str(last))
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    db.close()
