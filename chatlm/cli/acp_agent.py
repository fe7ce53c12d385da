"""An agent for editors: sessions of the Agent Client Protocol are chats."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import sys
import uuid
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import wait
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock
from typing import TYPE_CHECKING, Any, Self, TypeVar

from chatlm.chat.attachments import AttachmentReader
from chatlm.chat.session import ChatSession
from chatlm.chat.tool_set import ToolOptions
from chatlm.cli import acp_messages
from chatlm.cli.ask import load_engine
from chatlm.config.config import Config
from chatlm.errors import ChatlmError
from chatlm.plugin_host.host import PluginHost
from chatlm.store.store import Store
from chatlm.text import one_line
from chatlm.types.engine import Engine
from chatlm.types.events import (
    Approval,
    ApprovalNeeded,
    Delta,
    Finished,
    Notice,
    ReplyStarted,
    SessionEvent,
    ToolFinished,
    ToolProgress,
    ToolQuestion,
    ToolStarted,
)
from chatlm.types.replies import StopReason
from chatlm.types.services import ConnectedServers, ToolServers, as_service
from chatlm.version import version

if TYPE_CHECKING:
    from acp import InitializeResponse, NewSessionResponse, PromptResponse
    from acp.interfaces import Client
    from acp.schema import (
        CloseSessionResponse,
        ListSessionsResponse,
        LoadSessionResponse,
        PermissionOption,
        ResumeSessionResponse,
        ToolCallUpdate,
        ToolKind,
    )

T = TypeVar("T")

log = logging.getLogger(__name__)

NOTED_UNDER = "acp"
"""Where a chat notes the editor's session and folder, among the data of plugins."""

MAX_LISTED = 500
"""How many of the newest chats are looked through for those of editors."""

NO_SERVERS = "The editor's MCP servers are not used, since the plugin mcp is not loaded."

LABEL_SECONDS = 1.0
"""Seconds to wait for plugins after the answer, such as for its labels."""


@dataclass
class _EditorSession:
    """One session of the editor."""

    chat: ChatSession
    servers: ConnectedServers | None = None
    """The MCP servers that the editor wants to be used; None for none."""
    remark: str = ""
    """What else is to be said about them."""
    told: list[str] = field(default_factory=list)
    """What the user has been told about those servers."""
    cancelled: Event = field(default_factory=Event)
    busy: bool = False


