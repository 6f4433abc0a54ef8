"""The panel's widget: the page's module and style sheet, and custom messages both ways."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import anywidget
import ipywidgets

_PAGE = files("accum_magic.view") / "page"


class PanelWidget(anywidget.AnyWidget):
    """Has no traits of its own: a busy kernel delivers custom messages where the updates of traits get stuck."""

    _esm = (_PAGE / "panel.js").read_text(encoding="utf-8")
    _css = (_PAGE / "panel.css").read_text(encoding="utf-8")

    def discard(self, *, is_shown: bool) -> None:
        """Close it, and the widget for its layout that ipywidgets leaves.

        Where no page shows it its module goes first: an executed notebook (nbclient, papermill) keeps the state of
        widgets that have been closed.
        """
        if not is_shown:
            self._esm = self._css = ""
        self.layout.close()
        self.close()


def mime_bundle(widget: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the data that shows a widget, and their metadata, which Colab's old stack reads."""
    shown = widget._repr_mimebundle_()
    return shown if isinstance(shown, tuple) else (shown or {}, {})


def is_captured() -> bool:
    """Whether what is displayed now goes into an `Output` widget.

    Such a widget takes no updates of a display: what it shows stays as it was displayed.
    """
    instances = getattr(ipywidgets.widgets.widget, "_instances", None)
    widgets = (ipywidgets.Widget.widgets if instances is None else instances).values()
    return any(isinstance(one, ipywidgets.Output) and bool(one.msg_id) for one in list(widgets))
