"""The model screen returns a name, and shows the size before anything is downloaded."""

from __future__ import annotations

import dataclasses
import threading
from functools import partial
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import OptionList

from chatlm import hookimpl
from chatlm.chat.model_list import FileChoice, PluginModels, list_plugin_models
from chatlm.engines.fit import Fit, Verdict
from chatlm.errors import ModelError
from chatlm.hub.installed import ModelDetails
from chatlm.plugin_host.host import PluginHost
from chatlm.tui.engine_loader import Ready
from chatlm.tui.screens.models import ModelScreen
from chatlm.types.engine import ModelListing
from chatlm.types.memory import MemoryBudget
from tests.tui.cards import CardApp, SnapCompare, both_sizes, hint, still
from tests.tui.support import hostile_texts, make_app, plain, until


def details(name: str, about: str, size: int, *, here: bool) -> ModelDetails:
    folder = Path("models") / name if here else None
    return ModelDetails(
        name, "chat", about, "Apache-2.0", 8192, here, folder, size, "hub", None, None, ()
    )


MODELS = (
    details(
        "smollm2-135m-instruct", "Small and quick chat model in English.", 274_000_000, here=True
    ),
    details("qwen3-0.6b", "Knows more, and many languages.", 1_200_000_000, here=False),
    details("tuned", "", 200_000, here=True),
)


class Asked:
    """Says which names are installed, and records the names it was asked for."""

    def __init__(self, *here: str) -> None:
        self.here = here
        self.names: list[str] = []

    def __call__(self, name: str) -> bool:
        self.names.append(name)
        if name == "nosuch":
            raise ModelError("There is no model called 'nosuch'.", "Did you mean tuned?")
        return name in self.here


def app(*here: str, theme: str = "textual-dark") -> CardApp:
    return CardApp(ModelScreen(MODELS, "smollm2-135m-instruct", Asked(*here)), theme)


def rows(pilot: Pilot[None]) -> list[str]:
    return [str(option.prompt) for option in pilot.app.screen.query_one(OptionList).options]


async def test_all_are_listed_with_size_and_whether_they_are_here() -> None:
    async with app().run_test() as pilot:
        await until(pilot, lambda: len(rows(pilot)) == 3)
        small, big, tuned = rows(pilot)
        assert small.split()[:5] == ["smollm2-135m-instruct", "274.0", "MB", "in", "use"]
        assert "Small and quick" in plain(pilot.app.screen.query_one("#about"))
        assert big.split() == ["qwen3-0.6b", "1.2", "GB"]
        assert tuned.split() == ["tuned", "200.0", "kB", "installed"]
        assert hint(pilot) == "enter use model · esc close"


async def test_what_cannot_chat_is_no_choice() -> None:
    embedder = dataclasses.replace(details("minilm", "", 90, here=True), kind="embedder")
    async with CardApp(ModelScreen((embedder, *MODELS), "tuned", Asked())).run_test() as pilot:
        await until(pilot, lambda: len(rows(pilot)) == 3)
        assert "minilm" not in "".join(rows(pilot))


async def test_typing_filters_name_and_description() -> None:
    async with app().run_test() as pilot:
        await pilot.press(*"languages")
        await until(pilot, lambda: len(rows(pilot)) == 2)
        assert rows(pilot)[0].startswith("qwen3-0.6b")
        assert rows(pilot)[1] == "Use “languages”"
        await pilot.press(*["backspace"] * 9, *"tun")
        await until(pilot, lambda: rows(pilot)[0].startswith("tuned"))


@pytest.mark.parametrize("way", ["enter", "click"])
async def test_a_model_that_is_here_is_taken_at_once(way: str) -> None:
    host = app()
    async with host.run_test() as pilot:
        await until(pilot, lambda: len(rows(pilot)) == 3)
        if way == "enter":
            await pilot.press("down", "down", "enter")
        else:
            await pilot.click(OptionList, offset=(3, 2))
        await until(pilot, lambda: host.given == ["tuned"])


async def test_one_that_is_not_here_says_its_size_first() -> None:
    host = app()
    async with host.run_test() as pilot:
        await pilot.press("down", "enter")
        asked = "qwen3-0.6b is not on this machine. About 1.2 GB to download."
        await until(pilot, lambda: asked in plain(host.screen))
        assert host.given == []
        await pilot.press("enter")
        await until(pilot, lambda: host.given == ["qwen3-0.6b"])


@pytest.mark.parametrize("key", ["escape", "down", "x"])
async def test_the_question_can_be_taken_back(key: str) -> None:
    host = app()
    async with host.run_test() as pilot:
        await pilot.press("down", "enter")
        await until(pilot, lambda: "to download" in plain(host.screen))
        await pilot.press(key)
        await until(pilot, lambda: "to download" not in plain(host.screen))
        assert host.given == []


async def test_any_other_model_can_be_typed() -> None:
    """One that is here is taken; another asks, though its size is not known."""
    host = app("org/here")
    async with host.run_test() as pilot:
        await pilot.press(*"org/there", "enter")
        await until(pilot, lambda: "org/there is not on this machine." in plain(host.screen))
        await pilot.press("escape", *["backspace"] * 5, *"here", "enter")
        await until(pilot, lambda: host.given == ["org/here"])


