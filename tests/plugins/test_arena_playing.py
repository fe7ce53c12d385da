"""A blind match without a screen: pairing, requests, storage, hidden names."""

from __future__ import annotations

import base64
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

import chatlm_rag.plugin
import chatlm_templates.plugin
from chatlm import (
    ChatlmError,
    Image,
    PreparedImage,
    Sampling,
    Setup,
    StopReason,
    Text,
    Tool,
    ToolCall,
    ToolResult,
    UsageError,
    hookimpl,
    read_image,
    tool,
)
from chatlm.chat.side_chats import InMemorySideChats
from chatlm.config.config import Config
from chatlm.engines.local_engine import LocalEngine
from chatlm.engines.scripted import ScriptedEngine, ScriptedReply
from chatlm.errors import ContextTooLong, EngineError, OutOfMemoryError
from chatlm.plugin_host.host import PluginHost
from chatlm.types.engine import Engine
from chatlm.types.tool_rules import ToolSettings
from chatlm_arena.answers import AnswerRequest, Seat, generate_answers
from chatlm_arena.contestants import MASK, Contestant, identifying_words, mask_words, with_index
from chatlm_arena.match import SEED_LIMIT, LiveMatch, SideUpdate, choose_contestants
from chatlm_arena.pairing import Pairing
from chatlm_arena.ratings import EloRules
from chatlm_arena.records import SIDES, ImportedVote, MatchReply, Side
from chatlm_arena.store.store import ArenaStore
from chatlm_arena.tournament import read_prompts
from chatlm_arena.vote_files import dpo_examples, sft_examples
from chatlm_arena.votes import Verdict
from tests import image_files
from tests.plugins import rag_chats
from tests.plugins.arena import HOT, played, two


@pytest.fixture
def store() -> Iterator[ArenaStore]:
    with ArenaStore(None) as opened:
        yield opened


def chats(engine: Engine) -> InMemorySideChats:
    return InMemorySideChats(Config(), PluginHost(), lambda m, r: engine, lambda w: None)


def play(store: ArenaStore, engine: Engine, *, same_seed: bool = False, seed: int = 0) -> LiveMatch:
    if not store.contestants():
        two(store)
    left, right = store.contestants()[:2]
    draw = random.Random(seed)
    return LiveMatch(store, chats(engine), left, right, same_seed=same_seed, rng=draw)


def run(events: Iterator[SideUpdate]) -> dict[Side, str]:
    return {event.side: event.text for event in events if event.ended}


def test_both_answer_and_a_vote_reveals_them(store: ArenaStore) -> None:
    engine = ScriptedEngine("One two.", "Three.")
    match = play(store, engine)
    assert not match.can_vote
    with pytest.raises(UsageError, match="Both sides must answer"):
        match.vote(Verdict.LEFT, EloRules())
    said = run(match.send("Count."))
    assert sorted(said.values()) == ["One two.", "Three."]
    left, right = match.vote(Verdict.LEFT, EloRules())
    assert (left.name, left.rating_before, left.rating_after) == ("hot", 1500, 1516)
    assert (right.name, right.rating_before, right.rating_after) == ("cold", 1500, 1484)
    assert left.description == "default model, temperature 1.3, max_tokens 24"
    kept = store.match(1)
    assert {reply.text for reply in (*kept.left_replies, *kept.right_replies)} == set(said.values())
    made_by = kept.right_replies[0].provenance
    assert made_by["model"] == "scripted"
    assert made_by["sampling"]["temperature"] == 0.0
    with pytest.raises(UsageError, match="already has a vote"):
        match.vote(Verdict.LEFT, EloRules())


def test_an_answer_that_is_missing_says_why(store: ArenaStore) -> None:
    match = play(store, ScriptedEngine(StopReason.END, StopReason.CONTENT_FILTER))
    said = run(match.send("Count."))
    assert sorted(said.values()) == ["(ended by a content filter)", "(ended without an answer)"]
    kept = store.match(1)
    assert {reply.text for reply in (*kept.left_replies, *kept.right_replies)} == {""}


