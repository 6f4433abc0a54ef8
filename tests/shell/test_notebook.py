"""Notebooks under a runner: errors reach it, and what the saved notebook holds is the view's last state."""

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from shell.shell_tools import SETUP, TRAIN, plain_text


@pytest.fixture(scope="module")
def notebook(environment):
    """A runner with a started kernel; `run(source)` runs one more cell and returns it."""
    made = NotebookClient(nbformat.v4.new_notebook(), timeout=120, kernel_name="python3")
    with made.setup_kernel(env=environment):

        def run(source):
            made.nb.cells.append(nbformat.v4.new_code_cell(source))
            return made.execute_cell(made.nb.cells[-1], len(made.nb.cells) - 1)

        run(SETUP)
        run("%load_ext accum_magic")
        yield run


def test_a_cell_that_raises_fails_the_notebook_with_the_users_error(notebook):
    source = f"%%accumulate 4\n{TRAIN}    if len(x) == 10:\n        raise KeyError('a key of the user')"
    with pytest.raises(CellExecutionError) as caught:
        notebook(source)
    assert (caught.value.ename, caught.value.evalue) == ("KeyError", "'a key of the user'")
    assert "----> 8         raise KeyError('a key of the user')" in plain_text(caught.value.traceback)


def test_an_error_in_the_forward_pass_fails_the_notebook(notebook):
    notebook("bad = nn.Linear(3, 8)")
    with pytest.raises(CellExecutionError) as caught:
        notebook(f"%%accumulate 4\n{TRAIN.replace('model(x)', 'bad(x)')}")
    assert caught.value.ename == "RuntimeError"
    assert caught.value.evalue.startswith("mat1 and mat2 shapes cannot be multiplied")


@pytest.mark.parametrize(
    "source", ["%%accumulate 4\nx = 1", "%%accumulate ten\nloss.backward()", "%%accumulate 4\n1 +"]
)
def test_a_cell_that_is_refused_fails_the_notebook(notebook, source):
    with pytest.raises(CellExecutionError) as caught:
        notebook(source)
    assert caught.value.ename in {"Refusal", "OptionError", "SyntaxError"}


def test_an_awaiting_cell_that_raises_fails_the_notebook(notebook):
    with pytest.raises(CellExecutionError) as caught:
        notebook(f"%%accumulate 4\n{TRAIN}await asyncio.sleep(0)\nraise KeyError('awaited')")
    assert caught.value.ename == "KeyError"


def test_the_saved_cell_holds_the_closing_summary_and_the_prints(notebook):
    cell = notebook(f"%%accumulate 4\n{TRAIN}    print('step')\n    time.sleep(0.3)\nround(loss.item(), 3)")
    view, *prints, out = cell.outputs
    assert view.output_type == "display_data"
    assert view.data["text/plain"].startswith("accum_magic: exact · 2 optimizer steps · 8 micro-batches (4 per step)")
    assert "".join(part.text for part in prints) == "step\nstep\n"
    assert out.output_type == "execute_result"
    assert out.execution_count == cell.execution_count


def test_a_whole_notebook_runs_from_its_file(tmp_path, environment):
    cells = [SETUP, "%load_ext accum_magic", f"%%accumulate 4\n{TRAIN}", "done = True"]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    done = NotebookClient(book, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute(env=environment)
    [view] = done.cells[2].outputs
    assert view.data["text/plain"].startswith("accum_magic: exact")
    assert not list(tmp_path.iterdir())
