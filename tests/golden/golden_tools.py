"""Golden files: what was printed when somebody last looked at it. `pytest --update-golden` writes them anew."""

import io
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

FOLDER = Path(__file__).parent


class Golden:
    """One file of tests/golden."""

    def __init__(self, name, *, update):
        self.path, self.update = FOLDER / name, update

    def read(self):
        return self.path.read_text(encoding="utf-8") if self.path.exists() else ""

    def check(self, text):
        """Compare, or write where `--update-golden` is given."""
        if self.update:
            self.path.write_text(text, encoding="utf-8")
        assert self.read() == text, f"{self.path.name} differs; after a look at it: pytest --update-golden"


class Shell:
    """IPython's own shell in this process, with the extension loaded: `%%accumulate` as it is typed."""

    def __init__(self):
        config = Config()
        config.HistoryManager.hist_file = ":memory:"
        config.InteractiveShell.colors = "nocolor"
        self.shell = InteractiveShell.instance(config=config)  # IPython formats tracebacks for `get_ipython()` only
        self.shell.run_line_magic("load_ext", "accum_magic")

    def run(self, raw, namespace):
        """Run a cell in a namespace of its own; returns what it printed and its error."""
        self.shell.reset(new_session=True)
        self.shell.user_ns.update(namespace)
        with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
            result = self.shell.run_cell(raw, store_history=True)
        return out.getvalue(), err.getvalue(), result.error_before_exec or result.error_in_exec

    @property
    def namespace(self):
        return self.shell.user_ns