def test_each_side_continues_its_own_chat(store: ArenaStore) -> None:
    engine = ScriptedEngine("a", "b", "c", "d")
    match = play(store, engine)
    said = run(match.send("First?"))
    run(match.send("Second?"))
    later = {tuple(m.text for m in request.messages) for request in engine.requests[2:]}
    assert later == {("First?", text, "Second?") for text in said.values()}
    assert match.turn == 1
    with pytest.raises(UsageError, match="nothing to send"):
        run(match.send("  "))


RAN: list[str] = []


class Tools:
    """A tool that is allowed, and one that needs permission."""

    @hookimpl
    def register_tools(self, register: Callable[[Tool], None]) -> None:
        @tool(permission="allow")
        def add(a: int, b: int) -> str:
            """Add."""
            RAN.append("add")
            return str(a + b)

        @tool
        def send(to: str) -> str:
            """Send."""
            RAN.append("send")
            return "sent"

        register(add)
        register(send)


ADD = ToolCall("", "add", '{"a": 2, "b": 3}')
SEND = ToolCall("", "send", '{"to": "ann"}')


def tool_chats(engine: Engine, config: Config | None = None) -> InMemorySideChats:
    host = PluginHost([("sums", Tools())])
    return InMemorySideChats(config or Config(), host, lambda m, r: engine, lambda w: None)


def answer(engine: Engine, setup: Setup, config: Config | None = None) -> MatchReply:
    """One reply of a contestant."""
    RAN.clear()
    chat = tool_chats(engine, config).begin(setup)
    asked = AnswerRequest(Seat(Contestant(1, "armed", setup), chat), "2 + 3?", 0)
    ((_, reply),) = generate_answers([asked])
    return reply


def test_a_contestant_with_tools_calls_them_and_the_steps_are_stored(store: ArenaStore) -> None:
    armed = store.add_contestant("armed", Setup(tools=("add",)))
    plain = store.add_contestant("plain", HOT)
    engine = ScriptedEngine()
    draw = random.Random(1)
    match = LiveMatch(store, tool_chats(engine), armed, plain, same_seed=True, rng=draw)
    # whoever is asked first has the first reply of the script
    scripts: dict[bool, ScriptedReply] = {True: (Text("I add. "), ADD), False: "It is 6."}
    order = list(SIDES)
    replica = random.Random(1)
    replica.randrange(SEED_LIMIT)
    replica.shuffle(order)
    engine.queue(*(scripts[side == "left"] for side in order), "It is 5.")
    updates = list(match.send("2 + 3?"))
    said = {event.side: event.text for event in updates if event.ended}
    assert said == {"left": "I add. It is 5.", "right": "It is 6."}
    assert not any("add(" in event.text or '"a"' in event.text for event in updates)
    kept = store.match(1)
    assert kept.right_replies[0].steps == ()
    (first, last) = kept.left_replies[0].steps
    assert [type(part) for part in first.parts] == [Text, ToolCall, ToolResult]
    result = first.parts[-1]
    assert isinstance(result, ToolResult) and result.text == "5"
    assert last.text == "It is 5."
    spent = kept.left_replies[0].provenance["completion_tokens"]
    assert last.usage.completion_tokens > 0
    assert first.usage.completion_tokens + last.usage.completion_tokens == spent
    by_tools = sorted(tuple(each.name for each in request.tools) for request in engine.requests)
    assert by_tools == [(), ("add",), ("add",)]
    engine.queue("a", "b")
    run(match.send("And now?"))
    roles = {tuple(m.role for m in request.messages) for request in engine.requests[3:]}
    assert roles == {
        ("user", "assistant", "user"),
        ("user", "assistant", "tool", "assistant", "user"),
    }


