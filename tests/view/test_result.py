"""What a run leaves in the notebook: its HTML and its image, parsed; shown by nbconvert. In a page: tests/browser."""

import math
import random
import re
from xml.etree import ElementTree as ET

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbconvert import HTMLExporter
from view.result_tools import EVIL, LINES, LOSSES, MEMORY, MIB, SUMMARY, SVG, Seen, seen, state

from accum_magic.view.chart import MOST_POINTS, Figures, decimated, result_svg
from accum_magic.view.result import result_bundle

MOST_BYTES = 30_000


def texts(svg):
    return [element.text for element in svg.iter(f"{SVG}text")]


def curves(svg):
    """Points of the curves, memory first."""
    strokes = [p.get("d") for p in svg.iter(f"{SVG}path") if p.get("fill") == "none"]
    return [[tuple(map(float, point.split())) for point in d.removeprefix("M").split("L")] for d in strokes]


def levels(svg):
    """Height of each dashed or coloured line across the chart, by its dashes."""
    lines = [p for p in svg.iter(f"{SVG}path") if p.get("stroke-dasharray")]
    return {p.get("stroke-dasharray"): float(re.fullmatch(r"M\d+ ([\d.]+)H\d+", p.get("d"))[1]) for p in lines}


def test_the_text_is_the_closing_lines():
    bundle = result_bundle(state(), MEMORY, LOSSES, LINES, SUMMARY)
    assert bundle["text/plain"] == SUMMARY
    assert list(bundle) == ["text/html", "text/plain"]


def test_the_table_tells_the_run():
    assert seen().table == {
        "accum_magic": "✓ exact · finished",
        "Optimizer steps": "1,234",
        "Scheduler steps": "17",
        "Micro-batches": "10 per step",
        "Samples": "80,000 in 12.3 s (1,234/s)",
        "Loss": "2.25 → 0.4123",
        "Peak memory": "824 MiB",
        "Budget": "1,024 MiB",
        "Plain cell": "about 1,500 MiB, over the budget",
    }


@pytest.mark.parametrize(
    ("changes", "first"),
    [
        ({}, {"accum_magic": "✓ exact · finished"}),
        ({"verdict": "approximate"}, {"accum_magic": "≈ approximate · finished"}),
        ({"verdict": None}, {"accum_magic": "finished"}),
        ({"outcome": "stopped", "step": 12}, {"accum_magic": "✓ exact · stopped after step 12 of 80"}),
        (
            {"outcome": "stopped", "step": 1200, "total_steps": None},
            {"accum_magic": "✓ exact · stopped after step 1,200"},
        ),
        (
            {"outcome": "failed", "error": "ValueError", "step": 12, "done": False},
            {"accum_magic": "failed in step 12 of 80: ValueError", "Until then": "✓ exact"},
        ),
        (
            {"outcome": "failed", "error": "ValueError", "step": 12},
            {"accum_magic": "failed after step 12 of 80: ValueError", "Until then": "✓ exact"},
        ),
        (
            {"outcome": "failed", "error": "KeyboardInterrupt", "step": 12, "done": False, "verdict": None},
            {"accum_magic": "interrupted in step 12 of 80"},
        ),
    ],
)
def test_the_outcome(changes, first):
    rows = seen(**changes).rows
    assert dict(rows[: len(first)]) == first


@pytest.mark.parametrize(
    ("outcome", "error", "told"),
    [
        ("finished", None, "no training step has run"),
        ("failed", "NameError", "failed before the first step: NameError"),
    ],
)
def test_a_cell_without_a_step_leaves_one_row_and_no_image(outcome, error, told):
    bundle = result_bundle({"outcome": outcome, "error": error, "step": 0}, [], [], [], SUMMARY)
    page = Seen(bundle["text/html"])
    assert page.rows == [["accum_magic", told]]
    assert page.image is None


