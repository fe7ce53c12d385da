"""The page at `/`: the models in memory, their queues, the memory and the newest errors."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from functools import partial
from html import escape

import psutil
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

import chatlm
from chatlm import human_bytes
from chatlm_serve.http_guard import STATUS_PATH
from chatlm_serve.model_pool import ServedModel
from chatlm_serve.reply_service import ReplyService

REFRESH_SECONDS = 5

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="{seconds}">
<title>chatlm serve</title>
<link rel="icon" href="data:,">
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto;
       padding: 0 1rem; }}
h1 {{ font-size: 1.4rem; }} h2 {{ font-size: 1.1rem; margin-top: 2rem; }}
table {{ border-collapse: collapse; width: 100%; }}
th, td {{ text-align: left; padding: .3rem .8rem .3rem 0; vertical-align: top;
         border-bottom: 1px solid color-mix(in srgb, currentColor 20%, transparent); }}
td {{ overflow-wrap: anywhere; }}
.scroll {{ overflow-x: auto; }}
</style>
</head>
<body>
<h1>chatlm serve {version}</h1>
<p>{memory}</p>
<h2>Models in memory</h2>
{models}
<h2>Newest errors</h2>
{errors}
</body>
</html>
"""


def routes(service: ReplyService) -> list[Route]:
    """Return the page."""
    return [Route(STATUS_PATH, partial(_show, service))]


async def _show(service: ReplyService, request: Request) -> Response:
    return HTMLResponse(render_page(service), headers=_HEADERS)


def render_page(service: ReplyService) -> str:
    """Return the page as HTML; it loads nothing, and renews itself."""
    rows = [_model_row(model) for model in service.pool.models]
    rows += [(name, "is being loaded", "", "", "", "") for name in service.pool.loading]
    errors = [
        (time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(each.time)), str(each.status),
         each.path, each.message)
        for each in reversed(service.journal.newest)
    ]  # fmt: skip
    return _PAGE.format(
        seconds=REFRESH_SECONDS,
        version=escape(chatlm.__version__),
        memory=escape(_describe_memory()),
        models=_table(
            ("model", "answering", "waiting", "context", "memory, at most", "kept"),
            rows,
            "None. A request loads the one that it names.",
        ),
        errors=_table(("time", "status", "path", "error"), errors, "None since the start."),
    )


def _model_row(model: ServedModel) -> tuple[str, ...]:
    running, waiting = model.queue.load
    size = human_bytes(model.bytes) if model.bytes else "unknown"
    kept = "always, unless its memory is needed"
    if not math.isinf(model.keep_seconds):
        kept = f"{model.expires_in:,.0f} s" if model.is_idle else "in use"
    context = f"{model.info.context_length:,} tokens"
    return model.name, str(running), str(waiting), context, f"{size}, {model.info.device}", kept


def _describe_memory() -> str:
    machine = psutil.virtual_memory()
    own = psutil.Process().memory_info().rss
    return (
        f"This server uses {human_bytes(own)} of memory. Of the machine's "
        f"{human_bytes(machine.total)}, {human_bytes(machine.available)} are available."
    )


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], empty: str) -> str:
    body = "\n".join(f"<tr>{_cells('td', row)}</tr>" for row in rows)
    if not body:
        return f"<p>{escape(empty)}</p>"
    return f'<div class="scroll"><table>\n<tr>{_cells("th", heads)}</tr>\n{body}\n</table></div>'


def _cells(tag: str, texts: Sequence[str]) -> str:
    return "".join(f"<{tag}>{escape(text)}</{tag}>" for text in texts)
