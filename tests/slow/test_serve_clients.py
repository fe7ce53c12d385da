"""Programs for real clients, each in an environment of its own with what PyPI or npm has of it.

Each program asks the server with the default model for text, a stream, tool calls and JSON that
fits a schema.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import models
from tests.end_to_end.test_serve import Running

pytestmark = pytest.mark.slow

CLIENTS = Path(__file__).parent / "clients"

PACKAGES = {
    "aider_edits": "aider-chat",
    "anthropic_messages": "anthropic",
    "instructor_models": "instructor>=1.10",
    "langchain_chat": "langchain-openai",
    "litellm_completion": "litellm",
    "llm_models": "llm",
    "ollama_chat": "ollama",
    "open_webui": "open-webui",
    "openai_chat": "openai",
    "pydantic_agents": "pydantic-ai-slim[openai]",
}
"""What each program needs."""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = tmp_path_factory.mktemp("home")
    models.lend(home, models.default_model())
    running = Running(home, "serve")
    yield running.address
    running.process.terminate()
    running.process.communicate()


def test_every_program_is_run() -> None:
    assert {path.stem for path in CLIENTS.glob("*.py")} == PACKAGES.keys()


def run(command: list[object], folder: Path, seconds: float = 1200) -> None:
    """Run a program to its end; it must not fail."""
    done = subprocess.run(
        list(map(str, command)), cwd=folder, capture_output=True, text=True, timeout=seconds
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]


def install(command: list[object], folder: Path) -> None:
    """Install packages; skip the test where that cannot be done, as without a network."""
    try:
        run(command, folder)
    except (AssertionError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"{command[-1]} cannot be installed: {error}")


@pytest.mark.parametrize("name", PACKAGES)
def test_a_client_works(name: str, address: str, tmp_path: Path) -> None:
    run([sys.executable, "-m", "venv", tmp_path / "venv"], tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    install([python, "-m", "pip", "install", "-q", PACKAGES[name]], tmp_path)
    run([python, CLIENTS / f"{name}.py", address, models.DEFAULT], tmp_path)


@pytest.mark.skipif(not shutil.which("npm"), reason="npm is not installed")
def test_clients_from_npm_work(address: str, tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text("{}")
    install(["npm", "install", "--no-audit", "--no-fund", "openai", "ollama"], tmp_path)
    program = shutil.copy(CLIENTS / "openai_and_ollama.mjs", tmp_path)
    run(["node", program, address, models.DEFAULT], tmp_path)
