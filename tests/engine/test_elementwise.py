"""The compiled steps of a prompt's forward pass against the same in torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from chatlm.engines.native import elementwise as module
from chatlm.engines.native import norms, products, rope
from chatlm.engines.native.elementwise import elementwise
from chatlm.engines.native.rope import RopeConfig, Rotation

DTYPES = (torch.float32, torch.bfloat16)


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def both(monkeypatch: pytest.MonkeyPatch, compute: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """Compute with the compiled functions, and as on a machine without a compiler."""
    assert elementwise(torch.zeros(1)), "the tests need a C compiler"
    compiled = compute()
    with monkeypatch.context() as patched:
        patched.setattr(module, "_compiled", lambda: None)
        return compiled, compute()


def assert_close(pair: tuple[Tensor, Tensor], dtype: torch.dtype | None = None) -> None:
    """Compare, with the precision of their dtype or of one that torch rounds to on the way."""
    made, expected = pair
    assert made.dtype is expected.dtype
    assert made.shape == expected.shape
    tolerance = 2e-6 if (dtype or made.dtype) is torch.float32 else 0.02
    torch.testing.assert_close(made, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("size", [1, 16, 63, 64, 200])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weight_dtype", DTYPES)
def test_norms(
    monkeypatch: pytest.MonkeyPatch, size: int, dtype: torch.dtype, weight_dtype: torch.dtype
) -> None:
    x = torch.randn(5, size, generator=torch.Generator().manual_seed(1))
    weight = torch.linspace(0.5, 2, size).to(weight_dtype)
    coarser = min(dtype, weight_dtype, key=lambda each: each.itemsize)
    assert_close(both(monkeypatch, lambda: norms.rms_norm(x, weight, 1e-5, dtype)), coarser)
    strided = torch.randn(4, 3, size).to(dtype).transpose(0, 1)
    assert_close(both(monkeypatch, lambda: norms.rms_norm(strided, weight, 1e-5, dtype)), coarser)


@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_gates(
    monkeypatch: pytest.MonkeyPatch, activation: products.Activation, dtype: torch.dtype
) -> None:
    values = torch.linspace(-100, 100, 3 * 77).view(3, 77).to(dtype)
    up = torch.randn(3, 77, generator=torch.Generator().manual_seed(2)).to(dtype)
    assert_close(both(monkeypatch, lambda: products.apply_gate(activation, values, up)))


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("rotary_dim", [24, 10])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rope(
    monkeypatch: pytest.MonkeyPatch, interleaved: bool, rotary_dim: int, dtype: torch.dtype
) -> None:
    config = RopeConfig(tuple(0.1 * n for n in range(rotary_dim // 2)), interleaved=interleaved)
    angles = torch.arange(7)[:, None] * torch.tensor(config.inv_freq)
    rows = torch.cat((angles.cos(), angles.sin()), dim=-1).to(dtype)
    rotation = Rotation.from_rows(config, rows)
    x = torch.randn(7, 3, 24, generator=torch.Generator().manual_seed(3)).to(dtype).transpose(0, 1)
    assert_close(both(monkeypatch, lambda: rope.apply_rope(x, rotation)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_residual_grows_in_place(dtype: torch.dtype) -> None:
    residual, x = torch.ones(3, 70), torch.full((3, 70), 0.25, dtype=dtype)
    compiled = elementwise(residual, x)
    assert compiled
    compiled.add_to_residual(residual, x, 2.0)
    assert torch.equal(residual, torch.full((3, 70), 1.5))
    with pytest.raises(ValueError, match="contiguous"):
        compiled.add_to_residual(torch.ones(70, 3).T, x, 1.0)
