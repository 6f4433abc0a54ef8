"""What cannot be run: the exact message, and nothing has run."""

import ast
import re
from pathlib import Path

import corpus_tools
import pytest
import torch
from golden.golden_tools import Golden, Shell
from torch import nn

import accum_magic
from accum_magic import testing

PANELS = "'live', 'text', 'off'"
HOW = "Write %%accumulate 10, %%accumulate auto, or %%accumulate --size 100 for micro-batches of at most 100 samples."
MEMORY = "--memory takes an amount with its unit, such as 6GiB, 500MB or 80%"
TRAIN = """\
ran.append(1)
for x, y in loader:
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
"""
REFUSED = corpus_tools.read_cases("refused")


@pytest.fixture(scope="module")
def shell():
    return Shell()


def notebook(rows=10, batch=10):
    """A namespace as the cells above leave it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    x, y = torch.randn(rows, 4), torch.randint(0, 3, (rows,))
    batches = list(zip(x.split(batch), y.split(batch), strict=True))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return {
        "torch": torch, "nn": nn, "F": nn.functional, "model": model, "optimizer": optimizer, "loader": batches,
        "X": x, "Y": y, "ran": [],
    }  # fmt: skip


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def message_of(shell, raw, namespace=None):
    """Message of a cell that must not train; nothing of it may have happened."""
    namespace = notebook() if namespace is None else namespace
    before = weights(namespace["model"])
    _, _, error = shell.run(raw, namespace)
    assert isinstance(error, accum_magic.AccumulateError), repr(error)
    assert namespace["ran"] == []
    assert all(map(torch.equal, before, weights(namespace["model"])))
    assert not namespace["optimizer"].state
    return str(error)


# ---------------------------------------------------------------- the command line


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0", f"N must be at least 1, found 0. {HOW}"),
        ("-3", f"N must be at least 1, found -3. {HOW}"),
        ("ten", f"N must be a whole number or `auto`, found `ten`. {HOW}"),
        ("2.5", f"N must be a whole number or `auto`, found `2.5`. {HOW}"),
        ("", f"how many micro-batches? {HOW}"),
        ("--size 0", f"--size must be at least 1, found 0. {HOW}"),
        ("--size=-3", f"--size must be at least 1, found -3. {HOW}"),
        ("--size x", f"--size must be a whole number, found `x`. {HOW}"),
        ("4 --size 2", f"N = 4 and --size 2 both say how to split; give one of them. {HOW}"),
        ("4 --sise 2", "unrecognized arguments: --sise 2. `%%accumulate?` shows all options."),
        ("4 8", "unrecognized arguments: 8. `%%accumulate?` shows all options."),
        (
            "4 --panel loud",
            f"argument --panel: invalid choice: 'loud' (choose from {PANELS}). `%%accumulate?` shows all options.",
        ),
        ("4 --size", "argument --size: expected one argument. `%%accumulate?` shows all options."),
        ("4 --batch x+y", '--batch takes names or expressions such as x,y or batch["ids"], found `x+y`.'),
        ("4 --batch 3", '--batch takes names or expressions such as x,y or batch["ids"], found `3`.'),
        ("4 --batch x,,y", '--batch takes names or expressions such as x,y or batch["ids"], found `x,,y`.'),
        ("4 --batch ''", '--batch takes names or expressions such as x,y or batch["ids"], found ``.'),
        ("4 --batch inputs", "--batch or --dim names `inputs`, which this cell does not use. Check the spelling."),
        ("4 --dim x", "--dim takes name=dimension pairs such as x=1,h=1, found `x`."),
        ("4 --dim x=-1", "--dim takes name=dimension pairs such as x=1,h=1, found `x=-1`."),
        ("4 --dim x=a", "--dim takes name=dimension pairs such as x=1,h=1, found `x=a`."),
        ("4 --dim 1=x", "--dim takes name=dimension pairs such as x=1,h=1, found `1=x`."),
        (
            "4 --dim batch.x=1",
            "--dim names `batch.x`, which is no plain name. Name it as the batch too: --batch batch.x --dim batch.x=1",
        ),
        ("4 --grad-dtype float16", "--grad-dtype takes float32, found `float16`."),
        ("4 --grad-dtype", "argument --grad-dtype: expected one argument. `%%accumulate?` shows all options."),
        ("auto --memory 6", f"{MEMORY}, found `6`."),
        ("4 --memory 6G", f"{MEMORY}, found `6G`."),
        ("4 --memory lots", f"{MEMORY}, found `lots`."),
        ("auto --memory 120%", f"{MEMORY}, found `120%`."),
        ("auto --memory 0%", f"{MEMORY}, found `0%`."),
        ("4 --memory 0GiB", f"{MEMORY}, found `0GiB`."),
        ("auto --memory ''", f"{MEMORY}, found ``."),
        ("4 --memory", "argument --memory: expected one argument. `%%accumulate?` shows all options."),
        ("atuo", f"N must be a whole number or `auto`, found `atuo`. {HOW}"),
        ("--size auto", f"--size must be a whole number, found `auto`. {HOW}"),
        ("auto --size 3", f"N = auto and --size 3 both say how to split; give one of them. {HOW}"),
        (
            "auto --window",
            "--window takes N loader batches per update, so N cannot be `auto`. Write %%accumulate 4 --window.",
        ),
        ("4 --noise yes", "unrecognized arguments: yes. `%%accumulate?` shows all options."),
        ("4 --dim h=1", "--batch or --dim names `h`, which this cell does not use. Check the spelling."),
    ],
)  # fmt: skip
def test_a_line_that_cannot_be_understood(shell, line, message):
    assert message_of(shell, f"%%accumulate {line}\n{TRAIN}") == message


@pytest.mark.parametrize("option", ["--show", "--explain"])
def test_a_bad_line_is_refused_before_anything_is_shown(shell, option):
    assert message_of(shell, f"%%accumulate 0 {option}\n{TRAIN}") == f"N must be at least 1, found 0. {HOW}"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n": 0}, f"N must be at least 1, found 0. {HOW}"),
        ({"n": "ten"}, f"N must be a whole number or `auto`, found `ten`. {HOW}"),
        ({"n": 2.5}, f"N must be a whole number or `auto`, found `2.5`. {HOW}"),
        ({"n": [4]}, f"N must be a whole number or `auto`, found `[4]`. {HOW}"),
        ({}, f"how many micro-batches? {HOW}"),
        ({"size": 0}, f"--size must be at least 1, found 0. {HOW}"),
        ({"n": "Auto"}, f"N must be a whole number or `auto`, found `Auto`. {HOW}"),
        ({"n": "auto", "memory": 2**30}, f"{MEMORY}, found `1073741824`."),
        ({"n": 4, "grad_dtype": "bfloat16"}, "--grad-dtype takes float32, found `bfloat16`."),
    ],
)
def test_the_python_api_says_the_same(given, message):
    with pytest.raises(accum_magic.AccumulateError) as caught:
        accum_magic.rewrite(TRAIN, **given)
    assert str(caught.value) == message


# ---------------------------------------------------------------- the cell


def test_an_empty_cell_is_told_by_ipython_itself(shell):
    _, said, error = shell.run("%%accumulate 4", notebook())
    assert type(error).__name__ == "UsageError"
    empty = "UsageError: %%accumulate is a cell magic, but the cell body is empty."
    assert said == f"{empty} Did you mean the line magic %accumulate (single %)?\n"


@pytest.mark.parametrize("body", ["# later", "\n\n", "# one\n\n# two\n", "   \n"])
def test_a_cell_without_a_statement(shell, body):
    message = "the cell is empty. Write the training cell below the `%%accumulate` line."
    assert message_of(shell, f"%%accumulate 4\n{body}\n# end") == message


@pytest.mark.parametrize(
    ("body", "line", "text", "message"),
    [
        ("ran.append(1)\nfor x, y in loader\n    pass", 3, "for x, y in loader", "expected ':'"),
        ("ran.append(1)\nloss = (1 +\nx = 2", 3, "loss = (1 +", "'(' was never closed"),
        ("ran.append(1)\n\n\nif x:\npass", 6, "pass", "expected an indented block after 'if' statement on line 5"),
        ("\nran.append(1)\nx = = 2", 4, "x = = 2", "invalid syntax"),
        ("!true\nran.append(1)\nx = = 2", 4, "x = = 2", "invalid syntax"),
    ],
)
def test_a_syntax_error_is_the_users_own_at_the_users_line(shell, body, line, text, message):
    namespace = notebook()
    shown, _, error = shell.run(f"%%accumulate 4\n{body}", namespace)
    assert isinstance(error, SyntaxError)
    assert (error.msg, error.lineno, error.text.strip()) == (message, line, text)
    assert namespace["ran"] == []
    assert f"Cell In[1], line {line}" in shown
    _, _, plain = shell.run(f"#\n{body}", notebook())
    assert (error.msg, error.lineno, error.offset, error.text) == (plain.msg, plain.lineno, plain.offset, plain.text)


def test_a_window_takes_n(shell):
    assert message_of(shell, f"%%accumulate --size 4 --window\n{TRAIN}") == (
        "--window puts N loader batches together, found --size 4. Write %%accumulate 4 --window."
    )


def test_no_backward(shell):
    assert message_of(shell, "%%accumulate 4\nran.append(1)\nmodel(X)") == (
        "no `.backward()` in this cell, nor in a function of the notebook that it calls, so there is no training step "
        "to split. Put `%%accumulate` on the cell in which `loss.backward()` is written, or on one that calls it."
    )


def test_nothing_to_split(shell):
    body = "ran.append(1)\nloss = sum(p.square().sum() for p in model.parameters())\nloss.backward()\noptimizer.step()"
    assert message_of(shell, f"%%accumulate 4\n{body}") == (
        "line 4: found nothing to split: no batch reaches `loss`. If a name holds the batch, say which: "
        "%%accumulate 4 --batch x"
    )


def test_two_names_that_could_be_the_batch(shell):
    namespace = notebook()
    namespace |= {"model": nn.Linear(4, 10), "w": torch.ones(10)}
    body = "ran.append(1)\nloss = F.cross_entropy(model(X), Y, weight=w)\nloss.backward()\noptimizer.step()"
    assert message_of(shell, f"%%accumulate 4\n{body}", namespace) == (
        "line 3: `w` (10 values) and `X` (10 rows) could both be the batch.\nSay which: %%accumulate 4 --batch X"
    )


def test_what_the_message_advises_works(shell):
    namespace = notebook()
    namespace["model"] = nn.Linear(4, 10)
    namespace["optimizer"] = torch.optim.SGD(namespace["model"].parameters(), lr=0.1)
    namespace["w"] = torch.linspace(0.5, 1.5, 10)
    body = "loss = F.cross_entropy(model(X), Y, weight=w)\nloss.backward()"
    _, _, error = shell.run(f"%%accumulate 4 --batch X,Y\n{body}", namespace)
    assert error is None
    made = namespace["model"].weight.grad.clone()
    namespace["model"].zero_grad()
    testing.run_plain(body, namespace)
    torch.testing.assert_close(namespace["model"].weight.grad, made)


def test_n_larger_than_the_batch_runs_and_says_so(shell):
    plain, ours = notebook(rows=5, batch=3), notebook(rows=5, batch=3)
    testing.run_plain(TRAIN, plain)
    _, _, error = shell.run(f"%%accumulate 7\n{TRAIN}", ours)
    assert error is None
    for expected, found in zip(weights(plain["model"]), weights(ours["model"]), strict=True):
        torch.testing.assert_close(found, expected)
    summary = accum_magic.last_run()
    assert summary.notes == ("the batch has fewer samples than N = 7: one micro-batch per sample",)
    assert (summary.micro_batches, summary.samples, summary.verdict) == (5, 5, "exact")


def test_unequal_batch_sizes(shell):
    namespace = notebook()
    namespace["loader"] = [(namespace["X"], namespace["Y"][:7])]
    body = TRAIN.removeprefix("ran.append(1)\n")
    assert message_of(shell, f"%%accumulate 4\n{body}", namespace) == (
        "line 4: unequal batch sizes: `x` has 10 rows and `y` has 7. If only one of them is the batch, say so: "
        "%%accumulate 4 --batch x; if the batch is another dimension, name it: --dim y=1"
    )


# ---------------------------------------------------------------- what no file of tests/corpus/refused shows

TEXTS = """\
# %% divided by the number of accumulation steps
accum_steps = 2
for x, y in loader:
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y) / accum_steps
    loss.backward()
    optimizer.step()
