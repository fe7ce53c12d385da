"""The adapters of a vLLM server, answered as its API server does (vllm 0.11 and later)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.plugins.openai_server import Asked, Handler, Script, says, serving

BASE = "big"


class Vllm:
    """The state of such a server.

    Args:
        folders: paths on its machine at which there is an adapter.
        runtime: whether VLLM_ALLOW_RUNTIME_LORA_UPDATING is set.
        broken: what the engine says of an adapter that it cannot load; empty for none.
        flat: whether errors have the older form.
    """

    def __init__(
        self, *folders: str, runtime: bool = True, broken: str = "", flat: bool = False
    ) -> None:
        self.adapters: dict[str, str] = {}
        self.runtime = runtime
        self.broken = broken
        self._folders = folders
        self._flat = flat
        self._script: Script | None = None

    def list_on(self, script: Script) -> None:
        """Let the models be listed there, now and after each change."""
        self._script = script
        script.models[:] = [
            {"id": BASE, "object": "model", "root": f"org/{BASE}", "parent": None,
             "max_model_len": 4096},
            *({"id": name, "object": "model", "root": path, "parent": BASE, "max_model_len": None}
              for name, path in self.adapters.items()),
        ]  # fmt: skip

    def other(self, handler: Handler, asked: Asked) -> None:
        """Answer a request that is for no reply."""
        if not self.runtime:
            handler.whole(404, {"detail": "Not Found"})
            return
        name, path = asked.body.get("lora_name", ""), asked.body.get("lora_path", "")
        if asked.path == "/v1/load_lora_adapter":
            self._load(handler, name, path)
        elif name not in self.adapters:
            self._error(
                handler, 404, "NotFoundError", f"The lora adapter '{name}' cannot be found."
            )
        else:
            del self.adapters[name]
            self._done(handler, f"Success: LoRA adapter '{name}' removed successfully.")

    def _load(self, handler: Handler, name: str, path: str) -> None:
        if name in self.adapters:
            reason = (
                f"The lora adapter '{name}' has already been loaded. If you want to load the "
                "adapter in place, set 'load_inplace' to True."
            )
            self._error(handler, 400, "InvalidUserInput", reason)
        elif path not in self._folders:
            reason = f"Loading lora {name} failed: No adapter found for {path}"
            self._error(handler, 404, "NotFoundError", reason)
        elif self.broken:
            self._error(handler, 500, "InternalServerError", self.broken)
        else:
            self.adapters[name] = path
            self._done(handler, f"Success: LoRA adapter '{name}' added successfully.")

    def _done(self, handler: Handler, said: str) -> None:
        assert self._script is not None
        self.list_on(self._script)
        handler.whole(200, said.encode())

    def _error(self, handler: Handler, status: int, kind: str, message: str) -> None:
        error = {"message": message, "type": kind, "param": None, "code": status}
        handler.whole(status, {"object": "error", **error} if self._flat else {"error": error})

    def reply(self, handler: Handler, asked: Asked) -> None:
        """Say which model answers."""
        name = asked.body["model"]
        if name != BASE and name not in self.adapters:
            reason = f"The model `{name}` does not exist."
            self._error(handler, 404, "NotFoundError", reason)
            return
        says(f"I am {name}.")(handler, asked)


@contextmanager
def vllm(server: Vllm, **adapters: str) -> Iterator[Script]:
    """Serve, with adapters that were named at its start."""
    server.adapters.update(adapters)
    with serving(server.reply) as script:
        script.other = server.other
        server.list_on(script)
        yield script
