"""What a run leaves in the notebook: a table, a chart and the lines of the cell, shown without a kernel.

A notebook that is not trusted loses inline SVG, styles and aria attributes; tables, images, `<details>` and the older
layout attributes stay (JupyterLab's allow-list), and so nothing else is used. `align="left"` puts the table beside the
chart where the page is wide, below where it is narrow.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

from accum_magic.view.chart import Figures, Points, drawable, mebibytes, result_svg
from accum_magic.view.text import clock

# The characters of one part, and the bytes of all of a kind: with the image, 30 KB.
_LONGEST_VALUE, _LONGEST_REMARK, _LONGEST_LINE = 120, 600, 200
_MOST_REMARK_BYTES, _MOST_LINE_BYTES = 4_000, 7_000
_LONGEST_CHECK = 2_000
_MARK_COLUMN = 60  # the marks stand behind the code, so that on a narrow page only they are wrapped
_MINUTE_S = 60
_BADGES = {"exact": "✓ ", "approximate": "≈ "}


def result_bundle(
    state: Mapping[str, Any],
    memory: Points,
    losses: Points,
    lines: Sequence[tuple[int | None, str, str]],
    summary_text: str,
) -> dict[str, str]:
    """Return the output that a finished run leaves behind, below 30 KB however long the run was.

    Args:
        state: The last one that the panel was sent; `checked` in it is what the exactness check has found.
        memory: Steps and MiB in use.
        losses: Steps and full-batch losses.
        lines: Number, mark and text of each line of the cell; a row without a number is a title.
        summary_text: The run's closing lines, for where HTML cannot be shown.

    """
    parts = [
        "<div>",
        *_image(state, memory, losses),
        *_table(_rows(state, losses)),
        '<br clear="all">',
        *_remarks(state),
        *_checked(state.get("checked")),
        *_details(lines),
        "</div>",
    ]
    return {"text/html": "\n".join(parts), "text/plain": summary_text}


def _image(state: Mapping[str, Any], memory: Points, losses: Points) -> Iterator[str]:
    figures = Figures(
        memory,
        losses,
        _loss(state, losses),
        state.get("peak_bytes"),
        state.get("limit_bytes"),
        state.get("plain_bytes"),
        state.get("footprint") or {},
    )
    svg = result_svg(figures)
    if svg is not None:
        source = base64.b64encode(svg.encode()).decode()
        yield f'<img align="left" alt="{_text(_alt(state, figures))}" src="data:image/svg+xml;base64,{source}">'


def _alt(state: Mapping[str, Any], figures: Figures) -> str:
    """Say in words what the chart shows."""
    told = [f"{name.lower()} {size}" for name, size in _memory(state)]
    if figures.loss:
        told.append(f"loss {figures.loss}")
    parts = [f"{name.replace('_', ' ')} {mebibytes(size)}" for name, size in figures.footprint.items() if size]
    if parts:
        told.append(f"the peak holds {', '.join(parts)}")
    return f"Chart by step: {'; '.join(told)}"


def _rows(state: Mapping[str, Any], losses: Points) -> Iterator[tuple[str, str]]:
    """Yield the names and values of the table."""
    yield from _outcome(state)
    if not state.get("step"):
        return
    yield "Optimizer steps", _count(state.get("optimizer_steps"))
    if state.get("scheduler_steps"):
        yield "Scheduler steps", _count(state["scheduler_steps"])
    if state.get("micro_batches"):
        yield "Micro-batches", _micro_batches(state)
    if state.get("rescues"):
        yield "Out of memory", f"{_times(state['rescues'])}; ran again in smaller pieces"
    yield "Samples", _samples(state)
    loss = _loss(state, losses)
    if loss:
        yield "Loss", loss
    yield from _memory(state)


def _outcome(state: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the verdict, as the panel's badge has it, and what became of the run."""
    verdict = f"{_BADGES.get(state['verdict'], '')}{state['verdict']}" if state.get("verdict") else ""
    outcome, error = state.get("outcome"), state.get("error")
    if not state.get("step"):
        yield "accum_magic", f"failed before the first step: {error}" if error else "no training step has run"
    elif outcome == "failed":
        ended = "interrupted" if error == "KeyboardInterrupt" else "failed"
        yield "accum_magic", f"{ended} {_place(state)}{'' if ended == 'interrupted' else f': {error}'}"
        if verdict:
            yield "Until then", verdict
    else:
        ended = f"stopped {_place(state)}" if outcome == "stopped" else "finished"
        yield "accum_magic", f"{verdict} · {ended}" if verdict else ended


