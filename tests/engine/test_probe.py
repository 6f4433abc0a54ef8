"""What the probe claims about losses, beside what the gradients say."""

# ruff: noqa: ARG005  all losses of a table are called alike

import pytest
import torch
from engine_tools import TOTAL, step_of
from torch import nn
from torch.nn import functional as F  # noqa: N812  as users write it

torch.manual_seed(0)
DOUBLE = torch.float64
X = torch.randn(TOTAL, 4, dtype=DOUBLE)
T = torch.randn(TOTAL, 3, dtype=DOUBLE)
Y = torch.randint(0, 3, (TOTAL,))
HOLES = Y.clone()
HOLES[[1, 4, 8, 9]] = -100
CLASS_WEIGHT = torch.tensor([0.2, 1.0, 3.0], dtype=DOUBLE)
MASK = (torch.rand(TOTAL, 3) > 0.4).to(DOUBLE)
FULL_MASK = torch.ones(TOTAL, 3, dtype=DOUBLE)
FULL_MASK[6:, 1] = 0
MODEL = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def step(loss):
    return step_of(MODEL, X, loss)


def penalty():
    return 0.1 * sum(p.square().sum() for p in MODEL.parameters())


def accuracy_weighted(o, s):
    return F.mse_loss(o, T[s]) * (s.stop - s.start) / 2


def halves_of_a_pair(o, _):
    both = torch.cat([o, o.tanh()])
    return (both[: len(o)] - both[len(o) :]).square().mean()


def pixelwise(o, s):
    image = o[:, :, None, None].expand(-1, -1, 2, 2)
    return F.cross_entropy(image, HOLES[s, None, None].expand(-1, 2, 2))


def log_target(o, s):
    return F.kl_div(o.log_softmax(1), T[s].log_softmax(1), reduction="batchmean", log_target=True)


def twice(total, mean):
    mixed = total + mean
    return mixed + 0.5 * mixed


def once_and_over_len(mixed, count):
    return mixed + mixed / count


