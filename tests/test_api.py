"""The Python side: `accum_magic.rewrite` without torch, the errors' family, doctests, and any Python text at all."""

import ast
import doctest
import importlib
import inspect
import pkgutil
import random
import subprocess
import sys
import sysconfig
import time
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import accum_magic
from accum_magic import errors, testing
from accum_magic.engine.amounts import amount_from

CELL = """\
for x, y in loader:
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
"""


def in_fresh_process(code):
    command = [sys.executable, "-W", "error", "-c", code]
    run = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    return run.stdout


# ---------------------------------------------------------------- rewrite


@pytest.mark.parametrize("blocked", [("torch",), ("IPython", "ipywidgets", "anywidget"), ("torch", "IPython", "numpy")])
def test_rewrite_needs_neither_torch_nor_ipython(blocked):
    code = f"import sys\nsys.modules.update(dict.fromkeys({blocked!r}))\nimport accum_magic\n"
    shown = in_fresh_process(f"{code}print(accum_magic.rewrite({CELL!r}, 4), end='')")
    assert shown == str(accum_magic.rewrite(CELL, 4))


def test_refusals_need_no_torch():
    code = "import sys\nsys.modules['torch'] = None\nimport accum_magic\n"
    code += "try:\n    accum_magic.rewrite('x = 1', 4)\nexcept accum_magic.AccumulateError as error:\n    print(error)"
    assert in_fresh_process(code).startswith("no `.backward()` in this cell")


def test_a_rewrite_is_its_source():
    made = accum_magic.rewrite(CELL, 4)
    assert str(made) == made.source == ast.unparse(made.tree) + "\n"
    assert made.source.startswith("import accum_magic\n")
    assert "n=4" in made.source
    assert "size=100" in accum_magic.rewrite(CELL, size=100).source
    assert set(made.generated) == {"accum_magic", "micro_step"}


def test_auto_and_the_memory_stand_in_the_code():
    assert "n='auto'" in accum_magic.rewrite(CELL, "auto").source
    assert "memory" not in accum_magic.rewrite(CELL, "auto").source
    made = accum_magic.rewrite(CELL, "auto", memory=" 1.5 GB ")
    assert "n='auto', memory='1.5 GB'" in made.source
    assert "n=4, memory='80%'" in accum_magic.rewrite(CELL, 4, memory="80%").source


@pytest.mark.parametrize("rewritten_without_names", [False, True])
def test_auto_trains_as_the_plain_cell_does(rewritten_without_names):
    plain, ours = notebook(), notebook()
    testing.run_plain(CELL, plain)
    if rewritten_without_names:
        exec(accum_magic.rewrite(CELL, "auto", memory="99%").source, ours)
    else:
        testing.run_accumulated(CELL, ours, "auto", "--memory 99%")
    assert torch.allclose(plain["model"].weight, ours["model"].weight, atol=1e-6)


@pytest.mark.parametrize(
    ("maker", "advice"),
    [
        ("composer.trainer", "Composer accumulates by itself: Trainer(device_train_microbatch_size='auto')."),
        (
            "lightning.pytorch",
            "Lightning accumulates by itself: Trainer(accumulate_grad_batches=4), with batch_size=3 in the loader.",
        ),
    ],
)
def test_a_frameworks_own_argument_under_auto(maker, advice):
    trainer = type("Trainer", (), {"__module__": maker, "fit": print})()
    loader = torch.utils.data.DataLoader(torch.randn(20, 4), batch_size=10)
    with pytest.raises(accum_magic.AccumulateError) as caught:
        accum_magic.rewrite("trainer.fit(loader)", "auto", namespace={"trainer": trainer, "loader": loader})
    assert str(caught.value) == f"line 1: `trainer.fit` trains through a framework. {advice}"


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("6GiB", 6 * 2**30), ("500MB", 500 * 10**6), ("1.5 GB", 1_500_000_000), ("0.1kib", 102), ("7B", 7),
        ("1 tb", 10**12), ("80%", 800), ("12.5 %", 125), ("100%", 1000),
    ],
)  # fmt: skip
def test_amounts_of_memory(text, count):
    assert amount_from(text).bytes_of(1000) == count


@pytest.mark.parametrize(
    "text", ["", "6", "6G", "GiB", "6 Gib b", "1e3MB", "1,5GB", "-1GB", "0.1B", "0MB", "0%", "101%", "٣GB"]
)
def test_what_is_no_amount_of_memory(text):
    assert amount_from(text) is None


