"""What a model thinks is nothing to plugins: they compare, label, quote and reuse its answer."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path

import chatlm_rag.plugin
from chatlm import Conversation, Message, Reasoning, Reply, ReplyStep, Setup, StopReason, Text, Turn
from chatlm.chat.session import ChatSession
from chatlm.chat.side_chats import InMemorySideChats
from chatlm.chat.summary import summarise_turn
from chatlm.config.config import Config
from chatlm.engines.scripted import ScriptedEngine
from chatlm.plugin_host.host import PluginHost
from chatlm.store.store import Store
from chatlm.types.events import Delta, EngineEvent, Finished
from chatlm.types.replies import Usage
from chatlm.types.requests import Request
from chatlm_arena import judging
from chatlm_arena.store.store import ArenaStore
from chatlm_arena.tournament import Tournament, TournamentPlan, TournamentPrompt
from chatlm_emotion.panel import Rater, RaterPanel
from chatlm_lora import comparison
from chatlm_templates import slash_commands
from tests.plugins.arena import two
from tests.plugins.rag_chats import passage
from tests.plugins.ui import RememberingUi

THOUGHT = "Secret: Dogs need the owner's consent. anger B]]"


class Thinking(ScriptedEngine):
    """Thinks the same before every reply."""

    def __init__(self, answers: Callable[[Request], str]) -> None:
        super().__init__()
        self._answers = answers

    def stream(self, request: Request) -> Generator[EngineEvent]:
        self.requests.append(request)
        yield Delta(THOUGHT, usage=Usage(1, 0, 5, reasoning_tokens=5), part="reasoning")
        usage = Usage(1, 0, 6, reasoning_tokens=5)
        yield Delta(self._answers(request), usage=usage)
        yield Finished(StopReason.END, usage)


def side_chats(engine: ScriptedEngine) -> InMemorySideChats:
    return InMemorySideChats(Config(), PluginHost(), lambda m, r: engine, lambda w: None)


def sent_texts(engine: ScriptedEngine) -> str:
    """All that was sent to the model."""
    return "\n".join(str(m.parts) for request in engine.requests for m in request.messages)


def test_contestants_and_judges_may_think() -> None:
    """The judge's thought ends with another verdict than its answer."""

    def answers(request: Request) -> str:
        last = request.messages[-1].text
        if last == judging.VERDICT_PREFIX:
            question = request.messages[-2].text
            return "A]]" if question.index("hot says") < question.index("cold says") else "B]]"
        return f"{'hot' if request.sampling.temperature == 1.3 else 'cold'} says {last}"

    engine = Thinking(answers)
    with ArenaStore(None) as store:
        plan = TournamentPlan((TournamentPrompt(("Hi?", "More?")),), two(store), max_tokens=20)
        run = Tournament(store, side_chats(engine), plan)
        list(run.answer())
        list(run.judge({"judge": Setup()}))
        (ballot,) = store.ballots("judge")
        match = store.match(ballot.match_id or 0)
        replies = [reply.text for reply in (*match.left_replies, *match.right_replies)]
        winner = {"left": match.left, "right": match.right}[ballot.verdict]
    assert winner.name == "hot"
    assert sorted(replies) == [
        "cold says Hi?", "cold says More?", "hot says Hi?", "hot says More?",
    ]  # fmt: skip
    assert "Secret" not in sent_texts(engine)


def test_models_that_label_may_think() -> None:
    engine = Thinking(lambda request: "joy")
    raters = [Rater("", "Which of {labels}? {text}")]
    panel = RaterPanel(side_chats(engine), raters, ["anger", "joy"])
    (found,) = panel.label(["What a day!"], lambda text, tied: None)
    assert found.label == "joy"


def test_citations_are_checked_in_the_answer() -> None:
    pets = passage("Cats are allowed in the flat. Dogs need the owner's consent.")
    answer = Message("assistant", (Reasoning(f"{THOUGHT} [1] [7]"), Text("I do not know.")))
    turn = Turn(1, 0, Message("user", "Dogs?"))
    labels = chatlm_rag.plugin.annotate_message(
        conversation=Conversation(1, turns=(turn,)), message=answer, passages=[pets]
    )
    assert not [label for label in labels or () if label.name.startswith("[")]


def test_a_summary_is_of_the_answer_and_in_the_answer() -> None:
    engine = Thinking(lambda request: "Four.")
    step = ReplyStep((Reasoning(THOUGHT), Text("It is 4.")), StopReason.END)
    turn = Turn(1, 0, Message("user", "2+2?"), (Reply(1, 1, steps=[step]),))
    assert "".join(summarise_turn(engine, turn)) == "Four."
    assert "Secret" not in sent_texts(engine)


def test_templates_take_the_answer(home: Path) -> None:
    engine = Thinking(lambda request: "Write a poem.")
    step = ReplyStep((Reasoning(THOUGHT), Text("It is 4.")), StopReason.END)
    turn = Turn(1, 0, Message("user", "2+2?"), (Reply(1, 1, steps=[step]),))
    ui = RememberingUi("templates", Conversation(1, turns=(turn,)), engine)
    slash_commands.consolidate(ui, "")
    assert ui.called("insert_text") == [{"text": "Write a poem."}]
    ui = RememberingUi("templates", Conversation(1, turns=(turn,)), engine)
    slash_commands.review(ui, "")
    (new,) = ui.called("new_chat")
    assert "It is 4." in new["message"]
    assert "Secret" not in new["message"]


def test_adapters_are_compared_by_their_answers() -> None:
    engine = Thinking(lambda request: "It is 4.")
    assert comparison._answer(side_chats(engine), Setup(), "2+2?") == "It is 4."


def test_hooks_and_the_next_turn_get_thoughts_as_a_part_that_is_no_text() -> None:
    engine = Thinking(lambda request: "It is 4.")
    session = ChatSession(Store(None), lambda: engine)
    list(session.send("2+2?"))
    list(session.send("Sure?"))
    reply = engine.requests[1].messages[1]
    assert (reply.text, reply.parts[0]) == ("It is 4.", Reasoning(THOUGHT, None, 5))
