"""Which functions a cell's calls lead to, and that they are themselves again when it has run."""

import functools
import importlib
import linecache
import textwrap

import pytest
import torch
from torch import nn

import accum_magic
from accum_magic import follow as following
from accum_magic import source as reading
from accum_magic import testing
from accum_magic.bind import code_like
from accum_magic.cell.parse import parse

TRAIN = """\
def train(loader):
    for x, y in loader:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
    return loss.item()
"""


def notebook(definitions=TRAIN):
    """A namespace with a model, and functions whose source can be read."""
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = list(zip(torch.randn(12, 4).split(6), torch.randn(12, 1).split(6), strict=True))
    names = {"torch": torch, "nn": nn, "functools": functools, "model": model, "optimizer": optimizer,
             "loader": loader, "__name__": "__main__"}  # fmt: skip
    testing.run_plain(definitions, names)
    return names


def found(cell, names):
    return [one.function.__qualname__ for one in following.follow(parse(cell), names).steps]


GOES = "class T:\n    def go(self):\n        train(loader)\n"
DEFINITIONS = {
    "through a second function": ("def outer():\n    return train(loader)\n", "outer()", ["train"]),
    "handed to another function": ("def apply(f, *a):\n    return f(*a)\n", "apply(train, loader)", ["train"]),
    "a partial": ("part = functools.partial(train, loader)\n", "part()", ["train"]),
    "a partial of a partial": ("p = functools.partial(functools.partial(train), loader)\n", "p()", ["train"]),
    "a dict of functions": ("by_name = {'train': train}\n", "by_name['train'](loader)", ["train"]),
    "a static method": ("class T:\n    @staticmethod\n    def go():\n        train(loader)\n", "T.go()", ["train"]),
    "a class method": ("class T:\n    @classmethod\n    def go(cls):\n        train(loader)\n", "T().go()", ["train"]),
    "an object called": ("class T:\n    def __call__(self):\n        train(loader)\nt = T()\n", "t()", ["train"]),
    "an object made here": ("class T:\n    def go(self):\n        train(loader)\n", "t = T()\nt.go()", ["train"]),
    "a class that trains when made": ("class T:\n    def __init__(self):\n        train(loader)\n", "T()", ["train"]),
    "an attribute of an object": ("class T:\n    pass\nt = T()\nt.step = train\n", "t.step(loader)", ["train"]),
    "a decorator of a package": ("outer = torch.enable_grad()(train)\n", "outer(loader)", ["train"]),
    "functions that call each other": (
        "def even(n):\n    odd(n - 1) if n else train(loader)\ndef odd(n):\n    even(n - 1)\n", "even(2)", ["train"],
    ),
    "an argument": (f"{GOES}def run(t):\n    t.go()\nt = T()\n", "run(t)", ["train"]),
    "an object of a list": (f"{GOES}ts = [T()]\n", "for t in ts:\n    t.go()", ["train"]),
    "an object that an object makes": (f"{GOES}class E:\n    def __init__(self):\n        self.t = T()\n",
                                       "e = E()\ne.t.go()", ["train"]),
    "a name that the cell binds anew": ("", "train = print\ntrain(loader)", []),
    "an attribute of the same name": ("class T:\n    def train(self):\n        pass\nt = T()\n", "t.train()", []),
    "a function that only evaluates": ("def evaluate():\n    return model(loader[0][0])\n", "evaluate()", []),
    "an argument of the same name": ("def run(train):\n    return train\n", "run(1)", []),
}  # fmt: skip


@pytest.mark.parametrize("name", DEFINITIONS)
def test_functions_that_train_are_found(name):
    definitions, cell, expected = DEFINITIONS[name]
    names = notebook(TRAIN + definitions)
    assert found(cell, names) == expected


