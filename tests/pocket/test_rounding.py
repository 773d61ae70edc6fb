"""Training for INT4: inside, the decoder's matrices are what an export makes of them; outside nothing has happened."""

# ruff: noqa: E402 - what needs torch is imported after the check that it is there

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is missing: make parity")
pytest.importorskip("transformers", reason="transformers is missing: make parity")

from edge_export.quantize import dequantize, quantize
from pocket.train.beginning import fresh_parts
from pocket.train.rounding import BITS, BLOCK, Rounding

pytestmark = pytest.mark.parity


def test_matrices_are_rounded_inside_and_exact_outside() -> None:
    model = fresh_parts().model
    rounding = Rounding(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with rounding.applied():
        inside = {name: value.clone() for name, value in model.state_dict().items()}
    changed = {name for name, value in inside.items() if not torch.equal(value, before[name])}
    assert len(changed) == 6 * 7
    for name in changed:
        assert ".language_model.layers." in name
        exact = before[name].numpy()
        blocks, _ = quantize(exact, BITS, BLOCK, half_scales=True)
        torch.testing.assert_close(inside[name], torch.from_numpy(dequantize(blocks, BITS, exact.shape[1])))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_gradients_are_those_at_the_rounded_weights() -> None:
    model = fresh_parts().model
    weight = model.model.language_model.layers[0].mlp.up_proj.weight
    with Rounding(model).applied():
        rounded = weight.detach().clone()
        weight.square().sum().backward()
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, 2 * rounded)


def test_exact_weights_come_back_when_training_is_interrupted() -> None:
    model = fresh_parts().model
    before = model.model.language_model.layers[0].mlp.up_proj.weight.clone()
    with pytest.raises(KeyboardInterrupt), Rounding(model).applied():
        raise KeyboardInterrupt
    assert torch.equal(model.model.language_model.layers[0].mlp.up_proj.weight, before)
