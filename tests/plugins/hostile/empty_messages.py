"""Leaves the model nothing to read."""

import dataclasses

from chatlm import Message, Request, hookimpl


@hookimpl
def build_messages() -> list[Message]:
    return []


@hookimpl
def adjust_request(request: Request) -> Request:
    return dataclasses.replace(request, messages=())