def test_nothing_that_needs_permission_runs_in_the_arena() -> None:
    setup = Setup(tools=("add", "send"))
    reply = answer(ScriptedEngine((SEND, ADD), "Done."), setup)
    assert (reply.text, RAN) == ("Done.", ["add"])
    denied, added = [part for part in reply.steps[0].parts if isinstance(part, ToolResult)]
    assert "nobody was there to give it" in denied.text and added.text == "5"
    allowed = Config(tools=ToolSettings(allow=("send",)))
    assert answer(ScriptedEngine((SEND,), "Done."), setup, allowed).text == "Done."
    assert RAN == ["send"]


def test_calls_without_an_end_reach_the_limit() -> None:
    limited = Config(tools=ToolSettings(max_steps=3))
    reply = answer(ScriptedEngine(*[(Text("Again. "), ADD)] * 9), Setup(tools=("add",)), limited)
    assert (reply.stop_reason, len(RAN)) == (StopReason.TOOL_LIMIT, 3)
    assert reply.text == "Again. " * 3


def test_a_contestant_with_an_unknown_tool_is_refused() -> None:
    chat = tool_chats(ScriptedEngine()).begin(Setup(tools=("adds",)))
    with pytest.raises(UsageError, match="There is no tool adds"):
        chat.check()


def test_a_setup_with_tools_comes_back() -> None:
    setup = Setup(model="m", tools=("add", "files"))
    assert Setup.from_dict(setup.to_dict()) == setup
    assert "tools" not in Setup(model="m").to_dict()


def test_answering_again_replaces_the_answers(store: ArenaStore) -> None:
    engine = ScriptedEngine("a", "b", "c", "d")
    match = play(store, engine)
    run(match.send("Hello?"))
    said = run(match.regenerate())
    assert set(said.values()) == {"c", "d"}
    kept = store.match(1)
    assert [r.text for r in kept.left_replies] == [said["left"]]
    assert [len(request.messages) for request in engine.requests] == [1, 1, 1, 1]


def test_who_answers_first_is_left_to_chance(store: ArenaStore) -> None:
    first: Counter[Side] = Counter()
    for seed in range(40):
        match = play(store, ScriptedEngine("a", "b"), seed=seed)
        first[next(event.side for event in match.send("Hello?") if event.ended)] += 1
    assert min(first.values()) >= 8


def test_the_same_seed_on_both_sides(store: ArenaStore) -> None:
    for same in (True, False):
        engine = ScriptedEngine("a", "b")
        match = play(store, engine, same_seed=same)
        run(match.send("Hello?"))
        one, other = (request.sampling.seed for request in engine.requests)
        assert (one == other) is same
        assert one is not None


def test_a_seed_of_its_own_stays(store: ArenaStore) -> None:
    for name in ("one", "other"):
        store.add_contestant(name, Setup(system=name, sampling=Sampling(seed=7)))
    engine = ScriptedEngine("a", "b")
    match = play(store, engine)
    run(match.send("Hello?"))
    assert [request.sampling.seed for request in engine.requests] == [7, 7]


def test_stopping_keeps_both_partial_replies(store: ArenaStore) -> None:
    match = play(store, ScriptedEngine("one two three", "four"))
    with closing(match.send("Hello?")) as events:
        for event in events:
            if event.text.startswith("one two"):
                break
    assert not match.can_vote
    kept = store.match(1)
    (reply,) = kept.left_replies + kept.right_replies
    assert reply.text.startswith("one two")
    assert reply.stop_reason is StopReason.CANCELLED
    with pytest.raises(UsageError, match="answer first"):
        run(match.send("More?"))


def test_a_message_that_does_not_fit_is_a_failed_reply(store: ArenaStore) -> None:
    too_long = ContextTooLong("Too long.")
    match = play(store, ScriptedEngine(too_long, "fine"))
    assert sorted(run(match.send("Hello?")).values()) == ["Too long.", "fine"]
    assert match.can_vote
    kept = store.match(1)
    reasons = {r.stop_reason for r in (*kept.left_replies, *kept.right_replies)}
    assert reasons == {StopReason.ERROR, StopReason.END}