async def test_a_model_that_was_named_is_asked_about_at_once_and_still_when_its_fit_is_known() -> (
    None
):
    answered = threading.Event()

    def ask() -> PluginModels:
        assert answered.wait(60)
        return PluginModels(fits={"qwen3-0.6b": fit("fits", 40.0)})

    host = CardApp(ModelScreen(MODELS, "tuned", Asked(), ask, wanted="qwen3-0.6b"))
    async with host.run_test(size=(120, 40)) as pilot:
        asked = "qwen3-0.6b is not on this machine. About 1.2 GB to download."
        await until(pilot, lambda: asked in plain(host.screen))
        answered.set()
        await until(pilot, lambda: "Fits, ~40 tokens/s" in plain(host.screen))
        assert asked in plain(host.screen)
        await pilot.press("enter")
        await until(pilot, lambda: host.given == ["qwen3-0.6b"])


def fit(verdict: Verdict, speed: float) -> Fit:
    memory = MemoryBudget("cpu", 900_000_000, 10**8, 8192, 10**8, 10**8, 8_000_000_000)
    return Fit(verdict, memory, 1_200_000_000, 0, speed, 0.3, "native", needed=1_100_000_000)


async def test_how_each_fits_is_shown_in_its_row_and_before_a_download() -> None:
    fits = {"qwen3-0.6b": fit("fits", 51.0), "tuned": fit("too big", 0.4)}
    screen = ModelScreen(MODELS, "", Asked(), lambda: PluginModels(fits=fits))
    async with CardApp(screen).run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: any("fits ~51 t/s" in row for row in rows(pilot)))
        assert "too big ~0.4 t/s" in rows(pilot)[2]
        await pilot.press("down", "enter")
        await until(pilot, lambda: "Fits, ~51 tokens/s" in plain(screen))
        said = plain(screen).replace("\n", " ")
        assert "needs about 1.1 GB of memory with a context of 8,192 tokens" in said


async def test_on_a_phone_a_row_has_name_and_fit_and_the_line_below_the_rest() -> None:
    screen = ModelScreen(MODELS, "", Asked(), lambda: PluginModels(fits={"tuned": fit("fits", 51)}))
    async with CardApp(screen).run_test(size=(46, 30)) as pilot:
        await until(pilot, lambda: rows(pilot)[2].split() == ["tuned", "fits", "~51", "t/s"])
        assert "fits ~51 t/s" in plain(screen)
        await pilot.press("down", "down")
        about = screen.query_one("#about")
        await until(pilot, lambda: plain(about) == "200.0 kB · installed")
        await pilot.resize_terminal(120, 40)
        await until(pilot, lambda: "installed" in rows(pilot)[2])


async def test_a_repository_with_gguf_files_offers_them() -> None:
    choices = (
        FileChoice("org/m:Q4_K_M", 2_500_000_000, "good", fit("fits", 9.0)),
        FileChoice("org/m:Q8_0", 4_300_000_000, "almost as the original", fit("too big", 5.0)),
    )
    screen = ModelScreen(MODELS, "", lambda name: choices)
    host = CardApp(screen)
    async with host.run_test(size=(120, 40)) as pilot:
        await pilot.press(*"org/m", "enter")
        await until(pilot, lambda: rows(pilot)[0].startswith("Q4_K_M"))
        assert "2.5 GB" in rows(pilot)[0]
        assert "almost as the original" in rows(pilot)[1]
        await pilot.press("enter")
        await until(pilot, lambda: "2.5 GB to download" in plain(screen))
        await pilot.press("enter")
        await until(pilot, lambda: host.given == ["org/m:Q4_K_M"])


async def test_a_model_that_does_not_exist_says_so() -> None:
    host = app()
    async with host.run_test() as pilot:
        await pilot.press(*"nosuch", "enter")
        await until(pilot, lambda: "Did you mean tuned?" in plain(host.screen))
        await pilot.press("backspace")
        await until(pilot, lambda: "Did you mean" not in plain(host.screen))
        await pilot.press("escape")
        await until(pilot, lambda: host.given == [None])


async def test_hostile_names_are_drawn_on_one_line(shared_data: Path) -> None:
    texts = dict.fromkeys(text for text in hostile_texts(shared_data) if text.strip())
    models = [details(text, text, 1, here=True) for text in texts]
    async with CardApp(ModelScreen(models, "", Asked())).run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: len(rows(pilot)) == len(models))
        for line in rows(pilot):
            assert not any(ord(c) < 32 or c in "\u202e\x9b" for c in line)


@both_sizes
@pytest.mark.parametrize("theme", ["textual-dark", "textual-light"])
def test_picture(snap_compare: SnapCompare, size: tuple[int, int], theme: str) -> None:
    """Name, size, whether it is installed, description."""

    async def steps(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: len(rows(pilot)) == 3)
        await until(pilot, lambda: not pilot.app.screen.query_one("#plugins").display)

    assert snap_compare(app(theme=theme), terminal_size=size, run_before=still(steps))


