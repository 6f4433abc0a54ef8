"""Every cell of tests/corpus: the same cell, the same result; or refused with nothing touched."""

import dataclasses
import functools
from types import SimpleNamespace

import corpus_tools
import pytest
import torch
from corpus_tools import Case, Comparison, Left, parse_case

import accum_magic
from accum_magic import testing

CELLS = corpus_tools.read_cases("cells")
REFUSED = corpus_tools.read_cases("refused")
ERRORS = {"AccumulateError": accum_magic.AccumulateError, "SyntaxError": SyntaxError}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small tensors on a busy machine: threads cost more than they bring, and change the order of sums."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def by_name(cases):
    return [pytest.param(case, id=case.name) for case in cases]


@functools.lru_cache(maxsize=1)
def plain_run(case, n=1):
    """Once for all N of a case, but for a window, which makes the plain cell's batches N times larger."""
    return corpus_tools.run_plainly(case, n)


# ---------------------------------------------------------------- the corpus


@pytest.mark.parametrize(
    ("case", "n"), [pytest.param(case, n, id=f"{case.name}-{n}") for case in CELLS for n in (1, 2, 3, 7)]
)
def test_accumulated_leaves_what_the_plain_cell_leaves(case, n):
    accumulated = corpus_tools.run_accumulated(case, n)
    found = corpus_tools.differences(case, plain_run(case, n if case.is_windowed else 1), accumulated)
    assert not found, "\n".join(found)
    if n > 1 or case.verdict == "exact":
        assert accumulated.summary.verdict == case.verdict
    if n > 1:
        assert corpus_tools.is_replayed(accumulated) == (case.idiom == "loss-replay")


@pytest.mark.parametrize("case", by_name(CELLS))
def test_batches_are_split(case):
    """A rewrite that splits nothing would leave the same too."""
    whole, halves = (corpus_tools.run_accumulated(case, n).summary for n in (1, 2))
    if case.is_windowed:  # the plain cell's batches are the micro-batches
        assert whole.micro_batches == whole.steps
        assert halves.micro_batches > halves.steps
    else:
        assert halves.micro_batches > whole.micro_batches


@pytest.mark.parametrize("case", by_name(REFUSED))
def test_refused_with_nothing_touched(case):
    namespace = corpus_tools.set_up(case)
    corpus_tools.seed(1)
    with corpus_tools.float64(), pytest.raises(ERRORS[case.error]) as caught:
        testing.run_accumulated(case.cell, namespace, 2, case.options)
    message = str(caught.value)
    missing = [words for words in case.refused if words not in message]
    assert not missing, f"{missing} not in: {message}"
    untouched = corpus_tools.set_up(case)
    if case.when == "run":
        untouched, namespace = trained(untouched), trained(namespace)
    found = list(Comparison().namespaces(untouched, namespace))
    assert not found, "\n".join(found)


def trained(namespace):
    """What only a training step changes: the parameters, and the states of the optimizers."""
    modules = {k: dict(v.named_parameters()) for k, v in namespace.items() if isinstance(v, torch.nn.Module)}
    optimizers = {k: v.state_dict() for k, v in namespace.items() if isinstance(v, torch.optim.Optimizer)}
    return modules | optimizers


@pytest.mark.parametrize("case", by_name(case for case in REFUSED if case.plain))
def test_refused_cell_runs_plainly(case):
    """It is refused for its idiom, not because it is broken."""
    corpus_tools.run_plainly(case)


@pytest.mark.parametrize("case", by_name(case for case in CELLS if not case.ignored))
def test_two_plain_runs_agree(case):
    """A cell that does not repeat itself (the time, a set's order) would say nothing about the rewrite."""
    found = corpus_tools.differences(case, plain_run(case), corpus_tools.run_plainly(case))
    assert not found, "\n".join(found)


def test_names_are_used_once():
    names = [case.name for case in CELLS + REFUSED]
    assert sorted(set(names)) == sorted(names)


def test_most_cells_are_exact():
    assert len([case for case in CELLS if case.verdict == "exact"]) > len(CELLS) / 2


# ---------------------------------------------------------------- its tools

TEXT = """\
# the reason.  idiom: bare-step
# options: --batch x,y
# ignore: t0, t1 (seconds)
# rtol: 2e-2
# %% setup
x = 1
# %% cell
y = x
# %% later
z = y
"""


def test_case_is_parsed():
    assert parse_case("one", TEXT) == Case(
        "one", "the reason.", "bare-step", "x = 1\n", "y = x\n", "z = y\n",
        options="--batch x,y", ignored=frozenset({"t0", "t1"}), rtol=0.02,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  idiom: bare-step", "", "first line"),
        ("# rtol:", "# tolerance:", "'# tolerance: 2e-2' is not"),
        ("# %% later", "# %% after", "sections are setup, cell, after"),
        ("# %% setup\nx = 1\n", "", "no '# %% setup'"),
        ("# %% later\nz = y\n", "# %% refused\n", "nothing that the message must contain"),
    ],
)
def test_case_that_is_not_written_as_the_others_is_named(old, new, message):
    with pytest.raises(ValueError, match=message) as caught:
        parse_case("one", TEXT.replace(old, new))
    assert str(caught.value).startswith("one: ")


