"""Hooks of the user's own see micro-batches; those of packages are theirs."""

import pytest
import torch
from torch import nn

from accum_magic.engine.probe import probe

X, Y = torch.randn(7, 3), torch.tensor([0, 1, 2, 3, 0, 1, 2])


def reasons(model, loss=nn.functional.cross_entropy):
    def forward(n):
        value = loss(model(X[:n]), Y[:n])
        return (value,), (value,)

    return probe(forward, 2).reasons


def net():
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4))


def ignore(*_):
    return None


def on_parameters(model):
    for parameter in model.parameters():
        parameter.register_hook(lambda gradient: gradient.clamp(-0.1, 0.1))


@pytest.mark.parametrize(
    ("hang", "what"),
    [
        (on_parameters, "the gradient hook on a parameter (`0.weight` and 3 more)"),
        (lambda m: m[2].bias.register_post_accumulate_grad_hook(ignore), "the gradient hook on a parameter (`2.bias`)"),
        (lambda m: m[1].register_forward_hook(ignore), "the forward hook on a module (`1`)"),
        (lambda m: m.register_forward_hook(ignore), "the forward hook on a module (`Sequential`)"),
        (lambda m: m[1].register_forward_pre_hook(ignore), "the forward hook on a module (`1`)"),
        (lambda m: m[2].register_full_backward_hook(ignore), "the gradient hook on a module (`2`)"),
    ],
)
def test_a_hook_is_named(hang, what):
    model = net()
    hang(model)
    assert reasons(model) == (f"{what} sees one micro-batch at a time",)


def test_a_hook_on_a_value_of_the_step_is_told():
    def loss(out, y):
        out.register_hook(ignore)
        return nn.functional.cross_entropy(out, y)

    assert reasons(net(), loss) == ("the gradient hook on a value of the step sees one micro-batch at a time",)


@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm])
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_hooks_of_packages_are_left_out(norm):
    model = net()
    norm(model[0])
    assert reasons(model) == ()
