"""The notebooks and README.md keep their word: each notebook runs from top to bottom, each claim is looked up."""

import functools
import json
import os
import re
import shutil
import sys
from pathlib import Path

import nbformat
import pytest
import torch
from nbclient import NotebookClient
from torch import nn

import accum_magic
from accum_magic import testing
from accum_magic.cell.explain import explain
from accum_magic.engine.fastest import Search
from accum_magic.engine.planner import Auto
from accum_magic.engine.room import Room

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
KERNEL = "accum-magic-tests"
TINY = 1e-9


# ---------------------------------------------------------------- notebooks


def kernel_of_this_python(folder):
    """A Jupyter path whose only kernel is the interpreter that runs the tests."""
    spec = folder / "kernels" / KERNEL
    spec.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    text = json.dumps({"argv": command, "display_name": KERNEL, "language": "python"})
    (spec / "kernel.json").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """By path: the notebook with the outputs of a run in an empty folder, outside the checkout; each runs once."""
    return functools.cache(lambda path: execute(path, tmp_path_factory.mktemp(path.stem)))


def execute(path, folder):
    environment = {
        "JUPYTER_PATH": str(kernel_of_this_python(folder / "jupyter")),
        "IPYTHONDIR": str(folder / "ipython"),  # no startup files of the developer's own
        "OMP_NUM_THREADS": "1",
    }
    notebook = nbformat.read(shutil.copy(path, folder), as_version=4)
    client = NotebookClient(
        notebook, kernel_name=KERNEL, timeout=240, coalesce_streams=True, resources={"metadata": {"path": str(folder)}}
    )
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        client.execute(env=dict(os.environ))
    return notebook


@pytest.fixture(scope="module")
def quickstart(executed):
    return executed(ROOT / "notebooks/quickstart.ipynb")


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def text_of(cell):
    """What a cell printed and displayed, as text."""
    shown = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs]
    return "\n".join(shown)


def cell_named(notebook, name):
    [cell] = [cell for cell in notebook.cells if cell.id == name]
    return cell