# %% a jump out of the forward pass
def train():
    for x, y in loader:
        for layer in model:
            x = layer(x)
            if x.shape[1] > 100:
                return
        loss = F.cross_entropy(x, y)
        loss.backward()
# %% super without arguments
class Net(nn.Sequential):
    def train_step(self, x, y):
        out = super().forward(x)
        loss = F.cross_entropy(out, y)
        loss.backward()
# %% a second update inside one statement
for x, y in loader:
    optimizer.zero_grad()
    if True:
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        again = F.cross_entropy(model(x), y)
        again.backward()
        optimizer.step()
# %% a loss from outside the loop
loss = F.cross_entropy(model(X), Y)
for _ in range(2):
    loss.backward()
    optimizer.step()
# %% the tensors of one batch disagree
for batch in [{'x': X, 'y': Y[:7]}]:
    loss = F.cross_entropy(model(batch['x']), batch['y'])
    loss.backward()
    optimizer.step()
# %% a list of dicts
for x, targets in [(X, [{'y': y} for y in Y])]:
    loss = F.cross_entropy(model(x), torch.stack([t['y'] for t in targets]))
    loss.backward()
    optimizer.step()
# %% nothing in the batch has rows
for x in [torch.tensor(3.0)]:
    loss = model(X * x).mean()
    loss.backward()
    optimizer.step()