@dataclasses.dataclass
class Record:
    values: list


class Counting(torch.nn.Linear):
    def __init__(self, calls):
        super().__init__(1, 1, bias=False)
        self.weight.data.fill_(1)
        self.calls = calls


class OfTheCase(SimpleNamespace):
    __module__ = "__main__"


def linear(weight=1.0, grad=None, *, training=True):
    module = torch.nn.Linear(1, 1, bias=False).train(training)
    module.weight.data.fill_(weight)
    module.weight.grad = None if grad is None else torch.full((1, 1), grad)
    return module


def batch_norm(running_mean):
    module = torch.nn.BatchNorm1d(1)
    module.running_mean.fill_(running_mean)
    return module


def adam(learning_rate):
    return torch.optim.Adam([torch.nn.Parameter(torch.ones(2))], lr=learning_rate)


@pytest.mark.parametrize(
    ("plain", "accumulated"),
    [
        (1.0, 1.0 + 1e-8),
        (1, 1.0),
        (1, 2),
        (1.0, float("nan")),
        (True, False),
        (None, 0),
        ("loss 0.1234", "loss 0.1236"),
        ("step 10", "step 11"),
        ("loss 0.5", "cost 0.5"),
        ("a 1", "a 1 2"),
        (torch.ones(2, dtype=torch.float64), torch.tensor([1, 1 + 1e-8], dtype=torch.float64)),
        (torch.ones(2), torch.ones(1, 2)),
        (torch.ones(2), torch.ones(2).double()),
        (torch.ones(2), [1.0, 1.0]),
        ([1, 2], [1]),
        ({"a": 1}, {"a": 1, "b": 2}),
        ({"a": {"b": [0.5]}}, {"a": {"b": [0.25]}}),
        ({1, 2}, {1, 3}),
        (Record([1.0]), Record([2.0])),
        (OfTheCase(count=1), OfTheCase(count=2)),
        (linear(1.0), linear(2.0)),
        (linear(grad=1.0), linear(grad=2.0)),
        (linear(grad=None), linear(grad=0.0)),
        (linear(), linear(training=False)),
        (Counting(1), Counting(2)),
        (batch_norm(0.0), batch_norm(0.5)),
        (adam(0.1), adam(0.2)),
        (torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)),
    ],
)
def test_difference_is_found(plain, accumulated):
    found = list(Comparison().namespaces({"name": plain}, {"name": accumulated}))
    assert len(found) == 1
    assert "name" in found[0]


@pytest.mark.parametrize(
    ("plain", "accumulated"),
    [
        (1.0, 1.0 + 1e-12),
        (float("nan"), float("nan")),
        ("loss 0.1234", "loss 0.1235"),
        ("tensor(0.5000, grad_fn=<MseLossBackward0>)", "tensor(0.5000)"),
        (torch.ones(2, requires_grad=True) * 2, torch.full((2,), 2.0)),
        (linear(grad=1.0), linear(grad=1.0)),
        (adam(0.1), adam(0.1)),
        ({linear(): 1}, {linear(): 1}),
        (iter([1]), iter([2])),
        (len, print),
    ],
)
def test_what_says_the_same_agrees(plain, accumulated):
    assert list(Comparison().namespaces({"name": plain}, {"name": accumulated})) == []


def test_loose_comparison_is_relative_to_the_largest_value():
    plain, near, far = (torch.tensor([100.0, value]) for value in (0.0, 0.9, 1.1))
    assert list(Comparison(1e-2).values("w", plain, near)) == []
    assert list(Comparison(1e-2).values("w", plain, far)) != []


def test_names_of_one_run_only_are_reported_both_ways():
    found = list(Comparison().namespaces({"loss": 1.0}, {"_micro_step": len}))
    assert found == [
        "_micro_step: only in the accumulated run: <built-in function len>",
        "loss: only in the plain run: 1.0",
    ]


def test_out_and_printed_text_are_compared():
    case = parse_case("one", TEXT)
    plain, accumulated = Left({}, 1.0, "a"), Left({}, 2.0, "b")
    found = corpus_tools.differences(case, plain, accumulated)
    assert found == ["<out>: plain 1.0, accumulated 2.0", "<stdout>: plain 'a', accumulated 'b'"]
    ignoring = dataclasses.replace(case, ignored=frozenset({"<out>", "<stdout>"}))
    assert corpus_tools.differences(ignoring, plain, accumulated) == []


def test_values_that_refer_to_themselves_end():
    plain, accumulated = [1.0], [1.0]
    plain.append(plain)
    accumulated.append(accumulated)
    assert list(Comparison().values("loop", plain, accumulated)) == []


@pytest.mark.parametrize(
    ("value", "is_big"),
    [
        (torch.ones(2), True),
        ({"logits": [torch.ones(2)]}, True),
        (Record([torch.ones(2)]), True),
        (torch.ones(1), False),
        ([torch.ones(())], False),
        (3.0, False),
    ],
)
def test_only_big_tensors_may_be_released(value, is_big):
    assert corpus_tools.holds_big_tensor(value) == is_big