def with_plugins(store: ArenaStore, engine: Engine, *setups: Setup) -> LiveMatch:
    """A match of set-ups with the indices and the templates."""
    left, right = (store.add_contestant(f"c{at}", setup) for at, setup in enumerate(setups))
    host = PluginHost([("rag", chatlm_rag.plugin), ("templates", chatlm_templates.plugin)])
    side = InMemorySideChats(Config(), host, lambda m, r: engine, lambda w: None)
    return LiveMatch(store, side, left, right, same_seed=False, rng=random.Random(0))


def test_an_index_without_hits_is_a_failed_reply(store: ArenaStore, home: Path) -> None:
    with rag_chats.house(home):
        match = with_plugins(store, ScriptedEngine("Far."), with_index(Setup(), "house"), Setup())
        said = run(match.send(rag_chats.SPACE))
    assert said["left"].startswith("Nothing relevant in house")
    assert said["right"] == "Far."
    assert match.can_vote


@pytest.mark.parametrize(
    ("setup", "what"),
    [
        (with_index(Setup(), "gone"), "There is no index 'gone'"),
        (Setup(template="gone"), "There is no template 'gone'"),
        (Setup(plugin_data={"templates": {"template": "gone"}}), "There is no template 'gone'"),
        (Setup(template="translate"), "needs language"),
    ],
)
def test_a_set_up_that_cannot_answer_gets_no_vote(
    store: ArenaStore, home: Path, setup: Setup, what: str
) -> None:
    match = with_plugins(store, ScriptedEngine("fine", "fine"), setup, Setup())
    with pytest.raises(UsageError, match=what):
        run(match.send("Hello?"))
    assert not match.can_vote
    assert store.match(1).left_replies == ()


def test_a_failure_is_reported_and_no_vote_is_possible(store: ArenaStore) -> None:
    broken = EngineError("It broke.")
    match = play(store, ScriptedEngine(broken, "fine", "fine"))
    with pytest.raises(EngineError, match="It broke"):
        run(match.send("Hello?"))
    assert not match.can_vote
    assert store.match(1).left_replies == store.match(1).right_replies == ()
    run(match.regenerate())
    assert match.can_vote


def test_pairs_have_random_sides_and_can_play(store: ArenaStore) -> None:
    two(store)
    store.import_votes([ImportedVote("hot", "known", Verdict.LEFT, "x")], "f", "0")
    draw = random.Random(1)
    pairs = {
        tuple(c.name for c in choose_contestants(store, how, draw))
        for how in Pairing
        for _ in range(20)
    }
    assert pairs == {("hot", "cold"), ("cold", "hot")}


def test_one_contestant_is_not_enough(store: ArenaStore) -> None:
    store.add_contestant("alone", HOT)
    with pytest.raises(UsageError, match="two contestants") as caught:
        choose_contestants(store, Pairing.RANDOM, random.Random(0))
    assert "/arena add" in caught.value.hint


def test_the_rarest_pair_plays_next(store: ArenaStore) -> None:
    hot, cold = two(store)
    store.add_contestant("new", Setup())
    played(store, hot, cold, Verdict.LEFT)
    for _ in range(5):
        pair = {c.name for c in choose_contestants(store, Pairing.ROUND_ROBIN, random.Random(0))}
        assert "new" in pair


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("I am SmolLM2, made with care.", f"I am {MASK}, made with care."),
        ("smollm2-135M-instruct here", f"{MASK} here"),
        ("My Pirate Voice says arr", f"My {MASK} says arr"),
        ("ahot is no name, hot is", f"ahot is no name, {MASK} is"),
        ("", ""),
    ],
)
def test_names_are_hidden_in_replies(text: str, hidden: str) -> None:
    words = identifying_words(
        [
            Contestant(1, "hot", Setup(model="smollm2-135m-instruct", adapter="pirate-voice")),
            Contestant(2, "it"),
        ]
    )
    assert mask_words(text, words) == hidden