# %% a graph from before the micro-batches
for x, y in [(model[0](X), Y)]:
    loss = F.cross_entropy(model[2](x), y)
    loss.backward()
    optimizer.step()
# %% a fixed tensor with as many rows as the batch
for x, y in loader:
    loss = (F.cross_entropy(model(x), y, reduction='none') * importance).mean()
    loss.backward()
    optimizer.step()
# %% an accuracy that is read
def step(x, y):
    out = model(x)
    return F.cross_entropy(out, y), (out.argmax(1) == y).double().mean()
for x, y in loader:
    loss, acc = step(x, y)
    loss.backward()
    optimizer.step()
    print(acc)
# %% too few samples for the measurement
def loss_of(x, y):
    if len(x) == 2:
        raise ValueError('a pair of samples')
    return F.cross_entropy(model(x), y)
for x, y in loader:
    loss = loss_of(x, y)
    loss.backward()
    optimizer.step()
# %% a fixed batch size in the forward pass
for x, y in loader:
    loss = F.cross_entropy(model(x.view(10, 2, 2).flatten(1)), y)
    loss.backward()
    optimizer.step()
"""
CELLS = dict(re.findall(r"^# %% (.+)\n((?:(?!# %%).*\n)+)", TEXTS, re.MULTILINE))


def told(shell, raw, namespace):
    before = weights(namespace["model"]) if isinstance(namespace.get("model"), nn.Module) else []
    _, _, error = shell.run(raw, namespace)
    if error is None:
        return "no error"
    assert all(map(torch.equal, before, weights(namespace["model"]) if before else []))
    return "\n".join([str(error), *getattr(error, "__notes__", [])])


def headed(name, message):
    return f"== {name}\n{message}\n"


@pytest.fixture(scope="module")
def messages(shell):
    """Message by name of every refused cell: those of the corpus, and those above."""
    found = {}
    for case in REFUSED:
        with corpus_tools.float64():
            found[case.name] = told(shell, f"%%accumulate 4 {case.options}\n{case.cell}", corpus_tools.set_up(case))
    for name, cell in CELLS.items():
        found[name] = told(shell, f"%%accumulate 4\n{cell}", notebook() | {"importance": torch.ones(10), "epoch": 1})
    return found


def test_messages_are_those_of_the_golden_file(messages, request):
    text = "\n".join(headed(name, message) for name, message in messages.items())
    text = re.sub(r"<ipython-input-\d+-\w+>", "<cell>", text)
    Golden("refused.txt", update=request.config.getoption("--update-golden")).check(text)


def test_every_refused_cell_is_refused(messages):
    assert [name for name, message in messages.items() if message.startswith("no error")] == []


@pytest.mark.parametrize("name", [*CELLS, *(case.name for case in REFUSED)])
def test_a_message_names_a_line_or_an_option_and_what_to_do(messages, name):
    message = messages[name]
    if name in {"syntax_error", "a fixed batch size in the forward pass"}:
        return  # the user's own error
    assert re.match(r"line \d+|`|--|no `|the cell is empty", message), message
    assert message.count(". ") + message.count("\n") + message.count(": ") >= 1, message
    assert "  " not in message.partition("\n")[0]  # below it may stand code


# ---------------------------------------------------------------- every message of the product is told above

LONG = 50  # characters: shorter texts are parts of messages


def templates(path):
    """(line, pattern) of every message in a module: long texts, what is filled in left open."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docs = {n.body[0].value for n in ast.walk(tree) if isinstance(n, ast.Module | ast.FunctionDef | ast.ClassDef)
            and n.body and isinstance(n.body[0], ast.Expr)}  # fmt: skip
    inside = {part for n in ast.walk(tree) if isinstance(n, ast.JoinedStr) for part in n.values}
    for node in ast.walk(tree):
        if node in docs or node in inside:
            continue
        if isinstance(node, ast.JoinedStr):
            parts = [p.value if isinstance(p, ast.Constant) else None for p in node.values]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            parts = [node.value]
        else:
            continue
        if sum(len(p) for p in parts if p) >= LONG:
            yield node.lineno, "".join(".*?" if p is None else re.escape(p) for p in parts)


PACKAGE = Path(accum_magic.__file__).parent
MODULES = [
    *sorted((PACKAGE / "cell").glob("*.py")),
    *(PACKAGE / "engine" / f"{name}.py" for name in ("site", "loop", "whole", "replayable")),
]


def test_every_message_of_the_product_is_told_by_a_cell(messages):
    everything = "\n".join([*messages.values(), EXPLAINED])
    missing = [
        f"{path.relative_to(PACKAGE)}:{line}: {pattern}"
        for path in MODULES
        for line, pattern in templates(path)
        if not re.search(pattern, everything, re.DOTALL)
    ]
    assert missing == [], "\n".join(missing)


# what `--explain` says (tests/golden/*.txt), and the notes and verdicts of a run are told elsewhere
EXPLAINED = """\
verdict: exact, unless the first step shows otherwise (BatchNorm, losses that are no mean or sum)
loss: `loss` (line 4); its weight per micro-batch is measured before the first update
verdict: approximate: BatchNorm in training mode (`net.1`) normalises each micro-batch by itself
line 4: replayed (the square root): modules run in chunks, forward twice, and the loss sees the whole batch
"""