def test_the_users_lines_keep_their_numbers():
    made = accum_magic.rewrite("\n\n" + CELL, 4)
    statements = [node for node in ast.walk(made.tree) if isinstance(node, ast.Expr | ast.Assign)]
    numbers = {ast.unparse(node): node.lineno for node in statements}
    assert numbers["optimizer.zero_grad()"] == 4
    assert numbers["loss = F.cross_entropy(model(x), y)"] == 5
    assert numbers["optimizer.step()"] == 7


def test_a_syntax_error_is_pythons_own():
    with pytest.raises(SyntaxError) as ours:
        accum_magic.rewrite("for x in\n", 4)
    with pytest.raises(SyntaxError) as plain:
        compile("for x in\n", "<cell>", "exec")
    for name in ("msg", "lineno", "offset", "text"):
        assert getattr(ours.value, name) == getattr(plain.value, name)


def test_rewriting_changes_nothing_of_the_namespace():
    namespace = notebook()
    before = dict(namespace)
    accum_magic.rewrite(CELL, 4, namespace=namespace)
    assert namespace == before


def test_rewriting_twice_gives_the_same():
    assert accum_magic.rewrite(CELL, 4).source == accum_magic.rewrite(CELL, 4).source


# ---------------------------------------------------------------- names that an earlier cell left


def notebook():
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    x, y = torch.randn(20, 4), torch.randint(0, 3, (20,))
    return {
        "F": nn.functional, "torch": torch, "model": model, "loader": [(x[:10], y[:10]), (x[10:], y[10:])],
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1), "X": x,
    }  # fmt: skip


LEFT_OVER = {
    "a number": "3", "a string": "'s'", "a function": "len", "a package": "torch", "a module": "model",
    "a list": "[1, 2]", "a dict": "{}", "a tensor": "X", "a scalar": "torch.tensor(1.0)",
    "trainable": "torch.nn.Parameter(X)",
    "a graph": "model(X)", "None": "None",
}  # fmt: skip
IN_FUNCTION = """\
def train(net, batches, opt):
    for x, y in batches:
        opt.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        opt.step()
train(model, loader, optimizer)
"""
STEP_FUNCTION = """\
def one(x, y):
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    return loss.item()
for a, b in loader:
    one(a, b)
"""


@pytest.mark.parametrize("value", LEFT_OVER)
@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("x", CELL),
        ("y", CELL),
        ("loss", CELL),
        ("x", IN_FUNCTION),
        ("net", IN_FUNCTION),
        ("batches", IN_FUNCTION),
        ("y", STEP_FUNCTION),
    ],
    ids=["x-loop", "y-loop", "loss-loop", "x-function", "net-function", "batches-function", "y-step"],
)
def test_a_name_the_cell_binds_is_not_taken_for_what_an_earlier_cell_left(name, cell, value):
    left = []
    for run in (testing.run_plain, lambda cell, namespace: testing.run_accumulated(cell, namespace, 4)):
        namespace = notebook()
        exec(f"{name} = {LEFT_OVER[value]}", namespace)
        run(cell, namespace)
        left.append(namespace["model"].weight)
    torch.testing.assert_close(*left)
    assert accum_magic.last_run().micro_batches == 8


def test_a_cell_that_imports_accum_magic_itself_leaves_it_and_one_that_does_not_leaves_no_trace():
    ours = notebook()
    testing.run_accumulated(f"import accum_magic\n{CELL}", ours, 4)
    assert ours["accum_magic"] is accum_magic
    ours = notebook()
    testing.run_accumulated(CELL, ours, 4)
    assert "accum_magic" not in ours


# ---------------------------------------------------------------- errors, names, doctests


def test_every_error_is_an_accumulate_error():
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]
    names = [
        "AccumulateError",
        "BatchError",
        "BudgetError",
        "BudgetExceededError",
        "ControlError",
        "OptimizerStepError",
        "OptionError",
        "Refusal",
        "ReleasedError",
    ]
    assert sorted(kind.__name__ for kind in kinds) == names
    assert all(issubclass(kind, accum_magic.AccumulateError) for kind in kinds)
    assert not issubclass(accum_magic.AccumulateError, ValueError | TypeError | AssertionError)


def test_every_public_name_is_there():
    assert [name for name in accum_magic.__all__ if not hasattr(accum_magic, name)] == []
    with pytest.raises(AttributeError, match="module 'accum_magic' has no attribute 'nothing'"):
        _ = accum_magic.nothing


def test_last_run_is_none_before_the_first():
    assert in_fresh_process("import accum_magic; print(accum_magic.last_run())") == "None\n"


def module_names():
    found = pkgutil.walk_packages(accum_magic.__path__, "accum_magic.")
    return ["accum_magic", *(module.name for module in found)]