@both_sizes
def test_picture_of_the_question(snap_compare: SnapCompare, size: tuple[int, int]) -> None:
    """How much has to be fetched."""

    async def steps(pilot: Pilot[None]) -> None:
        await pilot.press("down", "enter")
        await until(pilot, lambda: not pilot.app.screen.query_one("#plugins").display)

    assert snap_compare(app(), terminal_size=size, run_before=still(steps))


class Lists:
    """Lists models of its own, or fails."""

    def __init__(self, *models: ModelListing, error: str = "") -> None:
        self.models = models
        self.error = error
        self.threads: list[threading.Thread] = []

    @hookimpl
    def list_models(self) -> list[ModelListing]:
        self.threads.append(threading.current_thread())
        if self.error:
            raise OSError(self.error)
        return list(self.models)


PARROTS = (
    ModelListing("parrot:green", "Repeats what it hears.", 8192, ("tools", "thinking")),
    ModelListing("parrot:grey", "Understands what it hears.", 32768, ("images",)),
)


def plugins() -> PluginHost:
    return PluginHost(
        [
            ("parrot", Lists(*PARROTS)),
            ("cuckoo", Lists(error="no nest\x1b[31m at 10.0.0.1")),
            ("magpie", Lists(error="it took something else")),
        ]
    )


def with_plugins(host: PluginHost) -> CardApp:
    ask = partial(list_plugin_models, host)
    return CardApp(ModelScreen(MODELS, "smollm2-135m-instruct", Asked(), ask))


async def test_models_of_plugins_are_listed_with_their_abilities_and_failures_are_named() -> None:
    host = with_plugins(plugins())
    async with host.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: len(rows(pilot)) == 5)
        green = rows(pilot)[3]
        assert green.split()[:3] == ["parrot:green", "-", "ready"]
        assert green.endswith("tools, thinking · Repeats what it hears.")
        said = plain(host.screen.query_one("#plugins")).replace("\n", " ")
        assert "The plugin cuckoo failed in list_models: OSError: no nest␛[31m at 10.0.0.1." in said
        assert "The plugin magpie failed in list_models: OSError: it took something else." in said
        await pilot.press(*"images")
        await until(pilot, lambda: [row.split()[0] for row in rows(pilot)][:1] == ["parrot:grey"])
        await pilot.press("enter")
        await until(pilot, lambda: host.given == ["parrot:grey"])


async def test_the_highlight_stays_when_plugins_answer() -> None:
    go = threading.Event()

    def ask() -> PluginModels:
        assert go.wait(20)
        return list_plugin_models(PluginHost([("parrot", Lists(*PARROTS))]))

    host = CardApp(ModelScreen(MODELS, "smollm2-135m-instruct", Asked(), ask))
    async with host.run_test() as pilot:
        await until(pilot, lambda: len(rows(pilot)) == 3)
        assert "Asking plugins" in plain(host.screen)
        await pilot.press("down", "down")
        go.set()
        await until(pilot, lambda: len(rows(pilot)) == 5)
        await pilot.press("enter")
        await until(pilot, lambda: host.given == ["tuned"])


async def test_the_command_asks_plugins_in_a_thread() -> None:
    parrot = Lists(*PARROTS)
    chat = make_app(plugins=PluginHost([("parrot", parrot)]))
    async with chat.run_test() as pilot:
        await chat.chat_screen.action_command("model")
        await until(pilot, lambda: isinstance(pilot.app.screen, ModelScreen))
        await pilot.press(*"parrot")
        await until(pilot, lambda: any("parrot:green" in row for row in rows(pilot)))
    assert parrot.threads
    assert threading.main_thread() not in parrot.threads


async def test_the_command_asks_before_it_downloads_a_model_that_was_named() -> None:
    chat = make_app()
    async with chat.run_test(size=(120, 40)) as pilot:
        await chat.chat_screen.action_command("model", "qwen3:latest")
        asked = "qwen3:8b is not on this machine. About 5.0 GB to download."
        await until(pilot, lambda: asked in plain(pilot.app.screen))


async def test_a_model_is_downloaded_while_the_current_one_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pulled: list[str] = []
    monkeypatch.setattr(
        "chatlm.tui.widgets.download_line.pull_model",
        lambda name, progress, cancelled: pulled.append(name),
    )
    chat = make_app()
    async with chat.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: isinstance(chat.services.engine_state, Ready))
        await chat.chat_screen.action_command("model", "qwen3:4b")
        await until(pilot, lambda: "enter download" in plain(pilot.app.screen))
        await pilot.press("enter")
        await until(pilot, lambda: "qwen3:4b is ready" in plain(chat.chat_screen.download_line))
        assert pulled == ["qwen3:4b"]
        assert isinstance(chat.services.engine_state, Ready)


@both_sizes
def test_picture_with_models_of_plugins(snap_compare: SnapCompare, size: tuple[int, int]) -> None:
    """Abilities behind the description, and which plugins failed."""

    async def steps(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: len(rows(pilot)) == 5)

    assert snap_compare(with_plugins(plugins()), terminal_size=size, run_before=still(steps))
