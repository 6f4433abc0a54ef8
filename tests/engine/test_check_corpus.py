"""`--check` on every cell of the corpus: exact cells are the same both ways, and nothing is left of the check."""

import contextlib
import io

import corpus_tools
import numpy as np
import pytest
import torch
from corpus_tools import Comparison

import accum_magic
from accum_magic import testing
from accum_magic.engine.comparison import DRAWN

N = 4
CASES = {case.name: case for case in corpus_tools.read_cases("cells")}
ONLY_DEFINED = {"class_method_called_later", "def_only_called_later"}
REFUSED = {"next_iterator_while"}


def random_states():
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()  # noqa: NPY002 - what users draw from


@pytest.mark.parametrize("name", sorted(CASES.keys() - REFUSED))
def test_exact_cells_are_the_same_and_nothing_is_left(name):
    case = CASES[name]
    names, untouched = corpus_tools.set_up(case), corpus_tools.set_up(case)
    corpus_tools.seed(1)
    states = random_states()
    with corpus_tools.float64(), contextlib.redirect_stdout(io.StringIO()):
        result = testing.run_checked(case.cell, names, N, case.options)
    assert random_states() == states
    assert list(names) == list(untouched)
    assert list(Comparison(0.0).namespaces(untouched, names, case.ignored)) == []
    if name in ONLY_DEFINED:
        assert result.verdict == "unchecked"
    elif case.verdict == "exact" and not any(DRAWN in step.notes for step in result.steps):
        assert result.verdict == "same", str(result)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_cells_that_go_on_with_an_iterator_are_refused(name):
    with pytest.raises(accum_magic.AccumulateError, match="is an iterator"):
        testing.run_checked(CASES[name].cell, corpus_tools.set_up(CASES[name]), N)