@pytest.mark.parametrize("name", module_names())
def test_doctests_run(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def test_there_are_doctests():
    finder = doctest.DocTestFinder()
    found = {name: finder.find(importlib.import_module(name)) for name in module_names()}
    tested = {name for name, tests in found.items() if any(test.examples for test in tests)}
    assert {"accum_magic", "accum_magic.api", "accum_magic.testing", "accum_magic.engine.run"} <= tested


# ---------------------------------------------------------------- any Python text

SAMPLED, SECONDS = 300, 15


class MakeTraining(ast.NodeTransformer):
    """Turn code that trains nothing into code that seems to: results are back-propagated, loops have an update."""

    def __init__(self, chance):
        self.chance = chance

    def visit_Return(self, node):
        if node.value is None or self.chance.random() < 0.5:
            return node
        call = ast.parse("loss.backward()").body[0]
        return [ast.Assign(targets=[ast.Name("loss", ast.Store())], value=node.value), call]

    def visit_For(self, node):
        self.generic_visit(node)
        names = [n.id for n in ast.walk(node.target) if isinstance(n, ast.Name)]
        if names and self.chance.random() < 0.7:
            used = self.chance.choice([*names, *(n.id for n in ast.walk(node) if isinstance(n, ast.Name))])
            node.body += ast.parse(f"loss = model({used}, {names[0]})\nloss.backward()\noptimizer.step()").body
        return node


def library_files():
    folder = Path(sysconfig.get_path("stdlib"))
    files = [p for p in sorted(folder.rglob("*.py")) if "site-packages" not in p.parts and p.stat().st_size < 60_000]
    return random.Random(0).sample(files, SAMPLED)


def read(path):
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


def is_python(text):
    try:
        compile(text, "<plain>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    except SyntaxError:
        return False
    return True


def attempt(text):
    """The rewrite of a text, None where it is refused or no Python; every other error rises."""
    try:
        made = accum_magic.rewrite(text, 3)
    except (accum_magic.AccumulateError, SyntaxError):
        return None
    if not is_python(text):
        return made  # `return` outside of a function and the like: Python says so when the cell is compiled
    compile(made.source, "<pasted>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    compile(made.tree, "<run>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    return made


@pytest.mark.filterwarnings("ignore::SyntaxWarning", "ignore::DeprecationWarning")
def test_any_python_text_is_rewritten_or_refused_soon():
    start, seen = time.process_time(), 0
    files = library_files()
    for path in files:
        text = read(path)
        if text is not None and "\0" not in text:
            attempt(text)
        seen += 1
        if time.process_time() - start > SECONDS:
            break
    assert seen == len(files), f"{seen} of {len(files)} files in {SECONDS} s"


def training_functions(seed):
    """Functions of the standard library, made to train; their texts."""
    chance = random.Random(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in library_files():
            try:
                tree = ast.parse(read(path) or "")
            except (SyntaxError, ValueError):
                continue
            functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
            for function in chance.sample(functions, min(4, len(functions))):
                made = ast.fix_missing_locations(MakeTraining(chance).visit(function))
                yield path, ast.unparse(made)


@pytest.mark.filterwarnings("ignore::SyntaxWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("seed", [0, 1])
def test_any_function_made_to_train_is_rewritten_or_refused(seed):
    start, failures, rewritten, seen = time.process_time(), {}, 0, 0
    for path, text in training_functions(seed):
        if time.process_time() - start > SECONDS:
            break
        seen += 1
        try:
            rewritten += attempt(text) is not None
        except Exception as error:  # noqa: BLE001 - any other error is a bug
            failures.setdefault(f"{type(error).__name__}: {error}", f"{path.name}\n{text}")
    assert failures == {}, "\n\n".join(f"{error}\n{text}" for error, text in failures.items())
    assert seen > 100
    assert rewritten > 10


@pytest.mark.parametrize("n", [1, 3])
def test_the_losses_of_the_summary_are_those_of_the_cell(n):
    """Not those of another term that is logged, nor the scaled one."""
    cell = """
for x, y in loader:
    optimizer.zero_grad()
    out = model(x)
    error = F.cross_entropy(out, y)
    penalty = out.square().mean()
    total_loss = error + 0.1 * penalty
    scaler.scale(total_loss).backward()
    scaler.step(optimizer)
    scaler.update()
    seen.append((error.item(), penalty.item(), total_loss.item()))
"""
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    x, y = torch.randn(20, 4), torch.randint(0, 3, (20,))
    names = {
        "model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=0.1), "F": torch.nn.functional, "seen": [],
        "scaler": torch.amp.GradScaler("cpu", init_scale=4.0), "loader": list(zip(x.split(9), y.split(9), strict=True)),
    }  # fmt: skip
    testing.run_accumulated(cell, names, n)
    assert accum_magic.last_run().losses == pytest.approx([total for _, _, total in names["seen"]])
