"""Sampling arithmetic against numbers worked out by hand, among them the book's (5.4)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chatlm.engines import samplers
from chatlm.engines.native.token_choice import token_chooser
from chatlm.engines.samplers import (
    SMALL_NUCLEUS,
    RepetitionTracker,
    Sampler,
    apply_dry,
    apply_logit_bias,
    apply_penalties,
    apply_temperature,
    exclude_top_choices,
    min_p,
    sample_token,
    token_biases,
    top_k,
    top_n_sigma,
    top_p,
)
from chatlm.errors import UsageError
from chatlm.types.sampling import LogitBias, Sampling, format_logit_bias, parse_logit_bias

BOOK = torch.tensor([4.0, 2.0, 0.0])
INF = float("inf")


@pytest.mark.parametrize(
    ("temperature", "probabilities"),
    [(0.5, [0.982, 0.018, 0.000]), (1.0, [0.867, 0.117, 0.016]), (2.0, [0.665, 0.245, 0.090])],
)
def test_temperature_as_in_the_textbook(temperature: float, probabilities: list[float]) -> None:
    got = torch.softmax(apply_temperature(BOOK, temperature), dim=-1)
    assert got.tolist() == pytest.approx(probabilities, abs=0.0006)


def test_temperature_must_be_positive() -> None:
    with pytest.raises(ValueError, match="above 0"):
        apply_temperature(BOOK, 0.0)


def test_frequency_and_presence_penalties() -> None:
    made = torch.tensor([3.0, 1.0, 0.0])
    got = apply_penalties(
        BOOK, made, made > 0, frequency_penalty=0.5, presence_penalty=0.25, repetition_penalty=1.0
    )
    assert got.tolist() == [4 - 3 * 0.5 - 0.25, 2 - 0.5 - 0.25, 0.0]


def test_repetition_penalty_lowers_positive_and_negative_logits() -> None:
    logits = torch.tensor([2.0, -2.0, 2.0])
    seen = torch.tensor([True, True, False])
    got = apply_penalties(
        logits,
        torch.zeros(3),
        seen,
        frequency_penalty=0,
        presence_penalty=0,
        repetition_penalty=2.0,
    )
    assert got.tolist() == [1.0, -4.0, 2.0]


def test_top_k() -> None:
    assert top_k(BOOK, 2).tolist() == [4.0, 2.0, -INF]
    assert top_k(BOOK, 0).tolist() == BOOK.tolist()
    assert top_k(BOOK, 99).tolist() == BOOK.tolist()


def test_top_p_keeps_the_fewest_that_reach_it() -> None:
    logits = torch.log(torch.tensor([0.5, 0.3, 0.2]))
    kept = [torch.isfinite(top_p(logits, p)).tolist() for p in (0.0, 0.5, 0.6, 0.9, 1.0)]
    assert kept == [
        [True, False, False],
        [True, False, False],
        [True, True, False],
        [True, True, True],
        [True, True, True],
    ]


@pytest.mark.parametrize("peak", [0.0, 8.0])
def test_top_p_keeps_the_same_whether_few_tokens_reach_it_or_many(peak: float) -> None:
    logits = torch.randn(3000, generator=torch.Generator().manual_seed(3))
    logits[:9] += peak
    ordered, order = torch.sort(torch.softmax(logits, dim=-1), descending=True)
    wanted = order[torch.cumsum(ordered, dim=-1) - ordered < 0.9]
    kept = torch.isfinite(top_p(logits, 0.9))
    assert (len(wanted) > SMALL_NUCLEUS) == (peak == 0.0)
    assert sorted(wanted.tolist()) == kept.nonzero()[:, 0].tolist()
    assert torch.equal(top_p(logits, 0.9)[kept], logits[kept])


def test_min_p_is_relative_to_the_likeliest() -> None:
    logits = torch.log(torch.tensor([0.5, 0.3, 0.2]))
    assert torch.isfinite(min_p(logits, 0.5)).tolist() == [True, True, False]
    assert torch.isfinite(min_p(logits, 0.0)).tolist() == [True, True, True]


def sampler(prompt: list[int] | None = None, **settings: Any) -> Sampler:
    sampling = Sampling.from_dict(settings).with_fallback(Sampling(dry_base=1.75))
    return Sampler(
        sampling,
        torch.tensor(prompt or [], dtype=torch.long),
        3,
        torch.device("cpu"),
        lambda token: b"ab\n"[token : token + 1],
        lambda text: ["ab\n".index(character) for character in text],
    )


def test_zero_temperature_is_greedy() -> None:
    assert [sampler(temperature=0.0)(BOOK) for _ in range(5)] == [0] * 5


def test_a_seed_repeats_and_another_differs() -> None:
    def draws(seed: int) -> list[int]:
        chosen = sampler(temperature=2.0, seed=seed)
        return [chosen(BOOK) for _ in range(60)]

    assert draws(1) == draws(1)
    assert draws(1) != draws(2)


def test_draws_follow_the_probabilities() -> None:
    chosen = sampler(temperature=1.0, seed=11)
    share = sum(chosen(BOOK) == 0 for _ in range(4000)) / 4000
    assert share == pytest.approx(math.exp(4) / (math.exp(4) + math.exp(2) + 1), abs=0.02)


def test_impossible_tokens_are_never_drawn() -> None:
    probabilities = torch.tensor([0.0, 0.25, 0.0, 0.75, 0.0])
    random = torch.Generator().manual_seed(3)
    counts = [0] * 5
    for _ in range(2000):
        counts[sample_token(probabilities, random)] += 1
    assert counts[0] == counts[2] == counts[4] == 0
    assert counts[1] / 2000 == pytest.approx(0.25, abs=0.03)


def test_impossible_distributions_are_an_error() -> None:
    with pytest.raises(ValueError, match="all tokens are masked"):
        sampler(temperature=1.0)(torch.full((3,), float("-inf")))


def test_penalties_count_the_reply_and_repetition_the_prompt_too() -> None:
    chosen = sampler(temperature=0.0, presence_penalty=2.0, frequency_penalty=1.0)
    assert [chosen(BOOK) for _ in range(3)] == [0, 1, 0]
    assert sampler([0], temperature=0.0, repetition_penalty=4.0)(BOOK) == 1
    assert sampler([0], temperature=0.0, frequency_penalty=2.0)(BOOK) == 0


finite = st.floats(-30, 30, allow_nan=False, width=32)


@given(st.lists(finite, min_size=1, max_size=40), st.floats(0, 1), st.integers(0, 50))
def test_filters_always_leave_the_likeliest(values: list[float], p: float, k: int) -> None:
    logits = torch.tensor(values)
    likely = torch.softmax(logits, dim=-1)  # close logits may have equal probabilities
    filters = [(top_k(logits, k), logits), (top_p(logits, p), likely), (min_p(logits, p), likely)]
    for out, measure in filters:
        kept = torch.isfinite(out)
        assert measure[kept].max() == measure.max()
        assert torch.equal(out[kept], logits[kept])


def test_top_n_sigma_keeps_what_is_near_the_likeliest() -> None:
    # mean 2, standard deviation 1.633: the thresholds are 4 - 1.633 n
    assert top_n_sigma(BOOK, 1.0).tolist() == [4.0, -INF, -INF]
    assert top_n_sigma(BOOK, 1.3).tolist() == [4.0, 2.0, -INF]
    assert top_n_sigma(BOOK, 3.0).tolist() == BOOK.tolist()
    assert top_n_sigma(BOOK, 0.0) is BOOK


def test_top_n_sigma_ignores_tokens_that_are_ruled_out() -> None:
    logits = torch.tensor([4.0, 2.0, 0.0, -INF])
    assert top_n_sigma(logits, 1.3).tolist() == [4.0, 2.0, -INF, -INF]


def test_xtc_leaves_the_last_of_the_top_choices() -> None:
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))

    def left(threshold: float, probability: float = 1.0) -> list[int]:
        kept = exclude_top_choices(logits, probability, threshold, torch.Generator())
        return [index for index, value in enumerate(kept.tolist()) if value > -INF]

    assert left(0.1) == [2, 3]
    assert left(0.2) == [1, 3] or left(0.2) == [1, 2, 3]
    assert left(0.4) == [0, 1, 2, 3]  # a single top choice stays
    assert left(0.6) == [0, 1, 2, 3]
    assert left(0.1, probability=0.0) == [0, 1, 2, 3]


def test_xtc_happens_as_often_as_it_is_set() -> None:
    logits = torch.log(torch.tensor([0.5, 0.5]))
    generator = torch.Generator().manual_seed(3)
    changed = [
        bool(torch.isinf(exclude_top_choices(logits, 0.25, 0.1, generator)).any())
        for _ in range(2000)
    ]
    assert 0.2 < sum(changed) / len(changed) < 0.3


def repeated(text: str, allowed: int = 2) -> dict[str, int]:
    """Return the letters that would continue a repetition, with its length."""
    tracker = RepetitionTracker([ord(letter) for letter in text], lambda token: token == ord("\n"))
    return {chr(token): length for token, length in tracker.next_tokens(allowed).items()}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("abc", {}),
        ("abcab", {"c": 2}),
        ("abcdabc", {"d": 3}),
        ("abcxbcybc", {"x": 2, "y": 2}),
        ("aaaa", {"a": 3}),
        ("ab\nab", {}),
        ("xaby\nxab", {"y": 3}),
        ("xa\nbxa\nb", {}),
    ],
)
def test_repeated_sequences(text: str, expected: dict[str, int]) -> None:
    assert repeated(text) == expected


@given(st.text(st.sampled_from("ab\n"), max_size=30), st.integers(1, 4))
def test_repeated_sequences_are_those_found_by_hand(text: str, allowed: int) -> None:
    expected: dict[str, int] = {}
    for end in range(1, len(text)):
        length = 0
        while (
            length < end
            and text[end - 1 - length] == text[len(text) - 1 - length]
            and text[end - 1 - length] != "\n"
        ):
            length += 1
        if length >= allowed and text[end] != "\n":
            expected[text[end]] = max(expected.get(text[end], 0), length)
    assert repeated(text, allowed) == expected


def test_dry_grows_with_the_length() -> None:
    got = apply_dry(BOOK, {0: 2, 1: 4}, multiplier=0.5, base=2.0, allowed=2)
    assert got.tolist() == [4 - 0.5, 2 - 0.5 * 4, 0.0]
    assert apply_dry(BOOK, {0: 9}, multiplier=0.0, base=2.0, allowed=2) is BOOK


def test_the_sampler_stops_repeating_with_dry() -> None:
    logits = torch.tensor([4.0, 3.9, 0.0])
    plain = sampler(temperature=0.0)
    assert [plain(logits) for _ in range(6)] == [0] * 6
    dry = sampler(temperature=0.0, dry_multiplier=1.0)
    assert 1 in [dry(logits) for _ in range(6)]


def test_the_sampler_takes_another_path_with_xtc() -> None:
    logits = torch.log(torch.tensor([0.6, 0.3, 0.1]))
    drawn = sampler(temperature=1.0, seed=1, xtc_probability=1.0, xtc_threshold=0.2)
    assert 0 not in [drawn(logits) for _ in range(50)]


def test_a_logit_bias_is_added() -> None:
    biased = apply_logit_bias(BOOK, torch.tensor([1, 2]), torch.tensor([2.5, -100.0]))
    assert biased.tolist() == [4.0, 4.5, -100.0]
    assert BOOK.tolist() == [4.0, 2.0, 0.0]


def test_a_text_biases_each_of_its_tokens_and_biases_add_up() -> None:
    biases = ((7, 1.0), ("cat", -2.0), (99, 0.5))
    assert token_biases(biases, lambda text: [7, 8], 100) == {7: -1.0, 8: -2.0, 99: 0.5}
    with pytest.raises(UsageError, match="token id 99, but the ids of this model are 0 to 98"):
        token_biases(biases, lambda text: [7, 8], 99)


def test_the_sampler_applies_biases_before_everything_else() -> None:
    assert sampler(temperature=0.0, logit_bias=[[1, 2.5]])(BOOK) == 1
    assert sampler(temperature=0.0, logit_bias=[["a", -2.5]])(BOOK) == 1
    assert sampler(temperature=0.0, logit_bias=[["ab", -100]])(BOOK) == 2
    assert sampler(temperature=5.0, seed=1, top_k=1, logit_bias=[[2, 100]])(BOOK) == 2
    # 2 + 3 is positive, so the repetition penalty divides it: 2.5 is less than 4
    penalised = sampler([1], temperature=0.0, repetition_penalty=2.0, logit_bias=[[1, 3.0]])
    assert penalised(BOOK) == 0


@pytest.mark.parametrize(
    ("value", "biases"),
    [
        ([[15043, -100], [" cat", 5]], ((15043, -100), (" cat", 5))),
        ({"15043": -100, " cat": 5}, ((15043, -100), (" cat", 5))),
        ({15043: -100}, ((15043, -100),)),
        ({"12345678901": 5}, ((12345678901, 5),)),
        ([["15043", 1.5]], (("15043", 1.5),)),
        ([], ()),
        ({}, ()),
    ],
)
def test_the_forms_of_biases_in_files_and_requests(value: Any, biases: LogitBias) -> None:
    assert Sampling.from_dict({"logit_bias": value}).logit_bias == biases
    stored = Sampling(logit_bias=biases)
    assert Sampling.from_dict(stored.to_dict()) == stored


@pytest.mark.parametrize(
    "value",
    [
        *([[1, 100.5]], [[1, -101]], [[-1, 5]], [["", 5]], [[True, 5]], [[1, False]], [[1, "5"]]),
        *(
            [[1]],
            [[1, 2, 3]],
            [1, 2],
            "1=2",
            5,
            {"1": None},
            {"-1": 5},
            {"1": float("nan")},
            [[1.5, 1]],
        ),
    ],
)
def test_an_invalid_bias_is_refused_with_the_range(value: Any) -> None:
    with pytest.raises(
        UsageError, match=r"logit_bias must be pairs .* from -100 to 100"
    ) as refused:
        Sampling.from_dict({"logit_bias": value})
    assert "logit_bias: added to the logits" in refused.value.hint


@pytest.mark.parametrize(
    "biases",
    [((15043, -100.0),), ((" cat", 5.0), (3, 0.25)), (('"=, \\\n5', -1.5), ("15043", 1.0))],
)
def test_typed_biases_are_read_back(biases: LogitBias) -> None:
    assert parse_logit_bias(format_logit_bias(biases)) == biases


@pytest.mark.parametrize(
    "text",
    ["cat=5", "15043", "15043=", "15043=x", '"cat=5', "=5", "1=2 3=4", "1=5,,", "1=1e", "²=1"],
)
def test_biases_typed_in_another_way_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match='must be written as 15043=-100, " cat"=5') as refused:
        parse_logit_bias(text)
    assert "-100 to 100" in refused.value.hint


def test_a_typed_bias_out_of_range_names_the_range() -> None:
    with pytest.raises(UsageError, match="from -100 to 100, not"):
        parse_logit_bias("15043=-101")


CHOICES: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.9},
    {"temperature": 0.01},
    {"temperature": 0.9, "top_p": 0.95},
    {"temperature": 3.0, "top_p": 0.999},
    {"temperature": 1.0, "top_p": 0.0},
    {"temperature": 0.9, "top_k": 1},
    {"temperature": 0.9, "top_k": 40},
    {"temperature": 2.0, "top_k": 400, "top_p": 0.8},
    {"temperature": 1.5, "top_k": 5000, "top_p": 0.9},
    {"temperature": 1.2, "min_p": 0.05},
    {"temperature": 2.0, "top_k": 300, "top_p": 0.9, "min_p": 0.02},
    {"temperature": 2.0, "top_n_sigma": 1.5},
    {"temperature": 1.5, "top_n_sigma": 2.0, "top_k": 50, "top_p": 0.9},
    {"temperature": 1.5, "xtc_probability": 0.5, "xtc_threshold": 0.05},
    {
        "temperature": 1.5,
        "xtc_probability": 0.9,
        "xtc_threshold": 0.02,
        "top_p": 0.9,
        "min_p": 0.01,
    },
    {"temperature": 1.0, "frequency_penalty": 0.5, "repetition_penalty": 1.2, "top_p": 0.9},
    {"temperature": 1.0, "dry_multiplier": 0.8, "logit_bias": [[7, 5.0]]},
]


def wide_sampler(vocab_size: int, **settings: Any) -> Sampler:
    sampling = Sampling.from_dict(settings).with_fallback(Sampling(dry_base=1.75))
    return Sampler(
        sampling,
        torch.tensor([1, 2, 3]),
        vocab_size,
        torch.device("cpu"),
        lambda _: b"",
        lambda _: [],
    )


def both_ways(
    monkeypatch: pytest.MonkeyPatch, vocab_size: int, **settings: Any
) -> tuple[Sampler, Sampler]:
    """Return a sampler with the compiled functions, and one as on a machine without a compiler."""
    compiled = wide_sampler(vocab_size, **settings)
    with monkeypatch.context() as patched:
        patched.setattr(samplers, "token_chooser", lambda: None)
        return compiled, wide_sampler(vocab_size, **settings)


@pytest.mark.parametrize("settings", CHOICES, ids=str)
@pytest.mark.parametrize("vocab_size", [16, 1000, 5003])
def test_the_compiled_functions_choose_what_torch_chooses(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], vocab_size: int
) -> None:
    assert token_chooser(), "the tests need a C compiler"
    random = torch.Generator().manual_seed(9)
    compiled, plain = both_ways(monkeypatch, vocab_size, seed=6, **settings)
    for number in range(120):
        logits = torch.randn(vocab_size, generator=random) * (1 + number % 4)
        logits[number % vocab_size] += number % 8
        if number % 5 == 0:
            logits[::3] = -INF
        if number % 3 == 0 and "top_p" not in settings:  # which of equals top-p takes is open
            logits = (2 * logits).round() / 2
        assert compiled(logits) == plain(logits)


@pytest.mark.parametrize("settings", CHOICES, ids=str)
def test_logits_that_rule_everything_out_are_an_error(settings: dict[str, Any]) -> None:
    for logits in (torch.full((100,), -INF), torch.tensor([math.nan] + [1.0] * 99)):
        with pytest.raises(ValueError, match="all tokens are masked"):
            wide_sampler(100, seed=1, **settings)(logits)


@given(
    st.lists(st.floats(-1e4, 1e4, width=32) | st.just(-INF), min_size=3, max_size=200),
    st.sampled_from(CHOICES),
    st.integers(0, 1000),
)
def test_a_chosen_token_is_never_one_that_was_ruled_out(
    values: list[float], settings: dict[str, Any], seed: int
) -> None:
    logits = torch.tensor([*values, 0.0])
    token = wide_sampler(len(logits), **settings | {"seed": seed, "logit_bias": []})(logits)
    assert logits[token] > -INF
    if settings.get("top_k") == 1:
        assert logits[token] == logits.max()
