"""A panel whose widget has no kernel: what it hears is handed to it, as a comm does."""

import pytest

from accum_magic.engine.control import Command
from accum_magic.view.panel import Panel, Source


@pytest.fixture
def panel_widget():
    """Make the widget of a panel of a run; the panel is its attribute `panel`."""
    made = []

    def make(run, name):
        def ask(kind, value):
            run.control.ask(Command(kind, value))

        panel = Panel(Source(run.snapshot, run.meter.now_bytes, ask, "4", None, []), failed=made.append)
        panel._run = name
        panel._widget.on_msg(panel._heard)
        panel._widget.panel = panel
        made.append(panel._widget)
        return panel._widget

    yield make
    for widget in made:
        widget.close()