@pytest.mark.parametrize(
    ("changes", "row", "value"),
    [
        ({"micro_batches": 14, "how": "auto", "n": None}, "Micro-batches", "14 at the end (auto)"),
        ({"how": "at most 100 samples"}, "Micro-batches", "10 at the end (at most 100 samples)"),
        ({"micro_batches": 12}, "Micro-batches", "12 at the end (asked for 10)"),
        ({"micro_batches": 0}, "Micro-batches", None),
        ({"rescues": 1}, "Out of memory", "once; ran again in smaller pieces"),
        ({"rescues": 2}, "Out of memory", "2 times; ran again in smaller pieces"),
        ({}, "Out of memory", None),
        ({"scheduler_steps": 0}, "Scheduler steps", None),
        ({"elapsed_s": 3723.0}, "Samples", "80,000 in 1:02:03 (1,234/s)"),
        ({"elapsed_s": None, "samples_per_s": None}, "Samples", "80,000"),
        ({"loss": None, "loss_text": "nan"}, "Loss", "2.25 → nan"),
        ({"loss": None}, "Loss", "2.25 → 0.4123"),
        ({"plain_bytes": None}, "Plain cell", None),
        ({"plain_bytes": 900 * MIB}, "Plain cell", "about 900 MiB"),
        ({"limit_bytes": None}, "Budget", None),
        ({"peak_bytes": 3 * MIB / 2}, "Peak memory", "1.5 MiB"),
    ],
)
def test_a_row(changes, row, value):
    assert seen(**changes).table.get(row) == value


def test_the_loss_of_one_step_and_of_none():
    assert seen(losses=LOSSES[:1], loss=2.25).table["Loss"] == "2.25"
    assert seen(losses=[], loss=None).table.get("Loss") is None
    assert seen(losses=LOSSES[:1], loss=None, loss_text="nan").table["Loss"] == "2.25 → nan"
    assert seen(losses=[], loss=None, loss_text="nan").table["Loss"] == "nan"


def test_the_alt_text_says_what_the_image_shows():
    assert seen().image["alt"] == (
        "Chart by step: peak memory 824 MiB; budget 1,024 MiB; plain cell about 1,500 MiB, over the budget; "
        "loss 2.25 → 0.4123; the peak holds parameters 96 MiB, gradients 95 MiB, optimizer state 192 MiB, "
        "activations 211 MiB, other 230 MiB"
    )


def test_the_image_shows_both_curves_the_levels_and_the_bar():
    svg = seen().svg
    memory, loss = curves(svg)
    assert len(memory) == len(loss) == 3
    assert memory[1][1] < memory[2][1] < memory[0][1], "more memory is higher up"
    assert loss[0][1] < loss[1][1] < loss[2][1]
    assert levels(svg)["4 3"] < levels(svg)["none"] < min(y for _, y in memory), "plain cell, budget, memory"
    for text in ("peak 824 MiB", "plain cell about 1,500 MiB", "budget 1,024 MiB", "2.25 → 0.4123"):
        assert text in texts(svg)
    assert [text for text in texts(svg) if text.startswith(("para", "grad", "opti", "acti", "other"))] == [
        "parameters 96 MiB", "gradients 95 MiB", "optimizer state 192 MiB", "activations 211 MiB", "other 230 MiB",
    ]  # fmt: skip


def test_each_curve_has_its_own_steps():
    memory = [(900.0, 640.0), (900.0, 800.0), (900.0, 760.0), (990.0, 760.0)]
    svg = seen(memory=memory, losses=[(1.0, 2.0), (251.0, 1.0), (1001.0, 0.5)]).svg
    ends = [text for text in texts(svg) if text.startswith("step ") or text in ("990", "1,001")]
    assert ends == ["step 900", "990", "step 1", "1,001"], "memory is of the last minute, the loss of the whole run"
    (start, *between, end), loss = ([x for x, _ in curve] for curve in curves(svg))
    third = (end - start) / 3
    assert between == pytest.approx([start + third, start + 2 * third], abs=0.1), "side by side within a step"
    assert loss[1] == pytest.approx(start + (end - start) / 4, abs=0.1), "by step"


def test_a_label_is_not_struck_through_by_the_other_line():
    svg = seen(plain_bytes=1040 * MIB).svg
    plain, budget = levels(svg)["4 3"], levels(svg)["none"]
    places = {e.text: float(e.get("y")) for e in svg.iter(f"{SVG}text")}
    assert places["plain cell about 1,040 MiB"] < plain < budget < places["budget 1,024 MiB"] - 8