class EditorAgent:
    """Answers an editor's requests; each reply is generated in a thread.

    Args:
        store: where the chats are saved.
        plugins: the plugins whose hooks are called.
        settings: the user's settings.
        tools: which tools are offered, and the rules for them.
    """

    def __init__(
        self, store: Store, plugins: PluginHost, settings: Config, tools: ToolOptions
    ) -> None:
        self._store = store
        self._plugins = plugins
        self._settings = settings
        self._tools = tools
        self._sessions: dict[str, _EditorSession] = {}
        self._engine: Engine | None = None
        self._engine_lock = Lock()
        """Held while a reply is generated: the model answers one session at a time."""
        self._client: Client | None = None

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop what runs, and free the model."""
        self.stop()
        for session in self._sessions.values():
            if session.servers is not None:
                session.servers.close()
        with self._engine_lock:
            if self._engine is not None:
                self._engine.close()

    def stop(self) -> None:
        """Stop all replies."""
        for session in self._sessions.values():
            session.cancelled.set()

    # --- called by the SDK, by name ---------------------------------------------------------

    def on_connect(self, client: Client) -> None:
        """Store the editor's side of the connection."""
        self._client = client

    async def initialize(self, protocol_version: int, **_: Any) -> InitializeResponse:
        """Say what the agent can do."""
        from acp import PROTOCOL_VERSION, InitializeResponse
        from acp.schema import (
            AgentCapabilities,
            Implementation,
            McpCapabilities,
            PromptCapabilities,
            SessionCapabilities,
            SessionCloseCapabilities,
            SessionListCapabilities,
            SessionResumeCapabilities,
        )

        return InitializeResponse(
            protocol_version=min(protocol_version, PROTOCOL_VERSION),
            agent_capabilities=AgentCapabilities(
                load_session=True,
                # whether the model reads images is known once it is loaded; others refuse them
                prompt_capabilities=PromptCapabilities(image=True, embedded_context=True),
                mcp_capabilities=McpCapabilities(http=True),
                session_capabilities=SessionCapabilities(
                    list=SessionListCapabilities(),
                    resume=SessionResumeCapabilities(),
                    close=SessionCloseCapabilities(),
                ),
            ),
            agent_info=Implementation(name="chatlm", version=version()),
        )

    async def authenticate(self, method_id: str, **_: Any) -> None:
        """Accept everybody: the editor started this process."""

    async def new_session(self, cwd: str, **others: Any) -> NewSessionResponse:
        """Begin a chat; tools may use the editor's folder."""
        from acp import NewSessionResponse

        session_id = uuid.uuid4().hex
        self._open_session(session_id, cwd, others)
        return NewSessionResponse(session_id=session_id)

    async def load_session(self, cwd: str, session_id: str, **others: Any) -> LoadSessionResponse:
        """Open the chat of an earlier session, and send the editor all that was said."""
        from acp.schema import LoadSessionResponse

        chat_id = self._saved_chat(session_id)
        chat = self._store.conversation(chat_id)
        for update in acp_messages.history(chat):
            await self.client.session_update(session_id=session_id, update=update)
        self._open_session(session_id, cwd, others, chat_id)
        return LoadSessionResponse()

    async def resume_session(
        self, cwd: str, session_id: str, **others: Any
    ) -> ResumeSessionResponse:
        """Open the chat of an earlier session that the editor still shows."""
        from acp.schema import ResumeSessionResponse

        self._open_session(session_id, cwd, others, self._saved_chat(session_id))
        return ResumeSessionResponse()

    async def close_session(self, session_id: str, **_: Any) -> CloseSessionResponse:
        """Stop the reply of a session and forget it; its chat stays, and can be loaded again."""
        from acp.schema import CloseSessionResponse

        session = self._session(session_id)
        session.cancelled.set()
        del self._sessions[session_id]
        if session.servers is not None:
            await asyncio.to_thread(session.servers.close)
        return CloseSessionResponse()

    def _saved_chat(self, session_id: str) -> int:
        """Return the chat of an earlier session."""
        if session_id in self._sessions:
            raise _invalid("this session is open already")
        for chat_id, known, _ in self._saved_sessions():
            if known == session_id:
                return chat_id
        raise _invalid("there is no such session")

    async def list_sessions(self, cwd: str | None = None, **_: Any) -> ListSessionsResponse:
        """List the chats that editors began, in this folder if one is given."""
        from acp.schema import ListSessionsResponse, SessionInfo

        sessions = [
            SessionInfo(
                session_id=known,
                cwd=folder,
                title=one_line(self._store.title(chat_id), 120),
                updated_at=self._store.header(chat_id).updated.isoformat(),
            )
            for chat_id, known, folder in self._saved_sessions()
            if cwd in (None, folder)
        ]
        return ListSessionsResponse(sessions=sessions)

    def _saved_sessions(self) -> Iterator[tuple[int, str, str]]:
        """Yield the chats that editors began, each with its session and folder."""
        for entry in self._store.list_conversations(MAX_LISTED):
            noted = self._store.header(entry.id).plugin_data.get(NOTED_UNDER, {})
            known, folder = noted.get("session"), noted.get("folder")
            if isinstance(known, str) and isinstance(folder, str):
                yield entry.id, known, folder

    def _open_session(
        self, session_id: str, cwd: str, others: Mapping[str, Any], chat_id: int | None = None
    ) -> None:
        """Open a session; tools may use its folder.

        Args:
            session_id: as the editor knows it.
            cwd: the folder.
            others: what else the editor said.
            chat_id: the chat to continue; None for a new one.
        """
        wanted = others.get("mcp_servers") or ()
        servers = self._connect(wanted, cwd)
        settings = self._tools.settings
        folders = tuple(dict.fromkeys((*settings.folders, cwd)))
        tools = dataclasses.replace(
            self._tools,
            settings=dataclasses.replace(settings, folders=folders),
            added=servers.tools if servers is not None else None,
        )
        chat = ChatSession(
            self._store,
            self._load_engine,
            plugins=self._plugins,
            sampling=self._settings.sampling,
            system=self._settings.system,
            label_seconds=LABEL_SECONDS,
            source="acp",
            tools=tools,
            conversation_id=chat_id,
            plugin_data={NOTED_UNDER: {"session": session_id, "folder": cwd}},
        )
        missing = bool(wanted) and servers is None
        self._sessions[session_id] = _EditorSession(chat, servers, NO_SERVERS if missing else "")

    def _connect(self, servers: Sequence[Any], folder: str) -> ConnectedServers | None:
        """Connect the MCP servers of the editor, for one session; None where nothing can."""
        service = as_service(self._plugins.service("tool_servers"), ToolServers)
        if not servers or service is None:
            return None
        return service.connect(acp_messages.server_entries(servers, folder), (Path(folder),))

    async def prompt(self, session_id: str, prompt: list[Any], **_: Any) -> PromptResponse:
        """Answer a message; the reply is sent in pieces."""
        from acp import PromptResponse

        session = self._session(session_id)
        if session.busy:
            raise _invalid("a reply is being written in this session")
        session.busy = True
        session.cancelled.clear()
        loop = asyncio.get_running_loop()
        reply = _Reply(self, session_id, session, loop)
        try:
            reason = await asyncio.to_thread(reply.run, prompt)
        except ChatlmError as error:
            raise _failed(error) from error
        except Exception:
            log.exception("the reply for the editor failed")  # the SDK tells the editor so
            raise
        finally:
            session.busy = False
        return PromptResponse(stop_reason=acp_messages.ending(reason))

    async def cancel(self, session_id: str, **_: Any) -> None:
        """Stop the reply of a session."""
        if session_id in self._sessions:
            self._sessions[session_id].cancelled.set()

    # --- for replies ------------------------------------------------------------------------

    @property
    def client(self) -> Client:
        """The editor's side of the connection."""
        assert self._client is not None  # noqa: S101  the SDK sets it before any request
        return self._client

    @property
    def plugins(self) -> PluginHost:
        """The plugins."""
        return self._plugins

    @property
    def engine_lock(self) -> Lock:
        """Held while a reply is generated."""
        return self._engine_lock

    def _session(self, session_id: str) -> _EditorSession:
        if session_id not in self._sessions:
            raise _invalid("there is no such session")
        return self._sessions[session_id]

    def _load_engine(self) -> Engine:
        if self._engine is None:
            self._engine = load_engine(self._settings, self._plugins)
        return self._engine