def _place(state: Mapping[str, Any]) -> str:
    step, total = state["step"], state.get("total_steps")
    return f"{'after' if state.get('done') else 'in'} step {step:,}{f' of {total:,}' if total else ''}"


def _micro_batches(state: Mapping[str, Any]) -> str:
    count, how = _count(state.get("micro_batches")), str(state.get("how") or "")
    if how == str(state.get("micro_batches")):
        return f"{count} per step"
    asked = f"asked for {int(how):,}" if how.isdigit() else how
    return f"{count} at the end" + (f" ({asked})" if asked else "")


def _samples(state: Mapping[str, Any]) -> str:
    elapsed_s, rate = state.get("elapsed_s"), state.get("samples_per_s")
    told = _count(state.get("samples"))
    if elapsed_s is not None:
        told += f" in {f'{elapsed_s:.1f} s' if elapsed_s < _MINUTE_S else clock(elapsed_s)}"
    return told if rate is None else f"{told} ({rate:,.0f}/s)"


def _loss(state: Mapping[str, Any], losses: Points) -> str:
    """Return the first and the last loss; the last one may be no number, and is then in no curve."""
    numbers = [f"{loss:.4g}" for _, loss in drawable(losses)]
    last = state.get("loss_text") or ("" if state.get("loss") is None else f"{state['loss']:.4g}")
    told = [*numbers[:1], last or (numbers or [""])[-1]]
    return told[-1] if len(numbers) < 2 and told[0] == told[-1] else " → ".join(told)  # noqa: PLR2004 - from one to another


def _memory(state: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the sizes that are known, by name."""
    peak, limit, plain = (state.get(name) for name in ("peak_bytes", "limit_bytes", "plain_bytes"))
    if peak is not None:
        yield "Peak memory", mebibytes(peak)
    if limit is not None:
        yield "Budget", mebibytes(limit)
    if plain is not None:
        beyond = ", over the budget" if limit is not None and plain > limit else ""
        yield "Plain cell", f"about {mebibytes(plain)}{beyond}"


def _table(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    """JupyterLab aligns the cells of tables to the right, and only an element inside can have it otherwise."""
    yield '<table align="left">'
    for name, value in rows:
        yield (
            f'<tr><th scope="row"><div align="left">{_text(name)}</div></th>'
            f'<td><div align="left">{_text(_shortened(value, _LONGEST_VALUE))}</div></td></tr>'
        )
    yield "</table>"


def _remarks(state: Mapping[str, Any]) -> Iterator[str]:
    """List the reasons and the notes."""
    remarks = [
        f"<li><b>{kind}:</b> {_text(_shortened(str(remark), _LONGEST_REMARK))}</li>"
        for kind, name in (("approximate", "reasons"), ("note", "notes"))
        for remark in state.get(name) or ()
    ]
    if remarks:
        kept = _fitting(remarks, _MOST_REMARK_BYTES)
        yield "<ul>"
        yield from kept
        if len(kept) < len(remarks):
            yield f"<li>… {len(remarks) - len(kept):,} more</li>"
        yield "</ul>"


def _checked(text: str | None) -> Iterator[str]:
    if text is not None:
        yield f"<pre>{_text(_shortened(text, _LONGEST_CHECK))}</pre>"


def _details(lines: Sequence[tuple[int | None, str, str]]) -> Iterator[str]:
    """Yield the cell's lines, each with when it runs, behind a heading that opens."""
    if not lines:
        return
    texts = [_shortened(text.expandtabs(4), _LONGEST_LINE) for _, _, text in lines]
    column = min(_MARK_COLUMN, max(map(len, texts)))
    rows = [
        _text(text if number is None else f"{number:>4}  {text:<{column}}  {mark}".rstrip())
        for (number, mark, _), text in zip(lines, texts, strict=True)
    ]
    kept = _fitting(rows, _MOST_LINE_BYTES)
    if len(kept) < len(rows):
        kept.append(f"… {len(rows) - len(kept):,} more")
    yield "<details><summary>What runs when</summary>"
    yield "<pre>" + "\n".join(kept) + "</pre>"
    yield "</details>"


def _fitting(rows: Sequence[str], most_bytes: int) -> list[str]:
    """Return as many of the first rows as have room."""
    kept: list[str] = []
    for row in rows:
        most_bytes -= len(row.encode())
        if most_bytes < 0:
            break
        kept.append(row)
    return kept


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number:,} times"


def _count(number: int | None) -> str:
    return "unknown" if number is None else f"{number:,}"


def _shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _text(text: str) -> str:
    """Return text as HTML that shows it; half a surrogate pair, which no message can carry, becomes a question mark."""
    return escape(text.encode("utf-8", "replace").decode())
