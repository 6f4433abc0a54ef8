"""Drops each rule of accum_magic/cell once: some case of the corpus has to notice.

A rule answers yes or no (`-> bool`; dropped, it always says no) or refuses a cell (dropped, it lets every cell pass).
Each case is rewritten once with all rules watched, so that a dropped rule is tried on the cases that it decides only.
"""

import ast
import contextlib
import functools
import importlib
import inspect
import pkgutil
import sys
import textwrap
from dataclasses import dataclass
from types import FunctionType

import corpus_tools
import pytest
import torch

import accum_magic
import accum_magic.cell
import accum_magic.windows  # the hall reads it when it is first asked for a window
from accum_magic import testing
from accum_magic.api import rewrite_with

NAMES = [f"accum_magic.cell.{found.name}" for found in pkgutil.iter_modules(accum_magic.cell.__path__)]
MODULES = [importlib.import_module(name) for name in NAMES]
CASES = [*corpus_tools.read_cases("refused"), *corpus_tools.read_cases("cells")]  # most refused ones need no run
UNSEEN = {
    "recognise.is_pure_test": "keeps a test as the user wrote it; without, its value gets a name, and the same runs",
    "write_step.StepWriter._can_be_asked_again": "the same",
    "write_step.StepWriter._is_unconditional": "spares outputs that are always bound a placeholder for `not bound`",
    "rewrite.FunctionRewrite.has_step": "keeps functions that only call what trains out of what is told",
    "training_loops._is_generator": "says which loops a stop ends (tests/engine/test_control.py)",
}
"""Rules on how the rewrite looks (tests/golden shows it), or on what a stop ends, which no run to the end can tell."""


# ---------------------------------------------------------------- the rules


@dataclass(frozen=True)
class Rule:
    name: str
    holders: tuple
    """(module or class, attribute): all that know it, since `from ... import` copies it."""
    function: FunctionType
    is_property: bool


def all_rules():
    for module in MODULES:
        classes = [c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == module.__name__]
        for owner in (module, *classes):
            for attribute, value in vars(owner).items():
                function = value.fget if isinstance(value, property) else value
                if is_rule(function) and function.__module__ == module.__name__:
                    name = f"{module.__name__.rpartition('.')[2]}.{function.__qualname__}"
                    holders = importers(function) if owner is module else ((owner, attribute),)
                    yield Rule(name, holders, function, isinstance(value, property))


def is_rule(function):
    if not isinstance(function, FunctionType):
        return False
    returned = function.__annotations__.get("return")
    return returned in {"bool", "Refusal"} or (returned == "None" and contains_raise(function))


def contains_raise(function):
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    return any(isinstance(node, ast.Raise) for node in ast.walk(tree))


def importers(function):
    ours = [module for name, module in sys.modules.items() if name.startswith("accum_magic.")]
    return tuple((module, name) for module in ours for name, value in vars(module).items() if value is function)


RULES = list(all_rules())


@contextlib.contextmanager
def replaced(rules, function_for):
    with pytest.MonkeyPatch.context() as patch:
        for rule in rules:
            function = function_for(rule)
            for holder, attribute in rule.holders:
                patch.setattr(holder, attribute, property(function) if rule.is_property else function)
        forget()
        yield
    forget()


def forget():
    """Empty the caches: what they know of a tree may have been found out by other rules."""
    for module in MODULES:
        for value in vars(module).values():
            if hasattr(value, "cache_clear"):
                value.cache_clear()


def dropped(rule):
    return replaced([rule], lambda _: lambda *_, **__: False)


def watched(rule, said_yes):
    @functools.wraps(rule.function)
    def watching(*args, **kwargs):
        try:
            answer = rule.function(*args, **kwargs)
        except Exception:
            said_yes.add(rule.name)
            raise
        if answer:
            said_yes.add(rule.name)
        return answer

    return watching


# ---------------------------------------------------------------- what a case notices


@dataclass(frozen=True)
class Subject:
    """A case, its rewrite by all rules, and the names of those that said yes or refused."""

    case: corpus_tools.Case
    namespace: dict
    rewritten: object
    decided_by: frozenset


def rewrite(case, namespace):
    """Return what would run, or the error in its place."""
    try:
        rewritten = rewrite_with(case.cell, testing._parsed(2, case.options), namespace)
    except Exception as error:  # noqa: BLE001 - without a rule anything may break
        return error
    return rewritten.source, rewritten.generated


def notices(subject):
    now = rewrite(subject.case, subject.namespace)
    if now == subject.rewritten:
        return False
    if subject.case.refused:
        return not is_refused(subject.case, now)
    return isinstance(now, Exception) or not leaves_the_same(subject.case)


def is_refused(case, now):
    error = run_error(case) if case.when == "run" and not isinstance(now, Exception) else now
    is_ours = isinstance(error, accum_magic.AccumulateError | SyntaxError)
    return is_ours and all(words in str(error) for words in case.refused)


def run_error(case):
    try:
        corpus_tools.run_accumulated(case, 2)
    except Exception as error:  # noqa: BLE001 - as above
        return error
    return None


def leaves_the_same(case):
    """Whether the tests of test_corpus.py pass, for as few N as tell."""
    micro_batches = []
    for n in (1, 2, 3):
        try:
            left = corpus_tools.run_accumulated(case, n)
        except Exception:  # noqa: BLE001 - as above
            return False
        micro_batches.append(left.summary.micro_batches)
        if n > 1 and corpus_tools.is_replayed(left) != (case.idiom == "loss-replay"):
            return False  # exact all the same, but at the price of another forward pass
        if n > 1 and left.summary.verdict != case.verdict:
            return False
        if corpus_tools.differences(case, plain_run(case), left):
            return False
    return micro_batches[0] < micro_batches[1]


@functools.cache
def plain_run(case):
    return corpus_tools.run_plainly(case)


# ---------------------------------------------------------------- the tests


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def subjects():
    said_yes = set()

    def subject_of(case):
        namespace = corpus_tools.set_up(case)
        said_yes.clear()
        rewritten = rewrite(case, namespace)
        return Subject(case, namespace, rewritten, frozenset(said_yes))

    with replaced(RULES, lambda rule: watched(rule, said_yes)):
        return [subject_of(case) for case in CASES]


@pytest.mark.parametrize("rule", [pytest.param(rule, id=rule.name) for rule in RULES if rule.name not in UNSEEN])
def test_corpus_notices_a_dropped_rule(rule, subjects):
    decided = [subject for subject in subjects if rule.name in subject.decided_by]
    with dropped(rule):
        assert any(map(notices, decided)), f"{len(decided)} cases ask {rule.name}, and none needs it"


def test_unseen_rules_exist():
    assert UNSEEN.keys() <= {rule.name for rule in RULES}
