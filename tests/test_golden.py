"""What `--show` and `--explain` print for cells as people write them; and what `--show` prints can be pasted and run.

`pytest --update-golden` writes tests/golden/*.txt anew: read them as a diff.
"""

import contextlib
import io

import corpus_tools
import pytest
from golden.golden_tools import Golden, Shell

import accum_magic
from accum_magic import testing

NAMES = (
    "loader_loop_minimal", "def_train_called_in_cell", "epochs_running_loss_60min", "full_batch_regression",
    "slicing_permutation", "mixup", "diffusion_step", "grad_scaler", "phase_loop_train_val", "two_models_step_step",
    "batch_double_star", "isfinite_guard", "predictions_torch_max", "class_method_trainer", "options_batch_names",
    "eval_inside_body", "call_fit_and_loss_batch", "call_method_of_trainer", "window_epochs_len_loader",
    "gan_tutorial_fake_again", "branches_amp_whole_step",
)  # fmt: skip
PRINTED = (*NAMES, "batchnorm_approximate")  # pasted, it warns of what the magic's closing lines tell
CASES = {case.name: case for case in corpus_tools.read_cases("cells") if case.name in PRINTED}


@pytest.fixture(scope="module")
def shell():
    return Shell()


def printed(shell, case, option):
    out, err, error = shell.run(f"%%accumulate 4 {case.options} {option}\n{case.cell}", corpus_tools.set_up(case))
    assert error is None, out
    assert err == ""
    return out


@pytest.mark.parametrize("name", PRINTED)
def test_show_and_explain_print_what_they_printed(shell, name, request):
    case = CASES[name]
    parts = [f"%%accumulate 4 {case.options}".rstrip() + "\n" + case.cell.rstrip("\n") + "\n"]
    parts += [printed(shell, case, option) for option in ("--show", "--explain")]
    titles = [f"{'=' * 30} {title}\n" for title in ("the cell", "--show", "--explain")]
    text = "\n".join(title + part for title, part in zip(titles, parts, strict=True))
    Golden(f"{name}.txt", update=request.config.getoption("--update-golden")).check(text)


@pytest.mark.parametrize("option", ["--show", "--explain"])
def test_nothing_runs_and_nothing_is_bound(shell, option):
    case = CASES["mixup"]
    before = corpus_tools.set_up(case)
    known = set(before)
    out, _, error = shell.run(f"%%accumulate 4 {option}\n{case.cell}\nraise KeyError('it ran')", before)
    assert error is None
    assert out
    hidden = {"In", "Out", "get_ipython", "exit", "quit", "open"}
    assert {n for n in set(shell.namespace) - known - hidden if not n.startswith("_")} == set()


def run_pasted(case, text):
    """Run what `--show` printed as a plain cell, as a user who pastes it does."""

    def pasted(_cell, namespace):
        return testing.run_plain(text, namespace)

    return corpus_tools._run(case, pasted)


# a pasted cell keeps the names that the magic takes away
GENERATED = frozenset({"accum_magic", "micro_step", "micro_step_2", "micro_step_3", "step"})


@pytest.mark.parametrize("name", NAMES)
def test_what_show_prints_can_be_pasted_and_run(shell, name):
    case = CASES[name]
    with corpus_tools.float64():
        text = printed(shell, case, "--show")
    pasted = run_pasted(case, text)
    magic = corpus_tools.run_accumulated(case, 4)
    for generated in set(pasted.namespace) - set(magic.namespace):
        assert (
            generated in GENERATED or generated.startswith(("_whole_", "condition_")) or generated.endswith("_again")
        ), generated
        del pasted.namespace[generated]
    released = {name for name, value in magic.namespace.items() if isinstance(value, accum_magic.Released)}
    for name_released in released:
        assert repr(pasted.namespace.pop(name_released)) == repr(magic.namespace.pop(name_released))
    assert corpus_tools.differences(case, magic, pasted) == []
    plain = corpus_tools.run_plainly(case, 4)
    for name_released in released:
        del plain.namespace[name_released]
    assert corpus_tools.differences(case, plain, pasted) == []


def test_a_shown_cell_with_shell_lines_can_be_pasted(shell):
    case = CASES["loader_loop_minimal"]
    cell = f"!true\n%time one = 1\n{case.cell}"
    out, _, error = shell.run(f"%%accumulate 4 --show\n{cell}", corpus_tools.set_up(case))
    assert error is None
    with contextlib.redirect_stdout(io.StringIO()), corpus_tools.float64():
        _, _, error = shell.run(out, corpus_tools.set_up(case))
    assert error is None
    assert shell.namespace["one"] == 1


def test_a_shown_awaiting_cell_can_be_pasted(shell):
    case = CASES["loader_loop_minimal"]
    cell = f"import asyncio\nawait asyncio.sleep(0)\n{case.cell}\nawait asyncio.sleep(0)"
    out, _, error = shell.run(f"%%accumulate 4 --show\n{cell}", corpus_tools.set_up(case))
    assert error is None
    with corpus_tools.float64():
        _, _, error = shell.run(out, corpus_tools.set_up(case))
    assert error is None
