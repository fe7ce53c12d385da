"""The networks of the lab compute what the formulas say, in whatever parts a text is read."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from chatlm import UsageError
from chatlm_lab.decoder import (
    EPSILON,
    MLP,
    DecoderBlock,
    MultiHeadAttention,
    RMSNorm,
    apply_rope,
    build_decoder,
    causal_mask,
    rope_angles,
)
from chatlm_lab.llama import build_llama
from chatlm_lab.network import LanguageNetwork, generate
from chatlm_lab.network_architecture import DecoderArchitecture, RecurrentArchitecture
from chatlm_lab.network_model import NetworkPredictor
from chatlm_lab.network_recipe import DecoderRecipe, LlamaRecipe, RecurrentRecipe
from chatlm_lab.network_training import _batches, count_steps, learning_rate
from chatlm_lab.recurrent import (
    LAYERS,
    ElmanLayer,
    GruLayer,
    LstmLayer,
    MinLstmLayer,
    build_recurrent,
)

VOCABULARY, WIDTH = 11, 8

NETWORKS = [*LAYERS, "decoder", "llama"]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def build(architecture: str, window: int = 64) -> LanguageNetwork:
    if architecture == "decoder":
        network = build_decoder(VOCABULARY, WIDTH, 2, 2, window, 0.0)
    elif architecture == "llama":
        network = build_llama(VOCABULARY, WIDTH, 2, 2, 1, window, 0.0)
    else:
        network = build_recurrent(architecture, VOCABULARY, WIDTH, 2, 0.0)
    return network.eval()


def some_ids(rows: int, tokens: int) -> Tensor:
    return torch.randint(0, VOCABULARY, (rows, tokens))


@pytest.mark.parametrize(
    ("own", "theirs"),
    [
        (ElmanLayer(WIDTH), nn.RNN(WIDTH, WIDTH, batch_first=True)),
        (GruLayer(WIDTH), nn.GRU(WIDTH, WIDTH, batch_first=True)),
        (LstmLayer(WIDTH), nn.LSTM(WIDTH, WIDTH, batch_first=True)),
    ],
    ids=["Elman", "GRU", "LSTM"],
)
@torch.no_grad()
def test_recurrent_layers_compute_what_those_of_torch_do(own: nn.Module, theirs: nn.Module) -> None:
    learnt = dict(theirs.named_parameters())
    own.W.weight.copy_(learnt["weight_ih_l0"])  # type: ignore[union-attr, operator]
    own.U.weight.copy_(learnt["weight_hh_l0"])  # type: ignore[union-attr, operator]
    if isinstance(own, GruLayer):  # the bias of n's hidden part stands inside the product with r
        learnt["bias_hh_l0"][: 2 * WIDTH] = 0
        own.c.copy_(learnt["bias_hh_l0"][2 * WIDTH :])
        own.W.bias.copy_(learnt["bias_ih_l0"])
    else:
        own.W.bias.copy_(learnt["bias_ih_l0"] + learnt["bias_hh_l0"])  # type: ignore[union-attr, operator]
    x = torch.randn(3, 7, WIDTH)
    found, state = own(x, None)
    expected, last = theirs(x)
    torch.testing.assert_close(found, expected)
    for mine, other in zip(state, last if isinstance(last, tuple) else (last,), strict=True):
        torch.testing.assert_close(mine, other[0])


@torch.no_grad()
def test_minlstm_computes_its_recurrence() -> None:
    layer = MinLstmLayer(WIDTH)
    x = 3 * torch.randn(2, 40, WIDTH)
    found, _ = layer(x, None)
    h = torch.zeros(2, WIDTH)
    for time in range(40):
        f, i, g = layer.W(x[:, time]).chunk(3, -1)
        f, i = torch.sigmoid(f), torch.sigmoid(i)
        g = torch.where(g >= 0, g + 0.5, torch.sigmoid(g))
        h = f / (f + i) * h + i / (f + i) * g
        torch.testing.assert_close(found[:, time], h, rtol=1e-4, atol=1e-5)


def test_minlstm_has_finite_gradients() -> None:
    layer = MinLstmLayer(WIDTH)
    x = (10 * torch.randn(2, 30, WIDTH)).requires_grad_()
    layer(x, None)[0].sum().backward()
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())
    assert all(
        bool(each.grad.isfinite().all()) for each in layer.parameters() if each.grad is not None
    )


def test_rmsnorm_is_that_of_torch() -> None:
    x = torch.randn(3, 5, WIDTH)
    torch.testing.assert_close(RMSNorm(WIDTH)(x), nn.RMSNorm(WIDTH, eps=EPSILON)(x))


def test_rope_is_a_product_with_complex_numbers_and_depends_on_distances_only() -> None:
    x = torch.randn(6, WIDTH)
    turned = apply_rope(x, rope_angles(2, 6, WIDTH))
    for place in range(6):
        pairs = torch.view_as_complex(x[place].reshape(-1, 2).contiguous())
        for number, pair in enumerate(pairs.tolist()):
            angle = (2 + place) * 10_000 ** (-2 * number / WIDTH)
            expected = pair * complex(math.cos(angle), math.sin(angle))
            found = complex(*turned[place, 2 * number : 2 * number + 2].tolist())
            assert found == pytest.approx(expected, abs=1e-5)
    query, key = torch.randn(1, WIDTH), torch.randn(1, WIDTH)

    def product(first: int, second: int) -> float:
        q = apply_rope(query, rope_angles(first, 1, WIDTH))
        return float((q * apply_rope(key, rope_angles(second, 1, WIDTH))).sum())

    assert product(9, 4) == pytest.approx(product(5, 0), abs=1e-5)
    assert product(9, 4) != pytest.approx(product(9, 5), abs=1e-5)


def test_the_mask_hides_later_tokens_and_those_out_of_the_window() -> None:
    assert causal_mask(3, 5, 3).int().tolist() == [
        [1, 1, 1, 0, 0],
        [0, 1, 1, 1, 0],
        [0, 0, 1, 1, 1],
    ]


@torch.no_grad()
def test_attention_is_the_scaled_dot_product_of_torch() -> None:
    attention = MultiHeadAttention(WIDTH, 2, 64, 0.0)
    x = torch.randn(2, 9, WIDTH)
    angles = rope_angles(0, 9, WIDTH // 2)
    heads = []
    for head in range(2):
        own = slice(head * WIDTH // 2, (head + 1) * WIDTH // 2)
        q, k, v = (
            (x @ matrix.weight.T)[..., own]
            for matrix in (attention.W_Q, attention.W_K, attention.W_V)
        )
        heads.append(
            nn.functional.scaled_dot_product_attention(
                apply_rope(q, angles), apply_rope(k, angles), v, is_causal=True
            )
        )
    expected = torch.cat(heads, -1) @ attention.W_O.weight.T
    torch.testing.assert_close(attention(x, None)[0], expected)


@torch.no_grad()
def test_a_block_adds_to_what_passes_through_it() -> None:
    block = DecoderBlock(WIDTH, 2, 64, 0.0)
    x = torch.randn(1, 4, WIDTH)
    between = x + block.attention(block.norm_1(x), None)[0]
    normed, mlp = block.norm_2(between), block.mlp
    assert isinstance(mlp, MLP)
    hidden = torch.relu(normed @ mlp.W_1.weight.T + mlp.W_1.bias)
    expected = between + hidden @ mlp.W_2.weight.T + mlp.W_2.bias
    torch.testing.assert_close(block(x, None)[0], expected)


@pytest.mark.parametrize("window", [64, 5])
@pytest.mark.parametrize("architecture", NETWORKS)
@torch.no_grad()
def test_a_text_read_in_parts_gives_the_logits_of_one_read_at_once(
    architecture: str, window: int
) -> None:
    network = build(architecture, window)
    ids = some_ids(2, 23)
    whole, _ = network(ids)
    parts, state = [], ()
    for start, end in ((0, 9), (9, 10), (10, 11), (11, 23)):
        logits, state = network(ids[:, start:end], state)
        parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", NETWORKS)
@torch.no_grad()
def test_no_token_sees_a_later_one(architecture: str) -> None:
    network = build(architecture)
    ids = some_ids(1, 12)
    other = ids.clone()
    other[0, 8:] = (other[0, 8:] + 1) % VOCABULARY
    first, second = network(ids)[0][0], network(other)[0][0]
    torch.testing.assert_close(first[:8], second[:8])
    assert not torch.allclose(first[8:], second[8:])


@torch.no_grad()
def test_a_window_bounds_what_a_decoder_sees() -> None:
    network = build("decoder", window=3)  # two layers: a token reaches 2 · 2 tokens back
    ids = some_ids(1, 12)
    other = ids.clone()
    other[0, 0] = (other[0, 0] + 1) % VOCABULARY
    first, second = network(ids)[0][0], network(other)[0][0]
    assert not torch.allclose(first[4], second[4])
    torch.testing.assert_close(first[5:], second[5:])


def test_the_parameters_are_those_of_the_book() -> None:
    # its vocabulary has 32,011 tokens, its models two layers of 128 (sections 3.6 and 4.9)
    recurrent = RecurrentRecipe(width=128, layers=2)
    assert RecurrentArchitecture("rnn").count_parameters(recurrent, 32_011) == 8_292_619
    decoder = DecoderRecipe(width=128, layers=2, heads=8)
    attention, mlp, norms = 4 * 128 * 128, 2 * 128 * 512 + 512 + 128, 2 * 128
    blocks = 2 * (attention + mlp + norms)
    embedding, output, norm = 32_011 * 128, 32_011 * 128 + 32_011, 128
    counted = DecoderArchitecture("decoder").count_parameters(decoder, 32_011)
    assert counted == blocks + embedding + output + norm


def test_the_width_is_chosen_for_a_number_of_parameters() -> None:
    for architecture, recipe in (
        (RecurrentArchitecture("lstm"), RecurrentRecipe(params=300_000)),
        (DecoderArchitecture("decoder"), DecoderRecipe(params=300_000)),
    ):
        fitted = architecture.fit_width(recipe, 500)
        assert fitted.width % fitted.width_step == 0
        misses = [
            abs(
                architecture.count_parameters(dataclasses.replace(fitted, width=width), 500)
                - 300_000
            )
            for width in range(fitted.width_step, 513, fitted.width_step)
        ]
        assert misses[fitted.width // fitted.width_step - 1] == min(misses)
    with pytest.raises(UsageError, match="smallest model has"):
        RecurrentArchitecture("rnn").fit_width(RecurrentRecipe(params=1000), 5000)
    with pytest.raises(UsageError, match="largest model has") as refused:
        RecurrentArchitecture("rnn").fit_width(RecurrentRecipe(params=10**9), 500)
    assert "--layers" in (refused.value.hint or "")


@pytest.mark.parametrize("architecture", NETWORKS)
@torch.no_grad()
def test_a_text_is_predicted_in_windows_each_token_once(architecture: str) -> None:
    network = build(architecture)
    ids = some_ids(1, 30)[0]
    found = NetworkPredictor(network, 8).log_probabilities(ids.numpy().astype(np.uint32))
    assert len(found) == 30
    for place in range(1, 30):
        # a window starts at a multiple of half the context, the last one ends with the text
        starts = [0, *(start for start in (*range(4, 21, 4), 21) if start + 4 < place)]
        start = max(starts)
        logits = network(ids[None, start:place])[0][0, -1]
        assert found[place] == pytest.approx(float(logits.log_softmax(-1)[ids[place]]), abs=1e-4)
    short = NetworkPredictor(network, 64).log_probabilities(ids.numpy().astype(np.uint32))
    whole = network(ids[None, :-1])[0][0].log_softmax(-1)
    np.testing.assert_allclose(short[1:], whole[torch.arange(29), ids[1:]], rtol=1e-4, atol=1e-5)


def test_batches_hold_each_place_once_an_epoch_in_an_order_of_the_seed() -> None:
    recipe = RecurrentRecipe(context=5, batch_size=4, epochs=2)
    tokens = 5 * 16 + 4  # 15 sequences wherever the first one starts
    taken = [rows for _, rows in zip(range(15), _batches(tokens, recipe), strict=False)]
    assert all(rows.shape == (4, 5) for rows in taken)
    assert all(rows.max() + 1 < tokens and rows.min() >= 0 for rows in taken)
    rows = np.concatenate(taken)
    for epoch in range(4):
        places = np.sort(rows[15 * epoch : 15 * epoch + 15].ravel())
        assert (np.diff(places) == 1).all()
    again = [rows for _, rows in zip(range(15), _batches(tokens, recipe), strict=False)]
    np.testing.assert_array_equal(np.concatenate(again), rows)
    assert count_steps(tokens, recipe) == 8


def test_the_learning_rate_warms_up_and_falls_along_a_cosine() -> None:
    recipe = RecurrentRecipe(learning_rate=1.0, warmup=0.1)
    rates = [learning_rate(step, 100, recipe) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * step for step in range(1, 11)])
    assert rates[55] == pytest.approx(0.55)
    assert rates[-1] == pytest.approx(0.1, abs=1e-3)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_texts_are_generated_by_a_seed_and_leave_that_of_torch_alone() -> None:
    network = build("gru")
    before = torch.get_rng_state()
    texts = [generate(network, 30, seed) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert all(0 not in text and len(text) <= 30 for text in texts)
    torch.testing.assert_close(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": "huge"}, "--size must be"),
        ({"params": 10**6, "width": 64}, "--params chooses the width"),
        ({"width": 10, "heads": 4}, "--width must be a multiple of 8"),
        ({"window": 65}, "--window must be 1 to 64"),
        ({"dropout": 1.0}, "--dropout must be 0 to 0.9"),
        ({"epochs": float("nan")}, "--epochs must be"),
        ({"batch_size": 0}, "--batch-size must be 1"),
    ],
)
def test_settings_out_of_their_range_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        DecoderRecipe(**settings)  # type: ignore[arg-type]


def test_keys_and_values_have_half_of_the_heads_or_a_divisor_of_them() -> None:
    assert LlamaRecipe(heads=4).kv_heads == 2
    assert LlamaRecipe(heads=1).kv_heads == 1
    assert LlamaRecipe(heads=4, kv_heads=1).kv_heads == 1
    with pytest.raises(UsageError, match="--kv-heads must divide the 4 heads"):
        LlamaRecipe(heads=4, kv_heads=3)


def test_sizes_fill_what_is_not_given() -> None:
    recipe = DecoderRecipe(size="small", layers=3)
    assert (recipe.width, recipe.layers, recipe.heads, recipe.context) == (128, 3, 8, 128)
    assert recipe.window == 128