class _Reply:
    """One reply, whose events become updates for the editor.

    Args:
        agent: has the connection.
        session_id: as the editor knows it.
        session: the session.
        loop: the event loop of the connection.
    """

    def __init__(
        self,
        agent: EditorAgent,
        session_id: str,
        session: _EditorSession,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._agent = agent
        self._session_id = session_id
        self._session = session
        self._loop = loop
        self._announced: set[str] = set()
        """Ids of the calls that the editor knows."""
        self._said: dict[str, str] = {}
        """What each running call said last."""

    def run(self, prompt: list[Any]) -> StopReason | None:
        """Generate the reply, in a thread.

        Returns:
            why it ended; None if it was cancelled before it began.

        Raises:
            ChatlmError: the message cannot be read, or the reply failed.
        """
        text, images = acp_messages.read_prompt(prompt, AttachmentReader(self._agent.plugins))
        reason: StopReason | None = None
        with self._its_turn() as begins:
            if not begins:
                return None
            with closing(self._session.chat.send(text, images)) as events:
                for event in events:
                    if self._session.cancelled.is_set():
                        return StopReason.CANCELLED
                    if isinstance(event, Finished):
                        reason = event.stop_reason
                    self._pass_on(event)
                    if isinstance(event, ReplyStarted):  # so all that is there has been listed
                        self._tell_problems()
        turns = self._session.chat.conversation.turns if self._session.chat.conversation else ()
        reply = turns[-1].reply if turns else None
        return reply.stop_reason if reply and reply.stop_reason else reason

    @contextmanager
    def _its_turn(self) -> Iterator[bool]:
        """Wait until the model is free; yields False if the user cancels meanwhile."""
        while not self._agent.engine_lock.acquire(timeout=0.1):
            if self._session.cancelled.is_set():
                yield False
                return
        try:
            yield not self._session.cancelled.is_set()
        finally:
            self._agent.engine_lock.release()

    def _tell_problems(self) -> None:
        """Say once what is wrong with the editor's MCP servers."""
        from acp import update_agent_thought_text

        session = self._session
        found = session.servers.problems() if session.servers is not None else ()
        for problem in filter(None, (session.remark, *found)):
            if problem not in session.told:
                session.told.append(problem)
                self._update(update_agent_thought_text(f"[{problem}]\n"))

    def _pass_on(self, event: SessionEvent) -> None:
        from acp import update_agent_message_text, update_agent_thought_text, update_tool_call

        match event:
            case Delta(text=text, part="text") if text:
                self._update(update_agent_message_text(text))
            case Delta(text=text, part="reasoning") if text:
                self._update(update_agent_thought_text(text))
            case Notice(text=text):
                self._update(update_agent_thought_text(f"[{text}]\n"))
            case ApprovalNeeded():
                title, kind = acp_messages.call_title(event), acp_messages.call_kind(event)
                self._announce(event.call.id, title, dict(event.arguments), kind)
                event.answer = self._ask(event)
            case ToolQuestion():
                event.answer = self._ask_for_tool(event)
            case ToolStarted(call=call):
                self._announce(call.id, call.name, acp_messages.call_arguments(call))
                self._update(update_tool_call(call.id, status="in_progress"))
            case ToolProgress(call=call, text=text):
                if text and self._said.get(call.id) != text:
                    self._said[call.id] = text
                    self._show(call.id, "in_progress", text)
            case ToolFinished(call=call, result=result):
                self._announce(call.id, call.name, acp_messages.call_arguments(call))
                status = "failed" if result.is_error else "completed"
                self._show(call.id, status, acp_messages.result_text(result))

    def _announce(self, call_id: str, title: str, arguments: Any, kind: ToolKind = "other") -> None:
        from acp import start_tool_call

        if call_id not in self._announced:
            self._announced.add(call_id)
            self._update(
                start_tool_call(call_id, title, kind=kind, status="pending", raw_input=arguments)
            )

    def _show(self, call_id: str, status: Any, text: str) -> None:
        from acp import text_block, tool_content, update_tool_call

        content = [tool_content(text_block(text))] if text else None
        self._update(update_tool_call(call_id, status=status, content=content))

    def _ask(self, event: ApprovalNeeded) -> Approval | None:
        """Let the editor ask its user; None if nobody answered."""
        chosen = self._choose(
            acp_messages.call_to_approve(event), acp_messages.approval_options(event)
        )
        if chosen in (acp_messages.ALLOW_ONCE, acp_messages.ALLOW_IN_CHAT):
            return Approval(True, for_chat=chosen == acp_messages.ALLOW_IN_CHAT)
        return Approval(False) if chosen == acp_messages.REJECT else None

    def _ask_for_tool(self, event: ToolQuestion) -> str | None:
        """Ask a question with choices; the protocol has no other."""
        from acp import text_block, tool_content
        from acp.schema import PermissionOption, ToolCallUpdate

        if not event.choices:
            return None
        options = [
            PermissionOption(option_id=str(at), name=choice, kind="allow_once")
            for at, choice in enumerate(event.choices)
        ]
        call = ToolCallUpdate(
            tool_call_id=event.call.id,
            title=event.call.name,
            content=[tool_content(text_block(event.question))],
        )
        chosen = self._choose(call, options)
        valid = chosen.isdecimal() and int(chosen) < len(event.choices)
        return event.choices[int(chosen)] if valid else None

    def _choose(self, call: ToolCallUpdate, options: list[PermissionOption]) -> str:
        """Return the id of the option that the user chose; empty for none."""
        from acp import RequestError

        try:
            answer = self._wait_for(
                self._agent.client.request_permission(
                    session_id=self._session_id, tool_call=call, options=options
                )
            )
        except (RequestError, ConnectionError) as error:
            log.warning("the editor did not ask: %s", error)
            return ""
        return str(getattr(answer.outcome, "option_id", "")) if answer is not None else ""

    def _update(self, update: Any) -> None:
        self._wait_for(
            self._agent.client.session_update(session_id=self._session_id, update=update)
        )

    def _wait_for(self, request: Coroutine[Any, Any, T]) -> T | None:
        """Run a request in the event loop; None if the user cancels meanwhile."""
        future = asyncio.run_coroutine_threadsafe(request, self._loop)
        while True:
            if wait([future], 0.1).done:
                return future.result()
            if self._session.cancelled.is_set():
                future.cancel()
                return None


def serve_editor(agent: EditorAgent) -> None:
    """Talk to the editor over standard input and output, until it closes its end."""
    import acp

    async def serve() -> None:
        with _private_output():
            reader, writer = await acp.stdio_streams(limit=50 * 2**20)
        methods: Any = agent  # the SDK looks up by name what an agent has
        try:
            # closing and resuming a session are not in the SDK's stable part yet
            await acp.run_agent(methods, writer, reader, use_unstable_protocol=True)
        finally:
            agent.stop()  # the end of the event loop waits for the threads

    asyncio.run(serve())


@contextmanager
def _private_output() -> Iterator[None]:
    """Let the SDK take standard output; all else that is printed goes to standard error then.

    A library that prints would break the protocol.
    """
    sys.stdout.flush()
    private = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    printed, sys.stdout = sys.stdout, private
    try:
        yield
    finally:
        sys.stdout = printed


def _invalid(reason: str) -> Exception:
    from acp import RequestError

    return RequestError.invalid_params({"reason": reason})


def _failed(error: ChatlmError) -> Exception:
    from acp import RequestError

    return RequestError(-32603, error.message, {"hint": error.hint})
