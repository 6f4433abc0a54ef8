"""Layers and models under the probe: those that keep samples apart, and those that do not."""

import pytest
import torch
import transformers
from engine_tools import TOTAL, Step, step_of
from torch import nn
from torch.nn import functional as F  # noqa: N812  as users write it
from torch.utils.checkpoint import checkpoint

IMAGES = torch.randn(TOTAL, 3, 16, 16)
SEQUENCES = torch.randn(TOTAL, 5, 6)
TOKENS = torch.randint(0, 20, (TOTAL, 5))
LABELS = torch.randint(0, 4, (TOTAL,))


class Transposed(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x.transpose(0, 1))[0].transpose(0, 1)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, x):
        h = self.inner(x)
        return torch.einsum("bts,bsd->btd", torch.einsum("btd,bsd->bts", h, h).softmax(-1), x)


class Decoder(nn.Module):
    """Writes its outputs into a buffer step by step, as seq2seq tutorials do."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, x):
        out = x.new_zeros(x.shape)
        for t in range(x.shape[1]):
            out[:, t] = self.inner(x[:, t]).tanh()
        return out


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = nn.Sequential(nn.Linear(6, 6), nn.Tanh())

    def forward(self, x):
        return checkpoint(self.second, self.first(x), use_reentrant=False)


def conv():
    layers = (nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, groups=2), nn.GroupNorm(2, 8))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4))


def decoder_conv():
    layers = (nn.Conv2d(3, 4, 3), nn.AvgPool2d(2), nn.Upsample(scale_factor=2, mode="bilinear"), nn.PixelShuffle(2))
    return nn.Sequential(*layers, nn.ReflectionPad2d(1), nn.ConvTranspose2d(1, 2, 3), nn.InstanceNorm2d(2), nn.PReLU())


def encoder(**options):
    return nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True, **options)


KEEP_APART = {
    "conv": (conv, IMAGES),
    "decoder conv": (decoder_conv, IMAGES),
    "conv1d": (lambda: nn.Sequential(nn.Conv1d(5, 4, 3), nn.LayerNorm(4), nn.GELU()), SEQUENCES),
    "batch norm, eval": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval(), IMAGES),
    "lstm": (lambda: nn.LSTM(6, 7, batch_first=True), SEQUENCES),
    "lstm, two ways": (lambda: nn.LSTM(6, 7, num_layers=2, bidirectional=True, batch_first=True), SEQUENCES),
    "gru": (lambda: nn.GRU(6, 7, batch_first=True), SEQUENCES),
    "gru, time first": (lambda: Transposed(nn.GRU(6, 7, num_layers=2)), SEQUENCES),
    "rnn": (lambda: nn.RNN(6, 7, batch_first=True), SEQUENCES),
    "encoder layer": (encoder, SEQUENCES),
    "encoder layer, norm first": (lambda: encoder(norm_first=True), SEQUENCES),
    "attention by einsum": (Attention, SEQUENCES),
    "embedding": (lambda: nn.Sequential(nn.Embedding(20, 6), nn.Flatten(), nn.Linear(30, 4)), TOKENS),
    "embedding bag": (lambda: nn.Sequential(nn.EmbeddingBag(20, 6), nn.Linear(6, 4)), TOKENS),
    "written step by step": (Decoder, SEQUENCES),
    "checkpointed": (Checkpointed, SEQUENCES),
    "weight norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(6, 3)), SEQUENCES),
    "spectral norm": (lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(6, 3)).eval(), SEQUENCES),
}


def square(out, _):
    first = out[0] if isinstance(out, tuple) else out
    return first.square().mean()


@pytest.mark.parametrize(("build", "inputs"), KEEP_APART.values(), ids=KEEP_APART)
def test_layers_that_keep_samples_apart(build, inputs):
    torch.manual_seed(0)
    case = step_of(build().double(), inputs.double() if inputs.is_floating_point() else inputs, square)
    facts = case.probe()
    assert facts.exact, facts.reasons
    assert facts.notes == ()
    assert facts.values[0][0].dim == 0
    assert case.agrees(facts.roots[0])


COUPLED = {
    "lstm, batch as time": (lambda: nn.LSTM(6, 7), SEQUENCES, "runs along the batch dimension"),
    "gru, batch as time": (lambda: nn.GRU(6, 7), SEQUENCES, "the graph depends on the number of samples"),
    "encoder, batch as time": (lambda: nn.TransformerEncoderLayer(6, 2, 8), SEQUENCES, "two of its dimensions grow"),
    "batch norm": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)),
        IMAGES,
        "BatchNorm in training mode (1)",
    ),
}


@pytest.mark.parametrize(("build", "inputs", "reason"), COUPLED.values(), ids=COUPLED)
def test_layers_that_couple_samples(build, inputs, reason):
    facts = step_of(build(), inputs, square).probe()
    assert not facts.exact
    assert reason in facts.reasons[0]


def test_batch_norm_leaves_the_weights_proven():
    facts = step_of(nn.BatchNorm1d(5), SEQUENCES, square).probe()
    assert facts.roots[0].reduction == "mean"
    assert facts.reasons == ("BatchNorm in training mode (BatchNorm1d) normalises each micro-batch by itself",)


def test_functional_batch_norm_is_seen():
    layer = nn.Conv2d(3, 4, 3)
    facts = step_of(lambda x: F.batch_norm(layer(x), None, None, training=True), IMAGES, square).probe()
    assert "BatchNorm in training mode" in facts.reasons[0]


def test_custom_functions_are_unproven():
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(_ctx, a):
            return a * 2

        @staticmethod
        def backward(_ctx, g):
            return g * 2

    layer = nn.Linear(6, 3)
    facts = step_of(lambda x: Double.apply(layer(x)), SEQUENCES, square).probe()
    assert facts.reasons == ("Double is a custom autograd function: unproven",)


def test_a_compiled_model_is_measured_eager():
    facts = step_of(torch.compile(nn.Linear(6, 3)), SEQUENCES, square).probe()
    assert facts.exact, facts.reasons


def test_a_deep_graph_needs_no_recursion():
    layer = nn.Linear(6, 6)

    def deep(x):
        out = layer(x)
        for _ in range(3000):
            out = out + 1
        return out

    assert step_of(deep, SEQUENCES, square).probe().exact


def gpt2(attention):
    config = transformers.GPT2Config(
        n_layer=2, n_head=2, n_embd=8, vocab_size=20, n_positions=16, attn_implementation=attention,
        bos_token_id=0, eos_token_id=0, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, loss_type="ForCausalLM",
    )  # fmt: skip
    labels = TOKENS.clone()
    labels[::3, 2:] = -100
    return transformers.GPT2LMHeadModel(config), labels, "measured"


def bert(attention):
    config = transformers.BertConfig(
        num_hidden_layers=2, hidden_size=8, num_attention_heads=2, intermediate_size=16, vocab_size=20,
        max_position_embeddings=16, num_labels=4, attn_implementation=attention, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config), LABELS, "measured"


def bert_regression(attention):
    model, _, _ = bert(attention)
    model.config.problem_type = "multi_label_classification"
    return model, torch.rand(TOTAL, 4, dtype=torch.float64), "mean"


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("build", [gpt2, bert, bert_regression])
def test_hugging_face_models(build, attention):
    torch.manual_seed(0)
    model, labels, reduction = build(attention)
    model = model.double()
    mask = torch.ones_like(TOKENS)
    mask[::2, 4:] = 0

    def run(start, stop):
        out = model(input_ids=TOKENS[start:stop], attention_mask=mask[start:stop], labels=labels[start:stop])
        return (out.loss,), (out.logits, out.loss)

    case = Step(run, list(model.parameters()))
    facts = case.probe()
    assert facts.exact, facts.reasons
    assert facts.roots[0].reduction == reduction
    assert facts.values[0][0].dim == 0
    assert case.agrees(facts.roots[0])
