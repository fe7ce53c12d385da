"""Programs for real clients, each in an environment of its own with what PyPI has of it.

Each program asks the server with the default model for text, a stream, tool calls and JSON that
fits a schema.
"""

from __future__ import annotations

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
    "instructor_models": "instructor>=1.10",
    "langchain_chat": "langchain-openai",
    "litellm_completion": "litellm",
    "llm_models": "llm",
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
    names = {path.stem for path in CLIENTS.glob("*.py")}
    assert names >= PACKAGES.keys()


@pytest.mark.parametrize("name", PACKAGES)
def test_a_client_works(name: str, address: str, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "-q", PACKAGES[name]]
    installed = subprocess.run(install, capture_output=True, text=True)
    if installed.returncode:
        pytest.skip(f"{PACKAGES[name]} cannot be installed: {installed.stderr[-300:]}")
    done = subprocess.run(
        [str(python), str(CLIENTS / f"{name}.py"), address, models.DEFAULT],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
