"""A plugin's logits processor or stopping criterion cannot fail a reply."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from chatlm.plugin_host.hookspecs import hookimpl
from chatlm.plugin_host.host import MAX_FAILURES, PluginHost
from chatlm.plugin_host.turn_plugins import TurnPlugins
from chatlm.types.messages import Message
from chatlm.types.requests import Request

IDS = torch.tensor([[1, 2, 3]])
SCORES = torch.tensor([[0.5, 2.0, -1.0]])


class Nothing:
    @hookimpl
    def turn_finished(self) -> None: ...


def guarded(
    host: PluginHost,
    *,
    processor: Callable[..., Any] | None = None,
    criterion: Callable[..., Any] | None = None,
) -> tuple[TurnPlugins, Callable[[], Any]]:
    """Return a turn's plugins, and a function that calls what the plugin `adds` added."""
    turn = TurnPlugins(host)
    request = Request((Message("user", "Hi"),))
    if processor is not None:
        request = dataclasses.replace(request, logits_processors=(processor,))
    if criterion is not None:
        request = dataclasses.replace(request, stopping_criteria=(criterion,))
    request = turn.guard("adds", request)
    added: list[Callable[..., Any]] = [*request.logits_processors, *request.stopping_criteria]
    return turn, lambda: added[0](IDS, SCORES)


def raises(ids: Tensor, scores: Tensor) -> Tensor:
    scores[:] = float("nan")
    raise LookupError("lost")


def exits(ids: Tensor, scores: Tensor) -> Tensor:
    raise SystemExit(3)


BROKEN_PROCESSORS: list[tuple[Callable[..., Any], str]] = [
    (raises, "LookupError: lost"),
    (exits, "SystemExit: 3"),
    (lambda ids, scores: None, "returned NoneType, not a tensor"),
    (lambda ids, scores: scores.tolist(), "returned list, not a tensor"),
    (lambda ids, scores: scores[0], r"of shape (3,), not (1, 3)"),
    (lambda ids, scores: scores[:, :2], r"of shape (1, 2), not (1, 3)"),
    (lambda ids, scores: scores.long(), "scores of torch.int64"),
    (lambda ids, scores: scores.to("meta"), "on meta"),
    (lambda ids, scores: scores * float("nan"), "masked all tokens (-inf)"),
    (lambda ids, scores: scores.fill_(-torch.inf), "masked all tokens (-inf)"),
    (lambda ids, scores: scores.fill_(torch.inf), "masked all tokens (-inf)"),
]


@pytest.mark.parametrize(("processor", "said"), BROKEN_PROCESSORS)
def test_a_broken_processor_is_a_fault_and_is_left_out_for_the_rest_of_the_reply(
    processor: Callable[..., Any], said: str
) -> None:
    host = PluginHost([("adds", Nothing())])
    before = SCORES.clone()
    turn, call = guarded(host, processor=processor)
    for _ in range(5):
        assert call() is SCORES
    assert torch.equal(SCORES, before)
    (fault,) = host.take_faults()
    assert (fault.plugin, fault.hook) == ("adds", "a logits processor")
    assert said in fault.error
    (record,) = turn.take_calls()
    assert said in record.error
    assert record.result_summary.endswith(", 1 token")


@pytest.mark.parametrize(
    "criterion",
    [
        lambda ids, scores: None,
        lambda ids, scores: "stop",
        lambda ids, scores: torch.tensor([True, False]),
        lambda ids, scores: [True],
        exits,
    ],
)
def test_a_broken_criterion_stops_nothing(criterion: Callable[..., Any]) -> None:
    host = PluginHost([("adds", Nothing())])
    _, call = guarded(host, criterion=criterion)
    assert call() is False
    assert call() is False
    (fault,) = host.take_faults()
    assert fault.hook == "a stopping criterion"


@pytest.mark.parametrize("stop", [True, torch.tensor([True]), torch.tensor(True)])
def test_a_working_criterion_stops_the_reply(stop: Any) -> None:
    host = PluginHost([("adds", Nothing())])
    _, call = guarded(host, criterion=lambda ids, scores: stop)
    assert call() is True
    assert host.all_faults == []


def test_a_working_processor_is_applied_and_traced_as_one_call() -> None:
    def ban(ids: Tensor, scores: Tensor) -> Tensor:
        scores[:, 1] = -torch.inf
        return scores

    host = PluginHost([("adds", Nothing())])
    turn, call = guarded(host, processor=ban)
    for _ in range(1200):
        assert call().tolist() == [[0.5, -torch.inf, -1.0]]
    assert SCORES[0, 1] == 2.0
    (record,) = turn.take_calls()
    assert (record.plugin, record.hook, record.result_summary) == (
        "adds",
        "a logits processor",
        "ban, 1,200 tokens",
    )
    assert host.succeeded_calls == {("adds", "a logits processor")}
    assert turn.take_calls() == ()


def test_scores_that_the_model_broke_are_not_the_processors_fault() -> None:
    host = PluginHost([("adds", Nothing())])
    broken = SCORES * float("nan")
    request = Request((), logits_processors=(lambda ids, scores: scores,))
    (added,) = TurnPlugins(host).guard("adds", request).logits_processors
    added(IDS, broken)
    assert host.all_faults == []


def test_one_reply_after_the_other_that_fails_leaves_the_plugin_out() -> None:
    host = PluginHost([("adds", Nothing())])
    for number in range(MAX_FAILURES):
        assert host.is_dropped("adds") is False, number
        turn, call = guarded(host, processor=raises)
        call()
        turn.take_calls()
    assert host.is_dropped("adds")


def test_a_slow_processor_is_reported_when_the_reply_has_ended() -> None:
    host = PluginHost([("adds", Nothing())], slow_after=0.0)
    turn, call = guarded(host, processor=lambda ids, scores: scores)
    call()
    assert host.take_faults() == []
    turn.take_calls()
    (fault,) = host.take_faults()
    assert "it took" in fault.error


def test_a_guarded_processor_is_not_guarded_twice() -> None:
    turn = TurnPlugins(PluginHost())
    once = turn.guard("a", Request((), logits_processors=(raises,), stopping_criteria=(exits,)))
    assert turn.guard("b", once) == once