def test_jobs_of_one_model_are_grouped(store: ArenaStore) -> None:
    opened: list[str] = []

    def opens(model: str, report: object) -> Engine:
        opened.append(model)
        return ScriptedEngine("x", "y")

    with InMemorySideChats(Config(), PluginHost(), opens, lambda w: None) as side:
        orders = []
        for number, model in enumerate(("a", "b", "b")):
            contestant = Contestant(number, str(number), Setup(model=model))
            seat = Seat(contestant, side.begin(Setup(model=model)))
            orders.append(AnswerRequest(seat, "Hello?", 0))
        assert [at for at, _ in generate_answers(orders)] == [0, 1, 2]
    assert opened == ["a", "b"]


def test_with_the_real_model_and_one_seed_equal_set_ups_say_the_same(
    store: ArenaStore, engine: LocalEngine
) -> None:
    sampling = Sampling(temperature=1.0, max_tokens=12)
    store.add_contestant("one", Setup(sampling=sampling))
    store.add_contestant("other", Setup(model="other", sampling=sampling))

    class Borrowed:
        def __getattr__(self, name: str) -> object:
            return getattr(engine, name)

        def close(self) -> None:
            """The session's engine stays open."""

    borrowed: Engine = Borrowed()  # type: ignore[assignment]
    match = play(store, borrowed, same_seed=True)
    said = run(match.send("Name three colours."))
    assert said["left"] == said["right"] != ""
    kept = store.match(1).left_replies[0]
    assert kept.tokens == 12
    assert kept.seconds
    assert kept.stop_reason is StopReason.LENGTH


def test_what_cannot_be_loaded_is_reported(store: ArenaStore, tmp_path: Path) -> None:
    two(store)

    def fails(model: str, report: object) -> Engine:
        raise ChatlmError("no such model")

    side = InMemorySideChats(Config(), PluginHost(), fails, lambda w: None)
    match = LiveMatch(store, side, *store.contestants(), same_seed=True, rng=random.Random(0))
    with pytest.raises(ChatlmError, match="no such model"):
        run(match.send("Hello?"))


def two_models(store: ArenaStore, opens: Callable[[str], Engine]) -> LiveMatch:
    for name in ("one", "other"):
        store.add_contestant(name, Setup(model=name))
    side = InMemorySideChats(Config(), PluginHost(), lambda m, r: opens(m), lambda w: None)
    left, right = store.contestants()
    return LiveMatch(store, side, left, right, same_seed=True, rng=random.Random(0))


def test_one_model_answers_for_both_at_once(store: ArenaStore, engine: LocalEngine) -> None:
    match = play(store, engine)
    order = [event.side for event in match.send("Hello?") if event.text and not event.ended]
    assert set(order[:4]) == {"left", "right"}
    assert match.can_vote


def test_two_models_answer_at_once(store: ArenaStore) -> None:
    engines = {name: ScriptedEngine("a b c d e f") for name in ("one", "other")}
    match = two_models(store, engines.__getitem__)
    order = [event.side for event in match.send("Hello?") if event.text and not event.ended]
    assert order[:6] in (["left", "right"] * 3, ["right", "left"] * 3)
    assert match.can_vote


def test_two_models_that_do_not_fit_answer_in_turn(store: ArenaStore) -> None:
    there: list[ScriptedEngine] = []

    def opens(model: str) -> Engine:
        if any(not engine.closed for engine in there):
            raise OutOfMemoryError("full")
        there.append(ScriptedEngine("a b c", "a b c"))
        return there[-1]

    match = two_models(store, opens)
    order = [event.side for event in match.send("Hello?") if event.text and not event.ended]
    assert len(set(order[:3])) == len(set(order[3:])) == 1
    assert match.can_vote


def test_stopped_in_the_middle_two_models_keep_both_replies(store: ArenaStore) -> None:
    engines = {name: ScriptedEngine("a b c d e f") for name in ("one", "other")}
    match = two_models(store, engines.__getitem__)
    with closing(match.send("Hello?")) as events:
        for event in events:
            if event.text.startswith("a b c"):
                break
    kept = store.match(1)
    reasons = [r.stop_reason for r in (*kept.left_replies, *kept.right_replies)]
    assert reasons == [StopReason.CANCELLED] * 2
    assert match.can_vote


