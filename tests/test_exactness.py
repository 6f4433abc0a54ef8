"""Every row of the table of losses: the plain full batch beside micro-batches, equal and ragged, with a scaler."""

import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional as F  # noqa: N812  as users write it

import accum_magic
from accum_magic import testing

SAMPLES = 12
TOKENS, CLASSES = 7, 5

PLAIN = """
for _ in range(2):
    opt.zero_grad()
    {forward}
    loss.backward()
    opt.step()
last = loss.item()
"""
SCALED = """
scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
for _ in range(2):
    opt.zero_grad()
    {forward}
    scaler.scale(loss).backward()
    scaler.step(opt)
    scaler.update()
last = loss.item()
"""


class Net(nn.Module):
    """A small network, with heads for what the losses compare."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 16), nn.Tanh())
        self.classes, self.values, self.tokens = (
            nn.Linear(16, CLASSES),
            nn.Linear(16, 3),
            nn.Linear(16, TOKENS * CLASSES),
        )

    def forward(self, x):
        return self.classes(self.body(x))


class ReturnsLoss(Net):
    """Computes its loss inside, over labels that it shifts itself, as language models do."""

    def forward(self, x, labels):
        logits = self.tokens(self.body(x)).view(-1, TOKENS, CLASSES)
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)


class AuxiliaryLoss(ReturnsLoss):
    """Adds a term with another denominator."""

    def forward(self, x, labels):
        return super().forward(x, labels) + 0.1 * self.values(self.body(x)).square().mean()


class Twice(torch.autograd.Function):
    """A custom function: nothing is known of how it treats its samples."""

    @staticmethod
    def forward(_, x):
        return 2 * x

    @staticmethod
    def backward(_, gradient):
        return 2 * gradient


def masked_mean(losses, mask):
    return (losses * mask).sum() / mask.sum()


def masked_mean_clamped(losses, mask):
    return (losses * mask).sum() / mask.sum().clamp(min=1)


LOGITS = "model.tokens(model.body(x)).view(-1, 7, 5).transpose(1, 2)"
EACH = f"F.cross_entropy({LOGITS}, labels, reduction='none', ignore_index=-100)"
CE_AND_MSE = "F.cross_entropy(model(x), ignored, ignore_index=-1) + F.mse_loss(model.values(model.body(x)), t)"
KL = "F.kl_div(model(x).log_softmax(1), p, reduction='batchmean')"
ROWS = {
    "mean over samples": (Net, "loss = F.cross_entropy(model(x), y)"),
    "mean over elements": (Net, "loss = F.mse_loss(model.values(model.body(x)), t)"),
    "sum": (Net, "loss = F.cross_entropy(model(x), y, reduction='sum')"),
    "sum / len(x)": (Net, "loss = F.cross_entropy(model(x), y, reduction='sum') / len(x)"),
    "sum / constant": (Net, "loss = F.cross_entropy(model(x), y, reduction='sum') / 512"),
    "none + mean": (Net, "loss = F.cross_entropy(model(x), y, reduction='none').mean()"),
    "ignore_index": (Net, "loss = F.cross_entropy(model(x), ignored, ignore_index=-1)"),
    "class weight": (Net, "loss = F.cross_entropy(model(x), y, weight=w)"),
    "label smoothing": (Net, "loss = F.cross_entropy(model(x), y, label_smoothing=0.1)"),
    "weight, smoothing, ignore_index": (
        Net,
        "loss = F.cross_entropy(model(x), ignored, weight=w, label_smoothing=0.1, ignore_index=-1)",
    ),
    "nll": (Net, "loss = F.nll_loss(model(x).log_softmax(1), y, weight=w)"),
    "bce, pos_weight": (
        Net,
        "loss = F.binary_cross_entropy_with_logits(model.values(model.body(x)), (t > 0).double(), pos_weight=w[:3])",
    ),
    "kl, batchmean": (Net, f"loss = {KL}"),
    "masked mean": (Net, f"m = mask\n    loss = ({EACH} * m).sum() / m.sum()"),
    "masked mean, clamped": (Net, f"m = mask\n    loss = ({EACH} * m).sum() / m.sum().clamp(min=1)"),
    "masked mean, epsilon": (Net, f"m = mask\n    loss = ({EACH} * m).sum() / (m.sum() + 1e-8)"),
    "masked mean in a helper": (Net, f"loss = masked_mean({EACH}, mask)"),
    "masked mean in a helper, clamped": (Net, f"loss = masked_mean_clamped({EACH}, mask)"),
    "nothing valid in a micro-batch": (Net, "loss = F.cross_entropy(model(x), last_only, ignore_index=-1)"),
    "nothing valid in a micro-batch, helper": (Net, f"loss = masked_mean({EACH}, late_mask)"),
    "ce + mse": (Net, f"loss = {CE_AND_MSE}"),
    "ce + mse + l2": (Net, f"loss = {CE_AND_MSE} + 1e-2 * sum(p.square().sum() for p in model.parameters())"),
    "vae, mean + sum": (
        Net,
        "h = model.body(x)\n    loss = F.mse_loss(model(x), p, reduction='sum') + model.values(h).square().mean()",
    ),
    "sum + regulariser": (
        Net,
        "loss = F.cross_entropy(model(x), y, reduction='sum') + 1e-2 * sum(p.abs().sum() for p in model.parameters())",
    ),
    "inside the model": (ReturnsLoss, "loss = model(x, labels)"),
    "inside the model, with an auxiliary loss": (AuxiliaryLoss, "loss = model(x, labels)"),
    "ce of shifted labels + mse": (
        ReturnsLoss,
        "loss = model(x, labels) + F.mse_loss(model.values(model.body(x)), t)",
    ),
    "infonce": (Net, "loss = F.cross_entropy(model(x) @ model(z).T, torch.arange(len(x)))"),
    "dice": (Net, "q = model(x).sigmoid()\n    loss = 1 - 2 * (q * p).sum() / (q.sum() + p.sum())"),
    "rmse": (Net, "loss = torch.sqrt(F.mse_loss(model(x), p))"),
    "max": (Net, "loss = (model(x) - p).abs().max()"),
    "custom autograd function": (Net, "loss = F.cross_entropy(Twice.apply(model(x)), y)"),
}  # fmt: skip
REPLAYED = {"infonce", "dice", "rmse", "max", "custom autograd function", "masked mean in a helper, clamped"}
NAMES = ("x", "z", "y", "t", "p", "labels", "ignored", "last_only", "mask", "late_mask")


def namespace(model_class):
    torch.manual_seed(0)
    labels = torch.randint(0, CLASSES, (SAMPLES, TOKENS))
    labels[torch.rand(SAMPLES, TOKENS) < 0.4] = -100
    y = torch.randint(0, CLASSES, (SAMPLES,))
    ignored = torch.where(torch.arange(SAMPLES) % 3 == 0, -1, y)
    late_mask = torch.ones(SAMPLES, TOKENS)
    late_mask[:-2] = 0
    model = model_class()
    return {
        "torch": torch, "F": F, "Twice": Twice, "masked_mean": masked_mean, "masked_mean_clamped": masked_mean_clamped,
        "model": model, "opt": torch.optim.SGD(model.parameters(), lr=0.1),
        "x": torch.randn(SAMPLES, 6), "z": torch.randn(SAMPLES, 6), "y": y, "t": torch.randn(SAMPLES, 3),
        "p": torch.rand(SAMPLES, CLASSES), "w": torch.rand(CLASSES) + 0.5, "labels": labels, "ignored": ignored,
        "last_only": torch.where(torch.arange(SAMPLES) < SAMPLES - 2, -1, y), "mask": (labels != -100).double(),
        "late_mask": late_mask,
    }  # fmt: skip


@pytest.fixture(autouse=True)
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def words(text):
    return set("".join(c if c.isalnum() or c == "_" else " " for c in text).split())


def assert_same(plain, accumulated, rtol=1e-9, atol=1e-12):
    assert accumulated["last"] == pytest.approx(plain["last"], rel=rtol)
    for (name, theirs), mine in zip(plain["model"].named_parameters(), accumulated["model"].parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=rtol, atol=atol, msg=name)
        assert (mine.grad is None) == (theirs.grad is None)
        if theirs.grad is not None:
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=rtol, atol=atol, msg=name)


@pytest.mark.parametrize("cell", [PLAIN, SCALED], ids=["plain", "scaled"])
@pytest.mark.parametrize("n", [3, 5, 12], ids=["equal", "ragged", "single"])
@pytest.mark.parametrize("row", ROWS)
def test_a_row_of_the_table(row, n, cell):
    model_class, forward = ROWS[row]
    text = cell.format(forward=forward)
    batch = ",".join(name for name in NAMES if name in words(forward))
    plain, accumulated = namespace(model_class), namespace(model_class)
    testing.run_plain(text, plain)
    testing.run_accumulated(text, accumulated, n, f"--batch {batch}")
    assert_same(plain, accumulated)
    summary = accum_magic.last_run()
    assert summary.verdict == "exact", summary.reasons
    assert any("replayed" in note for note in summary.notes) == (row in REPLAYED)


def llama():
    config = {
        "vocab_size": 40,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**config, num_key_value_heads=2))


def gpt2():
    config = transformers.GPT2Config(
        vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=16, bos_token_id=1, eos_token_id=2
    )
    config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = 0.0
    return transformers.GPT2LMHeadModel(config)


def bert():
    config = {
        "vocab_size": 40,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    silent = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return transformers.BertForSequenceClassification(transformers.BertConfig(**config, **silent, num_labels=CLASSES))


@pytest.mark.parametrize("n", [2, 3, 7])
@pytest.mark.parametrize("make", [llama, gpt2, bert])
def test_a_hugging_face_model_that_returns_its_loss(make, n):
    cell = PLAIN.format(forward="out = model(**batch)\n    loss = out.loss")
    found = []
    for how in (None, n):
        torch.manual_seed(0)
        model = make().double().train()
        ids = torch.randint(3, 40, (SAMPLES, 8))
        labels = (
            torch.randint(0, CLASSES, (SAMPLES,))
            if make is bert
            else torch.where(torch.rand(ids.shape) < 0.5, -100, ids)
        )
        names = {"model": model, "batch": {"input_ids": ids, "labels": labels}}
        names["opt"] = torch.optim.SGD(model.parameters(), lr=0.1)
        testing.run_plain(cell, names) if how is None else testing.run_accumulated(cell, names, how)
        found.append(names)
    # the two language models' own loss goes through float32
    assert_same(*found, **({} if make is bert else {"rtol": 1e-5, "atol": 1e-7}))
    assert accum_magic.last_run().verdict == "exact"