def number_after(label, text):
    [found] = re.findall(rf"{re.escape(label)}\s*([\d.]+(?:e[+-]?\d+)?)", text)
    return float(found)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_from_top_to_bottom(executed, path):
    counts = [cell.execution_count for cell in code_cells(executed(path))]
    assert counts == list(range(1, len(counts) + 1))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_kept_as_executed(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    assert "widgets" not in notebook.metadata
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert not re.search(r"/(?:home|root|tmp|usr|Users|work)/", json.dumps(outputs)), "a path of somebody's machine"


SAME_CELL = {
    "accumulate": "10", "check": "10 --check", "explain": "10 --explain", "show": "10 --show", "ragged": "7",
    "auto": "auto",
}  # fmt: skip


def test_quickstart_checks_the_cell_on_the_spot(quickstart):
    said = text_of(cell_named(quickstart, "check"))
    assert said.startswith("accum_magic: same")
    assert number_after("largest relative difference", said) < 1e-12


def test_quickstart_shows_the_same_cell_plain_and_under_the_magic(quickstart):
    plain = cell_named(quickstart, "plain").source
    for name, line in SAME_CELL.items():
        assert cell_named(quickstart, name).source == f"%%accumulate {line}\n{plain}"


def test_quickstart_prints_the_same_numbers_under_the_magic(quickstart):
    plain = text_of(cell_named(quickstart, "plain"))
    assert plain.count("of 1000 correct") == 4
    for name in ("accumulate", "ragged"):
        closing, _, printed = text_of(cell_named(quickstart, name)).partition("\n")
        assert closing.startswith("accum_magic: exact · 12 optimizer steps")
        assert printed == plain


def test_quickstart_prints_the_same_numbers_under_auto(quickstart):
    said = text_of(cell_named(quickstart, "auto"))
    assert said.startswith("accum_magic: exact · 12 optimizer steps")
    assert "note: line 7: auto took micro-batches of" in said
    assert said.endswith(f"\n{text_of(cell_named(quickstart, 'plain'))}")


def test_quickstart_needs_a_tenth_of_the_activation_memory(quickstart):
    plain = number_after("activations:", text_of(cell_named(quickstart, "plain-keep")))
    measured = text_of(cell_named(quickstart, "accumulate-keep"))
    assert 0.08 < number_after("activations:", measured) / plain < 0.13
    assert 0.08 < number_after("at the peak,", measured) < 0.13


def test_quickstart_ends_with_the_same_parameters_and_losses(quickstart):
    for name, how in [("proof", "N = 10"), ("ragged-proof", "N = 7"), ("auto-proof", "auto")]:
        printed = text_of(cell_named(quickstart, name))
        assert number_after(f"largest difference of a parameter, {how}:", printed) < TINY
        assert number_after(f"largest difference of a loss, {how}:", printed) < TINY
    assert number_after("largest change of a parameter by training:", text_of(cell_named(quickstart, "proof"))) > TINY
    accuracies = {
        number_after("held-out accuracy:", text_of(cell_named(quickstart, name)))
        for name in ("plain-keep", "accumulate-keep")
    }
    assert len(accuracies) == 1
    assert min(accuracies) > 85  # per cent


# ---------------------------------------------------------------- README.md


def readme():
    return (ROOT / "README.md").read_text(encoding="utf-8")


def accumulate_blocks():
    """Per python block of README.md that the magic runs: N, and the text below its line (which stays line 1)."""
    blocks = re.findall(r"^```python\n%%accumulate (\d+)\n(.*?)^```$", readme(), re.MULTILINE | re.DOTALL)
    return [(int(n), f"\n{cell}") for n, cell in blocks]


def test_readme_example_is_accepted():
    n, cell = accumulate_blocks()[0]
    rewritten = str(accum_magic.rewrite(cell, n))
    compile(rewritten, "<README.md>", "exec")
    assert f"n={n}" in rewritten


def test_readme_quotes_the_refusal_as_it_is_worded():
    [(cell, quoted)] = re.findall(
        r"^<!-- refused 10 -->\n```python\n%%accumulate 10\n(.*?)^```$\n\n```text\nAccumulateError: (.*?)\n```$",
        readme(),
        re.MULTILINE | re.DOTALL,
    )
    with pytest.raises(accum_magic.AccumulateError) as refusal:
        accum_magic.rewrite(f"\n{cell}", 10)
    assert str(refusal.value) == quoted


def test_readme_shows_explain_as_it_prints():
    [shown] = re.findall(r"^<!-- explain 10 -->\n```text\n(.*?)^```$", readme(), re.MULTILINE | re.DOTALL)
    lines = shown.splitlines()
    code_starts = lines[0].index("for x, y in loader:")
    cell = "\n".join(line[code_starts:] for line in lines)
    printed = explain(accum_magic.rewrite(f"\n{cell}\n", 10))
    assert printed.partition("\n\n")[0].splitlines() == lines


def test_readme_shows_check_as_it_prints():
    [(cell, shown)] = re.findall(
        r"^<!-- check 4 -->\n```python\n(%%accumulate 4 --check\n.*?)^```$.*?^```text\n(.*?)\n```$",
        readme(),
        re.MULTILINE | re.DOTALL,
    )
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    batch = torch.randn(100, 4), torch.randint(0, 3, (100,))
    names = {"model": model, "F": nn.functional, "optimizer": torch.optim.Adam(model.parameters()), "loader": [batch]}
    printed = str(testing.run_checked(cell.replace("%%accumulate 4 --check", ""), names, 4))
    number = re.compile(r"\d\.\de[+-]\d+")

    def rows(text):
        return sorted(number.sub("#", line) for line in text.splitlines())

    assert rows(printed) == rows(shown)


def test_readme_lists_the_options_of_the_magic():
    from accum_magic.magic import AccumulateMagics

    declared = {
        option
        for action in AccumulateMagics.accumulate.parser._actions
        for option in action.option_strings
        if option.startswith("--")
    }
    documented = set(re.findall(r"^\| `(--[a-z-]+)", readme(), re.MULTILINE))
    assert documented == declared


def runs_out_of_memory(_, inputs):
    if len(inputs[0]) > 3:  # the step is measured on three samples
        raise torch.OutOfMemoryError


def test_readme_quotes_the_notes_about_memory_as_they_are_worded():
    search = Search(best=250, times={size: ([], []) for size in range(9)}, is_settled=True)
    notes = {Auto(Room(0.0, 1.0, 1.0), search, 1, largest=1000).told("line 4")}
    model = nn.Linear(4, 3)
    model.register_forward_pre_hook(runs_out_of_memory)
    names = {"model": model, "F": nn.functional, "device": "cpu", "optimizer": torch.optim.SGD(model.parameters())}
    cell = accumulate_blocks()[0][1]
    testing.run_accumulated(cell, names | {"loader": [(torch.randn(8, 4), torch.randint(0, 3, (8,)))]}, 1)
    notes |= {note for note in accum_magic.last_run().notes if "ran out of memory" in note}
    assert set(re.findall(r"^note: (.*)$", readme(), re.MULTILINE)) == notes