def pictures(*colours: tuple[int, int, int]) -> list[PreparedImage]:
    return [read_image(image_files.solid_png(colour), "circle.png") for colour in colours]


def test_both_get_the_images_in_every_turn_and_they_are_stored(store: ArenaStore) -> None:
    engine = ScriptedEngine(*["Red."] * 4, images=True)
    match, (red, blue) = play(store, engine), pictures(image_files.RED, image_files.BLUE)
    run(match.send("Which colour?", [red]))
    run(match.send("And this?", [blue]))
    first, _, third, fourth = engine.requests
    assert first.messages[-1].parts == (red.image, Text("Which colour?"))
    for request in (third, fourth):
        seen = [part for message in request.messages for part in message.parts]
        assert [part for part in seen if isinstance(part, Image)] == [red.image, blue.image]
        assert request.image_bytes(red.image) == red.content
    stored = store.match(1)
    assert [reply.images for reply in stored.left_replies] == [(red.image,), (blue.image,)]
    assert stored.left_replies[0].prompt == "Which colour?"
    assert store.image(blue.image.sha256) == blue.content
    run(match.regenerate())
    assert blue.image in engine.requests[-1].messages[-1].parts


def test_a_contestant_without_vision_is_named_before_anything_is_sent(store: ArenaStore) -> None:
    engines = {
        "one": ScriptedEngine("Red.", images=True),
        "other": ScriptedEngine("Hm.", "Hm."),
    }
    match = two_models(store, engines.__getitem__)
    with pytest.raises(UsageError, match=r"other could not answer\..*cannot read images"):
        run(match.send("Which colour?", pictures(image_files.RED)))
    assert not any(engine.requests for engine in engines.values())
    with pytest.raises(UsageError, match="no match 1"):
        store.match(1)
    assert run(match.send("Which colour?"))["left"] in ("Red.", "Hm.")


def test_contestants_known_to_have_no_vision_are_not_chosen_for_images(
    store: ArenaStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = [
        SimpleNamespace(name="deaf", installed=True, abilities=("tools",)),
        SimpleNamespace(name="one", installed=True, abilities=("tools", "images")),
        SimpleNamespace(name="other", installed=False, abilities=()),
    ]
    monkeypatch.setattr("chatlm_arena.match.list_installed_models", lambda: here)
    store.add_contestant("plain", Setup(model="deaf"))
    for name in ("one", "other"):
        store.add_contestant(name, Setup(model=name))
    for seed in range(8):
        rng = random.Random(seed)
        pair = choose_contestants(store, Pairing.RANDOM, rng, with_images=True)
        assert {each.name for each in pair} == {"one", "other"}
    store.remove_contestant("other")
    with pytest.raises(UsageError, match="these cannot: plain"):
        choose_contestants(store, Pairing.RANDOM, random.Random(0), with_images=True)


def test_a_better_reply_about_an_image_is_exported_with_it(store: ArenaStore) -> None:
    engine, (red,) = ScriptedEngine("Red.", "Blue.", images=True), pictures(image_files.RED)
    match = play(store, engine)
    run(match.send("Which colour?", [red]))
    match.vote(Verdict.LEFT, EloRules())
    judged = [(ballot, store.match(1)) for ballot in store.ballots()]
    ((first, _),) = [row["messages"] for row in sft_examples(judged, store.image)]
    url = f"data:image/png;base64,{base64.b64encode(red.content).decode()}"
    assert first["content"] == [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "Which colour?"},
    ]
    (pair,) = dpo_examples(judged, store.image)
    assert pair["prompt"] == [first]


def test_images_in_the_prompts_of_a_tournament_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text('{"prompt": "Which colour?", "images": ["a.png"]}')
    with pytest.raises(UsageError, match="line 1: it has images"):
        read_prompts(file)