@pytest.mark.parametrize("name", [n for n, (_, cell, expected) in DEFINITIONS.items() if expected])
def test_functions_that_are_found_run_in_micro_batches(name):
    definitions, cell, _ = DEFINITIONS[name]
    plain, accumulated = notebook(TRAIN + definitions), notebook(TRAIN + definitions)
    testing.run_plain(cell, plain)
    # the plain namespace's functions have the same file name: the accumulated one is read from its own text
    testing.run_plain(TRAIN + definitions, accumulated)
    testing.run_accumulated(cell, accumulated, 3)
    assert accum_magic.last_run().micro_batches == 6
    torch.testing.assert_close(accumulated["model"].weight, plain["model"].weight)


@pytest.mark.parametrize("cell", ["train(loader)", "train(loader)\n1 / 0"])
def test_a_function_is_itself_again(cell):
    names = notebook()
    code = names["train"].__code__
    try:
        testing.run_accumulated(cell, names, 3)
    except ZeroDivisionError:
        assert "1 / 0" in cell
    assert names["train"].__code__ is code


def test_a_module_of_the_users_is_read(tmp_path, monkeypatch):
    names = notebook()
    (tmp_path / "my_steps.py").write_text(f'"""Steps."""\nfrom torch import nn\n\n{TRAIN}', encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("my_steps")
    module.model, module.optimizer = names["model"], names["optimizer"]
    testing.run_accumulated("my_steps.train(loader)", {**names, "my_steps": module}, 3)
    assert accum_magic.last_run().micro_batches == 6


def test_a_function_without_a_source_is_refused():
    names = notebook()
    exec(compile(TRAIN, "<string>", "exec"), names)
    linecache.cache.pop("<string>", None)
    with pytest.raises(accum_magic.AccumulateError, match="line 2: `train` trains, but its source cannot be read"):
        testing.run_accumulated("names = 1\ntrain(loader)", names, 3)


def test_every_refusal_in_a_function_names_the_way_to_it():
    body = textwrap.indent(TRAIN.replace("loss.backward()", "loss.backward(torch.ones(()))"), "    ")
    names = notebook(f"class Trainer:\n{body}def run():\n    return Trainer.train(loader)\n")
    with pytest.raises(accum_magic.AccumulateError) as caught:
        testing.run_accumulated("run()", names, 3)
    expected = "line 10 of `run` calls `Trainer.train` (<plain cell>), and there line 6: `backward(torch.ones(()))`"
    assert str(caught.value).startswith(expected)


SOURCES = {
    "defaults and annotations": "def f(a: int = 1, /, *b, c: str = 'x', **d) -> int:\n    return a, b, c, d\n",
    "a closure": "def make(m, o):\n    def f(x):\n        return m, o, x\n    return f\nf = make(1, 2)\n",
    "super, a private name": "class C:\n    def f(self):\n        self.__n = 1\n        super().f()\nf = C.f\n",
    "a generator": "def f(n):\n    yield from (i for i in range(n))\n",
    "nested functions": "def f(n):\n    def g():\n        return n\n    return [g() for _ in range(n)]\n",
    "a decorator": "def d(g):\n    return g\n@d\n@d\ndef f(n):\n    with torch.no_grad():\n        return n\n",
}


@pytest.mark.parametrize("name", SOURCES)
def test_an_unchanged_definition_compiles_to_the_functions_own_code(name):
    names = notebook(SOURCES[name])
    function = names["f"]
    definition = reading._definition(SOURCES[name], function.__code__)
    made = code_like(function, definition)
    assert reading._operations(made) == reading._operations(function.__code__)
    assert made.co_freevars == function.__code__.co_freevars
    assert made.co_qualname == function.__code__.co_qualname
    assert made.co_firstlineno in {function.__code__.co_firstlineno, definition.lineno}


def test_another_definition_is_told_from_the_functions_own_code():
    names = notebook("def f(n):\n    return n + 1\n")
    for text in ("def f(n):\n    return n - 1\n", "def f(n):\n    return n + 1.0\n", "def f(m):\n    return m + 1\n"):
        definition = reading._definition(text, names["f"].__code__)
        made = code_like(names["f"], definition)
        assert reading._operations(made) != reading._operations(names["f"].__code__)
