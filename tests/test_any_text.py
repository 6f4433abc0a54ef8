"""Any Python text ends with a rewrite, which is Python, or with an `AccumulateError`; never with another exception."""

import ast
import random
import sysconfig
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import accum_magic

STDLIB = Path(sysconfig.get_paths()["stdlib"])
FILES = sorted(p for p in STDLIB.rglob("*.py") if "site-packages" not in p.parts and "lib2to3" not in p.parts)
SHARES = 8
LARGEST = 60_000  # characters: the largest files say nothing that smaller ones do not


def outcome(text, **options):
    """Rewrite a text; what is rewritten has to be Python once more."""
    try:
        rewritten = accum_magic.rewrite(text, 3, **options)
    except accum_magic.AccumulateError as error:
        return str(error)
    compile(rewritten.tree, "<tree>", "exec")
    compile(rewritten.source, "<source>", "exec")
    return rewritten


def read(path):
    """Text of a file of the standard library; None for the few that are no Python on purpose."""
    try:
        text = path.read_text(encoding="utf-8")
        compile(text, str(path), "exec")
    except (UnicodeDecodeError, SyntaxError, ValueError):
        return None
    return text if len(text) < LARGEST else None


def with_training(tree, chance):
    """Let some statement list of a file back-propagate what it has computed, in a loop and with an update or not."""
    bodies = [b for n in ast.walk(tree) for f in ("body", "orelse", "finalbody")
              if isinstance(b := getattr(n, f, None), list) and b and isinstance(b[0], ast.stmt)]  # fmt: skip
    for body in chance.sample(bodies, min(2, len(bodies))):
        names = [n.id for s in body for n in ast.walk(s) if isinstance(n, ast.Name)] or ["loss"]
        loss = chance.choice(names)
        extra = [f"{loss}.backward()", chance.choice(["optimizer.step()", f"{loss} -= x.grad", "pass"])]
        if chance.random() < 0.5:
            extra.insert(0, f"{loss} = model({chance.choice(names)}).mean()")
        position = chance.randint(0, len(body))
        body[position:position] = ast.parse("\n".join(extra)).body
        if chance.random() < 0.4:
            target = chance.choice(["x", "x, y", "i"])
            whole = ast.parse(f"for {target} in loader:\n    pass").body[0]
            whole.body, body[:] = list(body), [whole]
    return ast.unparse(tree)


@pytest.mark.parametrize("share", range(SHARES))
def test_files_of_the_standard_library(share):
    chance = random.Random(share)
    done = 0
    for path in FILES[share::SHARES]:
        text = read(path)
        if text is None or chance.random() > 0.08:
            continue
        done += 1
        assert outcome(text), path
        try:
            trained = with_training(ast.parse(text), chance)
            compile(trained, str(path), "exec")
        except (SyntaxError, RecursionError):
            continue  # `break` or `return` outside of what it belonged to
        outcome(trained, **chance.choice([{}, {"window": True}, {"namespace": {}}]))
    assert done > 5


NAMES = st.sampled_from(["x", "y", "loss", "out", "model", "h", "optimizer", "loader", "self"])
EXPRESSIONS = st.recursive(
    st.one_of(NAMES, st.sampled_from(["1", "2.5", "None", "x.grad", "self.model", "batch['x']", "X[i:j]", "len(x)"])),
    lambda inner: st.one_of(
        st.builds("{}({})".format, NAMES, inner),
        st.builds("{}.{}()".format, inner, st.sampled_from(["mean", "item", "backward", "detach", "to", "step"])),
        st.builds("({} {} {})".format, inner, st.sampled_from(["+", "*", "@", "==", "and"]), inner),
        st.builds("({}, {})".format, inner, inner),
        st.builds("[{} for {} in {}]".format, inner, NAMES, inner),
        st.builds("({} if {} else {})".format, inner, inner, inner),
        st.builds("(lambda {}: {})".format, NAMES, inner),
        st.builds("({} := {})".format, NAMES, inner),
        st.builds("f'{{{}}}'".format, NAMES),
    ),
    max_leaves=6,
)
SIMPLE = st.one_of(
    st.builds("{} = {}".format, NAMES, EXPRESSIONS),
    st.builds("{}, {} = {}".format, NAMES, NAMES, EXPRESSIONS),
    st.builds("{} += {}".format, NAMES, EXPRESSIONS),
    st.builds("self.{} = {}".format, NAMES, EXPRESSIONS),
    st.builds("{}[{}] = {}".format, NAMES, EXPRESSIONS, EXPRESSIONS),
    st.builds("del {}".format, NAMES),
    st.builds("assert {}".format, EXPRESSIONS),
    st.builds("global {}".format, st.sampled_from(["g"])),
    EXPRESSIONS,
    st.builds("{}.backward()".format, NAMES),
    st.sampled_from(["loss = model(x, y)", "optimizer.step()", "optimizer.zero_grad()", "break", "continue", "pass",
                     "return", "return loss", "raise", "yield", "scaler.scale(loss).backward()", "x.grad = None"]),
)  # fmt: skip
HEADS = st.sampled_from([
    "for x in loader", "for i, (x, y) in enumerate(loader)", "while True", "while x", "if x", "if loss > 1",
    "with torch.no_grad()", "with autocast() as a", "def train(x, y)", "def train(self, loader=None)", "class A",
    "async def f()", "for x, y in zip(loader, loader)", "for self.x in loader", "for _ in range(3)",
])  # fmt: skip


def indented(body):
    return "".join(f"    {line}\n" for line in body.splitlines())


BLOCKS = st.recursive(
    st.lists(SIMPLE, min_size=1, max_size=4).map(lambda lines: "\n".join(lines) + "\n"),
    lambda inner: st.one_of(
        st.builds(lambda head, body: f"{head}:\n{indented(body)}", HEADS, inner),
        st.builds(lambda a, b: f"if x:\n{indented(a)}else:\n{indented(b)}", inner, inner),
        st.builds(lambda a, b: f"try:\n{indented(a)}except ValueError:\n{indented(b)}", inner, inner),
        st.builds(lambda a, b: f"try:\n{indented(a)}finally:\n{indented(b)}", inner, inner),
        st.builds(lambda a, b: f"for x in loader:\n{indented(a)}else:\n{indented(b)}", inner, inner),
        st.builds(
            lambda a, b: f"match x:\n    case 1:\n{indented(indented(a))}    case _:\n{indented(indented(b))}",
            inner,
            inner,
        ),
        st.builds("{}{}".format, inner, inner),
    ),
    max_leaves=5,
)


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
@settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(BLOCKS, st.booleans())
def test_cells_of_all_shapes(text, window):
    try:
        compile(text, "<cell>", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        compile(text, "<cell>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except SyntaxError:
        return
    outcome(text, window=window)
    outcome(text, namespace={"loader": [], "model": len})
