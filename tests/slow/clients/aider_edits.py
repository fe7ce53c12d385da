"""aider: asks for an edit of a file, streamed and whole; a small model may edit it badly."""

import os
import pathlib
import subprocess
import sys

address, model = sys.argv[1:]
aider = pathlib.Path(sys.executable).with_name("aider")
pathlib.Path("greet.py").write_text("def greet():\n    return 'hello'\n")
environment = os.environ | {
    "OPENAI_API_BASE": f"{address}/v1",
    "OPENAI_API_KEY": "none",
    "AIDER_ANALYTICS": "false",
}
for stream in ("--stream", "--no-stream"):
    done = subprocess.run(
        [
            aider, "--model", f"openai/{model}", "--edit-format", "whole", stream, "--no-git",
            "--yes-always", "--no-show-model-warnings", "--no-check-update", "--no-pretty",
            "--map-tokens", "0", "--no-auto-lint", "--message", "Let greet return 'goodbye'.",
            "greet.py",
        ],
        env=environment, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "litellm." not in said, said  # as its errors begin
    assert "Tokens:" in said and "received" in said, said