MEASURED = {
    "cross entropy": lambda o, s: F.cross_entropy(o, Y[s]),
    "ignored targets": lambda o, s: F.cross_entropy(o, HOLES[s]),
    "class weights": lambda o, s: F.cross_entropy(o, Y[s], weight=CLASS_WEIGHT),
    "class weights and ignored targets": lambda o, s: F.cross_entropy(o, HOLES[s], weight=CLASS_WEIGHT),
    "label smoothing": lambda o, s: F.cross_entropy(o, Y[s], label_smoothing=0.1),
    "smoothing, ignored": lambda o, s: F.cross_entropy(o, HOLES[s], label_smoothing=0.1),
    "smoothing, weights, ignored": lambda o, s: F.cross_entropy(o, HOLES[s], weight=CLASS_WEIGHT, label_smoothing=0.1),
    "nll": lambda o, s: F.nll_loss(o.log_softmax(1), Y[s]),
    "pixelwise": pixelwise,
    "with a penalty": lambda o, s: F.cross_entropy(o, HOLES[s]) + penalty(),
    "scaled": lambda o, s: F.cross_entropy(o, HOLES[s]) * 1024 / 4,
    "masked mean": lambda o, s: ((o - T[s]).square() * MASK[s]).sum() / MASK[s].sum(),
    "masked mean, all valid": lambda o, s: (o * FULL_MASK[s]).sum() / FULL_MASK[s].sum(),
    "masked mean of each row": lambda o, s: (o * MASK[s] / MASK[s].sum()).sum(),
    "masked mean, counted": lambda o, s: (o * MASK[s]).sum() / (MASK[s] > 0).sum().float(),
    "masked mean, a sum of sums": lambda o, s: (o * MASK[s]).sum() / MASK[s].sum(1).sum(0),
    "masked mean and penalty": lambda o, s: (o * MASK[s]).sum() / MASK[s].sum() + penalty(),
    "masked sum of means": lambda o, s: (o * MASK[s]).mean() / MASK[s].sum(),
    "auxiliary head": lambda o, s: F.cross_entropy(o, HOLES[s]) + 0.4 * F.cross_entropy(o.tanh(), HOLES[s]),
}
MEANS = {
    "mse": lambda o, s: F.mse_loss(o, T[s]),
    "l1": lambda o, s: F.l1_loss(o, T[s]),
    "huber": lambda o, s: F.huber_loss(o, T[s]),
    "smooth l1": lambda o, s: F.smooth_l1_loss(o, T[s]),
    "bce logits": lambda o, s: F.binary_cross_entropy_with_logits(o, T[s].sigmoid(), pos_weight=CLASS_WEIGHT),
    "bce": lambda o, s: F.binary_cross_entropy(o.sigmoid(), T[s].sigmoid()),
    "kl batchmean": lambda o, s: F.kl_div(o.log_softmax(1), T[s].softmax(1), reduction="batchmean"),
    "kl log target": log_target,
    "soft targets": lambda o, s: F.cross_entropy(o, T[s].softmax(1)),
    "multi margin": lambda o, s: F.multi_margin_loss(o, Y[s]),
    "multilabel": lambda o, s: F.multilabel_soft_margin_loss(o, (T[s] > 0).to(DOUBLE)),
    "soft margin": lambda o, s: F.soft_margin_loss(o, T[s].sign()),
    "hinge": lambda o, s: F.hinge_embedding_loss(o, T[s].sign()),
    "triplet of given samples": lambda o, s: F.triplet_margin_loss(o, T[s], T[s] + o),
    "cosine": lambda o, s: F.cosine_embedding_loss(o, T[s], torch.ones(s.stop - s.start)),
    "gaussian": lambda o, s: F.gaussian_nll_loss(o, T[s], o.exp()),
    "poisson": lambda o, s: F.poisson_nll_loss(o, T[s].abs()),
    "none, then mean": lambda o, s: F.mse_loss(o, T[s], reduction="none").mean(),
    "none, ignored, then mean": lambda o, s: F.cross_entropy(o, HOLES[s], reduction="none").mean(),
    "sum / len": lambda o, s: (o - T[s]).square().sum() / len(o),
    "sum / numel": lambda o, s: (o - T[s]).square().sum() / o.numel(),
    "1 / len * sum": lambda o, s: 1 / len(o) * (o - T[s]).square().sum(),
    "each row / len": lambda o, s: ((o - T[s]).square() / len(o)).sum(),
    "mean, then sum": lambda o, s: (o - T[s]).square().mean(0).sum(),
    "sum, then mean": lambda o, s: (o - T[s]).square().sum(1).mean(),
    "mean, then mean": lambda o, s: (o - T[s]).square().mean(dim=1).mean(),
    "weights per row": lambda o, s: ((o - T[s]).square() * MASK[s]).mean(),
    "rows normalised": lambda o, s: ((o - T[s]).square() * MASK[s]).sum(1).div(MASK[s].sum(1) + 1).mean(),
    "focal": lambda o, s: ((1 - o.sigmoid()) ** 2 * F.softplus(o)).mean(),
    "log-probability gather": lambda o, s: -o.log_softmax(1)[torch.arange(len(o)), Y[s]].mean(),
    "gather": lambda o, s: -o.log_softmax(1).gather(1, Y[s, None]).mean(),
    "policy gradient": lambda o, s: -(torch.distributions.Categorical(logits=o).log_prob(Y[s]) * T[s, 0]).mean(),
    "penalty beside": lambda o, s: F.mse_loss(o, T[s]) + penalty(),
    "penalty only": lambda o, s: penalty(),
    "learned temperature": lambda o, s: F.mse_loss(o, T[s]) * MODEL[0].bias[0].exp(),
    "two means": lambda o, s: F.mse_loss(o, T[s]) + 0.5 * F.l1_loss(o, T[s]) - 3,
    "vae, means": lambda o, s: F.mse_loss(o, T[s]) - 0.5 * torch.mean(torch.sum(1 + o - o.exp(), dim=1), dim=0),
    "stacked": lambda o, s: torch.stack([F.mse_loss(o, T[s]), F.l1_loss(o, T[s])]).sum(),
    "halves of a pair": halves_of_a_pair,
}
SUMS = {
    "mse sum": lambda o, s: F.mse_loss(o, T[s], reduction="sum"),
    "ce sum": lambda o, s: F.cross_entropy(o, HOLES[s], reduction="sum"),
    "ce none, sum": lambda o, s: F.cross_entropy(o, HOLES[s], reduction="none").sum(),
    "sum / constant": lambda o, s: (o - T[s]).square().sum() / 128,
    "vae": lambda o, s: F.mse_loss(o, T[s], reduction="sum") - 0.5 * (1 + o - o.exp()).sum(),
    "dot": lambda o, s: o[:, 0] @ T[s, 0],
    "product of matrices": lambda o, s: (T[s].T @ o).trace() + (o.T @ T[s])[0].sum(),
    "sum over a mask": lambda o, s: ((o - T[s]).square() * MASK[s]).sum() / 20,
    "mean times size": accuracy_weighted,
}
MIXED = {
    "ce + mse": lambda o, s: F.cross_entropy(o, HOLES[s]) + F.mse_loss(o, T[s]),
    "two tasks": lambda o, s: F.cross_entropy(o, Y[s]) + F.cross_entropy(-o, HOLES[s]),
    "mixup": lambda o, s: 0.3 * F.cross_entropy(o, Y[s]) + 0.7 * F.cross_entropy(o, Y.flip(0)[s]),
    "sum + mean": lambda o, s: o.square().sum() + o.mean(),
    "sum - mean / 2": lambda o, s: o.square().sum() / 128 - o.mean() / 2 + 3,
    "sum + penalty": lambda o, s: o.square().sum() + penalty(),
    "ce + sum + mean + penalty": lambda o, s: (
        F.cross_entropy(o, HOLES[s], label_smoothing=0.1) + o.square().sum() + o.mean() + penalty()
    ),
    "stacked": lambda o, s: torch.stack([F.mse_loss(o, T[s]), F.l1_loss(o, T[s], reduction="sum")]).mean(),
    "added before the samples are": lambda o, s: (o.square() / len(o) + o.abs()).sum(),
    "weights of a tensor": lambda o, s: torch.stack([o.square().sum(), o.mean()]) @ CLASS_WEIGHT[:2],
    "ce * len + mse": lambda o, s: F.cross_entropy(o, HOLES[s]) * len(o) + F.mse_loss(o, T[s]),
    "masked mean + mse": lambda o, s: (o * MASK[s]).sum() / MASK[s].sum() + F.mse_loss(o, T[s]),
    "two masks": lambda o, s: (o * MASK[s]).sum() / MASK[s].sum() + o.sum() / FULL_MASK[s].sum(),
    "a term taken twice": lambda o, s: twice(o.square().sum(), o.mean()),
    "parts below a product with a parameter": lambda o, s: MODEL[0].bias[0].exp() * o.square().sum() + o.mean(),
}
UNPROVEN = {
    "a parameter times a mixed sum": (
        lambda o, s: MODEL[0].bias[0].exp() * (o.square().sum() + o.mean()),
        "terms with different denominators cannot be told apart at a product",
    ),
    "a mixed sum in two scales": (
        lambda o, s: once_and_over_len(F.cross_entropy(o, Y[s]) + F.cross_entropy(-o, HOLES[s]), len(o)),
        "terms with different denominators cannot be told apart at a sum",
    ),
    "rmse": (lambda o, s: F.mse_loss(o, T[s]).sqrt(), "the square root of a value summed or averaged"),
    "norm": (lambda o, s: (o - T[s]).norm(), "the norm over the batch"),
    "contrastive": (lambda o, s: F.cross_entropy(o @ T[s].T, torch.arange(len(o))), "two of its dimensions grow"),
    "distances": (lambda o, s: torch.cdist(o, o).mean(), "two of its dimensions grow"),
    "broadcast by mistake": (lambda o, s: (o[:, :1] - T[s, 0]).square().mean(), "two of its dimensions grow"),
    "max": (lambda o, s: o.max(), "the maximum over the batch"),
    "centred": (lambda o, s: (o - o.mean(0)).square().mean(), "goes back into single samples"),
    "variance": (lambda o, s: o.var(0).sum(), "the variance over the batch"),
    "softmax over the batch": (lambda o, s: (o.softmax(0) * T[s]).sum(), "runs along the batch dimension"),
    "sorted": (lambda o, s: (o.sort(0)[0] * T[s]).sum(), "runs along the batch dimension"),
    "cumulated": (lambda o, s: o.cumsum(0).mean(), "runs along the batch dimension"),
    "layer norm over the batch": (lambda o, s: F.layer_norm(o.T, (len(o),)).square().mean(), "along the batch"),
    "dice": (lambda o, s: 1 - 2 * (o * MASK[s]).sum() / (o.sum() + 1), "a ratio of batch terms"),
    "product": (lambda o, s: o.mean() * o.square().mean(), "a product of batch terms"),
    "mean of a mask": (lambda o, s: (o * FULL_MASK[s]).sum() / FULL_MASK[s].mean(), "depends on the data"),
    "signed weights": (lambda o, s: (o * T[s]).sum() / T[s].sum(), "depends on the data"),
    "masked mean, epsilon": (lambda o, s: (o * MASK[s]).sum() / (MASK[s].sum() + 1e-8), "depends on the data"),
    "masked mean, twice": (lambda o, s: (o * MASK[s]).sum() / MASK[s].sum() ** 2, "depends on the data"),
    "pairs of the mask": (lambda o, s: o.sum() / (MASK[s, 0] * MASK[s, :1]).sum(), "depends on the data"),
    "weights of the batch": (lambda o, s: o.sum() / (MASK[s] / MASK[s].mean(0)).sum(), "depends on the data"),
    "masked mean, read off": (lambda o, s: (o * FULL_MASK[s]).sum() / FULL_MASK[s].sum().item(), "depends on the data"),
    "masked mean, clamped": (lambda o, s: (o * MASK[s]).sum() / MASK[s].sum().clamp(min=1), "depends on the data"),
    "mean of selected": (lambda o, s: o[FULL_MASK[s] > 0].square().mean(), "depends on the data"),
    "penalty / len": (lambda o, s: F.mse_loss(o, T[s]) + penalty() / len(o), "scaled with the number of samples"),
    "first sample": (lambda o, s: o[0].sum(), "by their place in the batch"),
    "first half": (lambda o, s: o[: len(o) // 2].mean(), "by their place in the batch"),
    "neighbours": (lambda o, s: (o[1:] - o[:-1]).square().mean(), "by their place in the batch"),
    "reversed": (lambda o, s: (o * o.flip(0)).mean(), "runs along the batch dimension"),
    "wrong view": (lambda o, s: o.view(3, -1).softmax(0)[0].mean(), "values of different samples into one row"),
    "redundancy": (lambda o, s: (o.T @ o / len(o)).square().sum(), "a power of a value summed or averaged"),
    "free bits": (lambda o, s: o.square().mean().clamp(min=1), "a clamp of a value summed or averaged"),
    "centred without a graph": (lambda o, s: (o * (T[s] - T[s].mean())).mean(), "over the whole batch without a graph"),
    "centred target": (lambda o, s: F.mse_loss(o, T[s] - T[s].mean(0)), "over the whole batch without a graph"),
    "shifted": (lambda o, s: (o - T[s].mean(0)).square().mean(), "over the whole batch without a graph"),
}


CLAIMS = (("measured", MEASURED), ("mean", MEANS), ("sum", SUMS), ("mixed", MIXED))


@pytest.mark.parametrize(
    ("reduction", "loss"),
    [pytest.param(name, loss, id=key) for name, losses in CLAIMS for key, loss in losses.items()],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_claims_are_true(reduction, loss):
    case = step(loss)
    facts = case.probe()
    assert facts.exact, facts.reasons
    assert facts.roots[0].reduction == reduction
    assert facts.values[1] == facts.roots
    assert case.agrees(facts.roots[0])


@pytest.mark.parametrize(("loss", "reason"), UNPROVEN.values(), ids=UNPROVEN)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_is_not_proven_is_said(loss, reason):
    facts = step(loss).probe()
    assert not facts.exact
    assert any(reason in found for found in facts.reasons), facts.reasons


@pytest.mark.parametrize("k", range(2, 7))
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_no_claim_hangs_on_the_samples_that_are_probed(k):
    for reduction, losses in CLAIMS:
        assert {key: step(loss).probe(k).roots[0].reduction for key, loss in losses.items()} == dict.fromkeys(
            losses, reduction
        )
    assert [key for key, (loss, _) in UNPROVEN.items() if step(loss).probe(k).exact] == []