def test_the_bar_is_divided_as_the_memory_is():
    bar = [e for e in seen().svg.iter(f"{SVG}rect") if e.get("height") == "10"]
    widths = [float(e.get("width")) + 1 for e in bar]
    assert [round(824 * width / sum(widths)) for width in widths] == pytest.approx([96, 95, 192, 211, 230], abs=1)


def test_levels_far_above_the_curve_do_not_flatten_it():
    svg = seen(limit_bytes=80_000 * MIB, plain_bytes=90_000 * MIB).svg
    assert levels(svg) == {}
    assert {"↑ budget 80,000 MiB", "↑ plain cell about 90,000 MiB"} <= set(texts(svg))
    heights = [y for _, y in curves(svg)[0]]
    base = next(float(e.get("y")) for e in svg.iter(f"{SVG}text") if e.text == "step 1") - 14
    assert base - min(heights) > 80, "the curve has the height of the chart"


def test_the_scale_begins_where_it_can_be_read_if_most_of_the_memory_is_in_use_all_the_time():
    svg = seen(memory=[(1.0, 340.0), (2.0, 390.0), (3.0, 360.0)], peak_bytes=390 * MIB, plain_bytes=400 * MIB).svg
    assert "Memory, from 325 MiB up" in texts(svg)
    low, high = (place for _, place in curves(svg)[0][:2])
    assert low - high > 50, "50 MiB are more than half of the chart's height"
    svg = seen(memory=[(1.0, 10.0), (2.0, 390.0)]).svg
    assert "Memory" in texts(svg)


def test_a_loss_that_is_no_number_leaves_the_curve_as_far_as_it_goes():
    svg = seen(losses=[*LOSSES, (4.0, math.nan), (5.0, math.inf)], loss=None, loss_text="nan").svg
    assert len(curves(svg)[1]) == 3


def test_nothing_known_has_no_image():
    page = seen(memory=[], losses=[], footprint=None)
    assert page.image is None
    assert page.table["Peak memory"] == "824 MiB"


@pytest.mark.parametrize(("memory", "losses"), [(MEMORY, []), ([], LOSSES), (MEMORY[:1], LOSSES[:1])])
def test_the_image_of_a_run_of_which_less_is_known(memory, losses):
    svg = seen(memory=memory, losses=losses).svg
    has_memory = any(text.startswith("Memory") for text in texts(svg))
    assert (has_memory, "Loss" in texts(svg)) == (bool(memory), bool(losses))


@given(
    st.lists(st.tuples(st.floats(0, 1e9), st.floats())),
    st.lists(st.tuples(st.floats(0, 1e9), st.floats())),
    st.floats(0, 1e15),
    st.floats(0, 1e15),
)
def test_any_numbers_can_be_drawn(memory, losses, limit, plain):
    text = result_svg(Figures(memory, sorted(losses), "0.1", 1.0, limit, plain, {"other": 1.0}))
    svg = ET.fromstring(text)  # noqa: S314 - our own
    width, height = (float(svg.get(name)) for name in ("width", "height"))
    for curve in curves(svg):
        assert all(0 <= x <= width and 0 <= y <= height for x, y in curve)
    assert "nan" not in text
    assert "inf" not in text


@given(st.lists(st.floats(-1e6, 1e6), max_size=1500))
def test_fewer_points_keep_the_first_the_last_and_every_peak(values):
    points = list(enumerate(values))
    kept = decimated(points)
    assert len(kept) <= MOST_POINTS
    assert [step for step, _ in kept] == sorted({step for step, _ in kept})
    assert set(kept) <= set(points)
    if points:
        assert (kept[0], kept[-1]) == (points[0], points[-1])
        assert min(v for _, v in kept) == min(values)
        assert max(v for _, v in kept) == max(values)


def test_reasons_and_notes_are_listed():
    page = seen(verdict="approximate", reasons=["BatchNorm (1)", "`torch.std`"], notes=["dropout"])
    assert page.items == ["approximate: BatchNorm (1)", "approximate: `torch.std`", "note: dropout"]


def test_the_lines_are_listed_with_when_they_run():
    assert seen().pre.splitlines() == [
        "   1  for x, y in loader:",
        "   2      optimizer.zero_grad()               once before",
        "   3      F.mse_loss(model(x), y).backward()  per micro-batch",
        "   4      optimizer.step()                    once after",
        "`fit` (In[3]), called in line 2:",
    ]
    assert "details" not in {tag for tag, _ in seen(lines=[]).elements}


def test_names_code_and_messages_are_never_html():
    lines = [(1, EVIL, EVIL), (None, "", EVIL)]
    page = seen(
        lines=lines, verdict=EVIL, reasons=[EVIL], notes=[EVIL], how=EVIL, outcome="failed", error=EVIL, loss_text=EVIL,
        loss=None,
    )  # fmt: skip
    harmless = {"div", "img", "table", "tr", "th", "td", "br", "ul", "li", "b", "details", "summary", "pre"}
    assert {tag for tag, _ in page.elements} == harmless
    assert page.items == [f"approximate: {EVIL}", f"note: {EVIL}"]
    assert page.table["accum_magic"] == f"failed after step 80 of 80: {EVIL}"
    assert page.table["Until then"] == EVIL
    assert page.table["Micro-batches"] == f"10 at the end ({EVIL})"
    assert page.table["Loss"] == f"2.25 → {EVIL}"
    assert page.pre == f"   1  {EVIL}  {EVIL}\n{EVIL}"
    assert f"loss 2.25 → {EVIL}" in page.image["alt"]
    assert f"2.25 → {EVIL}" in texts(page.svg)


def test_no_style_no_script_no_inline_svg_no_event():
    page = seen(reasons=["r"], notes=["n"])
    assert not {"style", "script", "svg"} & {tag for tag, _ in page.elements}
    assert {name for _, attrs in page.elements for name, _ in attrs} == {"align", "alt", "src", "scope", "clear"}


def test_half_a_surrogate_pair_can_be_sent():
    bundle = result_bundle(state(notes=["\ud800"]), MEMORY, LOSSES, [(1, "", "'\udfff'")], SUMMARY)
    assert Seen(bundle["text/html"].encode().decode()).items == ["note: ?"]


def test_the_size_is_bounded():
    rng = random.Random(0)
    memory = [(step, 700 + 200 * rng.random()) for step in range(1, 10_001)]
    losses = [(step, 1e5 * rng.random()) for step in range(1, 10_001)]
    lines = [(number, "whole and per micro-batch", "'\"<&>" * 100) for number in range(1, 2000)]
    remarks = ["<&>" * 1000] * 1000
    usual = result_bundle(state(reasons=["BatchNorm"], notes=["dropout"]), memory, losses, LINES, SUMMARY)
    most = result_bundle(state(reasons=remarks, notes=remarks), memory, losses, lines, SUMMARY)
    sizes = [len(bundle["text/html"].encode()) for bundle in (usual, most)]
    print(f"HTML of a run with 10,000 steps: {sizes[0]:,} bytes; with every part at its largest: {sizes[1]:,} bytes")
    assert max(sizes) < MOST_BYTES
    page = Seen(most["text/html"])
    assert page.items[-1] == f"… {2001 - len(page.items):,} more"
    shown = page.pre.splitlines()
    assert shown[-1] == f"… {2000 - len(shown):,} more"


def test_nbconvert_shows_it():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("%%accumulate 10", execution_count=1)])
    bundle = result_bundle(state(notes=[EVIL]), MEMORY, LOSSES, LINES, SUMMARY)
    notebook.cells[0].outputs = [nbformat.v4.new_output("display_data", data=bundle)]
    body, _ = HTMLExporter().from_notebook_node(notebook)
    shown = Seen("<div>" + body[body.index("<img align") : body.index("</details>")] + "</details></div>")
    bundled = Seen(bundle["text/html"])
    assert (shown.rows, shown.items, shown.image) == (bundled.rows, bundled.items, bundled.image)
    assert shown.pre == bundled.pre
