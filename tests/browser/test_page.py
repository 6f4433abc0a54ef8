"""The panel's page alone, in Chromium: what it shows of each message, and what it sends for each click and key."""

import pytest
from playwright.sync_api import expect

from accum_magic.view.text import clock
from browser.page_tools import MEBIBYTE, OtherEnd, empty

HOSTILE = "<img src=x onerror=\"document.title='hurt'\"> </code></section><script>document.title='hurt'</script>"
UNHEARD = "The kernel does not hear this page while the cell runs: use the notebook's interrupt button"


@pytest.fixture(scope="module")
def window(chromium):
    """One page for all tests here, whose time stands still but for `pass_ms`."""
    context = chromium.browser.new_context()  # a clock is that of all pages of a context
    page, errors = context.new_page(), []
    page.on("pageerror", lambda error: errors.append(error.stack))
    page.clock.install()
    page.clock.pause_at("2100-01-01")
    yield page, errors
    context.close()


@pytest.fixture
def page(window):
    page, errors = window
    page.set_viewport_size({"width": 1100, "height": 900})
    empty(page)
    yield page
    assert errors == []


@pytest.fixture
def panel(page):
    panel = OtherEnd(page)
    panel.welcome()
    return panel


# ---------------------------------------------------------------- what is shown


def test_numbers_stand_as_in_the_text_view(panel):
    for number in (0, 2.5, 999.5, 1000.5, 1234.5, 1234567.8):
        panel.tell("state", state={"samples_per_s": number, "memory_bytes": number * MEBIBYTE, "elapsed_s": number})
        assert panel.value_of("Speed") == f"{number:,.0f} samples/s"
        expect(panel.region).to_contain_text(f"in use {number:,.0f} MiB")
        assert panel.value_of("Time") == f"{clock(number)} · 0:42 left"


def test_a_loss_has_four_digits_as_in_the_text_view(panel):
    for loss in (0.41234, 2.0, 0.0, -3.14159, 1e-5, 0.00012345, 999.96, 9999.9, 12345.6, 1.5e300):
        panel.tell("state", state={"loss": loss})
        assert panel.value_of("Loss") == f"{loss:.4g}"


def test_what_is_not_known_is_left_open(panel):
    unknown = dict.fromkeys(("total_steps", "loss", "remaining_s", "plain_bytes", "verdict", "n", "sizes"))
    panel.tell("state", state={**unknown, "step": 1, "micro_batch": 0, "micro_batches": 0, "how": "auto"})
    assert panel.value_of("Step") == "1"
    assert panel.value_of("Loss") == "–"
    assert panel.value_of("Time") == "0:09"
    expect(panel.region).to_contain_text("not measured yet")
    expect(panel.n).to_have_attribute("placeholder", "auto")
    assert "plain cell" not in panel.region.inner_text()
    assert "null" not in panel.region.inner_text()


def test_a_loss_that_is_no_number_is_told(panel):
    panel.tell("state", state={"loss": None, "loss_text": "nan"})
    assert panel.value_of("Loss") == "nan"


def test_scheduler_steps_are_counted_where_there_are_any(panel):
    assert not panel.region.get_by_text("Scheduler steps").is_visible()
    panel.tell("state", state={"scheduler_steps": 7})
    assert panel.value_of("Scheduler steps") == "7"


def test_the_scale_begins_where_it_can_be_read_if_most_of_the_memory_is_in_use_all_the_time(panel):
    sizes = {"peak_bytes": 390 * MEBIBYTE, "plain_bytes": 400 * MEBIBYTE, "memory_bytes": 340 * MEBIBYTE}
    sizes["limit_bytes"] = 9000 * MEBIBYTE
    panel.tell("state", state=sizes, memory=[(1, 340), (1, 390), (2, 340)])
    expect(panel.region).to_contain_text("Memory, from 325 MiB up")
    low, high = panel.lowest_and_highest("path.am-line")
    assert (round(low), round(high)) == (19, 80)
    panel.tell("state", state=sizes, memory=[(1, 10), (1, 390), (2, 340)])
    expect(panel.region).not_to_contain_text("from")


def test_a_level_far_above_the_memory_is_told_and_does_not_flatten_the_curve(panel):
    memory = [(1, 300), (2, 600)]
    panel.tell("state", memory=memory, state={"limit_bytes": 80_000 * MEBIBYTE, "plain_bytes": 1200 * MEBIBYTE})
    lowest, highest = panel.lowest_and_highest(".am-line")
    plain, _ = panel.lowest_and_highest(".am-plain")
    assert highest == pytest.approx(2 * lowest, abs=0.1)  # the chart begins at zero
    assert plain == pytest.approx(2 * highest, abs=0.1)
    assert plain > 90
    assert not panel.region.locator("svg .am-budget").is_visible()
    expect(panel.region).to_contain_text("budget 80,000 MiB, far above")


def test_the_memory_of_one_long_step_is_a_curve_over_time(panel):
    panel.tell("state", memory=[(5, 100), (5, 500), (5, 200)])
    drawn = panel.region.locator("svg >> nth=0 >> .am-line").get_attribute("d")
    assert [point.split()[0] for point in drawn[1:].split("L")] == ["0.00", "50.00", "100.00"]


def test_a_cell_for_each_micro_batch_is_as_wide_as_its_samples(panel):
    panel.tell("state", state={"sizes": [300, 100, 100], "micro_batches": 3, "micro_batch": 2})
    cells = panel.region.locator(".am-strip > span")
    widths = [cell.bounding_box()["width"] for cell in cells.all()]
    assert widths == pytest.approx([3 * widths[1], widths[1], widths[1]], rel=0.05)
    filled = [cell.locator("span").bounding_box()["width"] > 0 for cell in cells.all()]
    assert filled == [True, False, False]
    expect(panel.region).to_contain_text("Micro-batch 2 of 3")


def test_a_rescue_that_splits_a_micro_batch_shows_in_mid_step(panel):
    panel.tell("state", state={"sizes": [100, 100], "micro_batches": 2, "micro_batch": 2})
    split = {"sizes": [100, 50, 50], "micro_batches": 3, "micro_batch": 2, "rescues": 1}
    panel.tell("state", state=split)
    assert panel.region.locator(".am-strip > span").count() == 3
    expect(panel.region).to_contain_text("1 ran out of memory and ran again in smaller pieces")


def test_many_micro_batches_are_one_bar(panel):
    panel.tell("state", state={"sizes": None, "micro_batches": 200, "micro_batch": 101})
    [cell] = panel.region.locator(".am-strip > span").all()
    outer, inner = cell.bounding_box()["width"], cell.locator("span").bounding_box()["width"]
    assert inner / outer == pytest.approx(0.5, abs=0.02)


def test_what_comes_from_the_kernel_is_text_never_html(page):
    panel = OtherEnd(page)
    state = {**dict.fromkeys(("verdict", "how", "loss_text"), HOSTILE), "n": None, "loss": None}
    state |= {"reasons": [HOSTILE], "notes": [HOSTILE]}
    panel.welcome(locked=HOSTILE, lines=[[None, "", HOSTILE], [1, HOSTILE, HOSTILE]], state=state)
    panel.tell("refused", text=HOSTILE)
    panel.region.evaluate("region => region.querySelectorAll('details').forEach((one) => (one.open = true))")
    assert panel.region.inner_text().count(HOSTILE) == 10
    assert panel.region.locator("img, script").count() == 0
    assert page.title() == "panel"


def test_lines_are_marked_by_group_and_keep_their_indentation(page):
    panel = OtherEnd(page)
    title = [None, "", "`fit` (In[3]), called in line 2:"]
    lines = [[1, "once before", "\tx = 1"], [2, "once before", "\t\ty = 2"], [3, "per micro-batch", "z"]]
    panel.welcome(lines=[title, *lines])
    assert not panel.region.get_by_text("once before").is_visible()
    panel.region.get_by_text("What runs when").click()
    assert panel.region.locator(".am-mark").all_inner_texts() == ["once before", "per micro-batch"]
    assert panel.region.locator("code").all_text_contents() == ["\tx = 1", "\t\ty = 2", "z"]
    expect(panel.region).to_contain_text("`fit` (In[3]), called in line 2:")


@pytest.mark.parametrize("width", [320, 400, 960])
def test_nothing_is_wider_than_the_page(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    panel = OtherEnd(page)
    word = "print('" + "x" * 300 + "')"
    state = {"reasons": [word], "notes": [word], "verdict": "approximate", "step": 1_234_567, "total_steps": 12_345_678}
    panel.welcome(lines=[[1234, "whole and per micro-batch", word]], locked=f"N cannot change: {word}", state=state)
    panel.region.evaluate("region => region.querySelectorAll('details').forEach((one) => (one.open = true))")
    beyond = "(e) => e.getBoundingClientRect().right > innerWidth"
    found = f"region => [...region.querySelectorAll('*')].filter({beyond}).map((e) => e.className)"
    assert panel.region.evaluate(found) == []


# ---------------------------------------------------------------- hello, welcome, and whose run it is


def test_hello_is_said_until_a_welcome_comes(page):
    panel = OtherEnd(page)
    panel.pass_ms(2500)
    hellos = panel.sent("hello")
    assert len(hellos) == 3
    assert len({hello["page"] for hello in hellos}) == 1
    panel.welcome()
    panel.pass_ms(20_000)
    assert panel.sent("hello") == hellos


def test_where_the_kernel_does_not_hear_the_page_says_what_to_do(page):
    panel = OtherEnd(page)
    expect(panel.region).to_contain_text("Waiting for the kernel")
    panel.pass_ms(3100)
    panel.tell("state")
    expect(panel.region).to_contain_text(UNHEARD)
    expect(panel.button("Pause")).to_be_disabled()
    expect(panel.button("Stop")).to_be_disabled()
    expect(panel.n).to_be_disabled()
    assert panel.value_of("Step") == "12 of 80"
    panel.welcome()  # late
    expect(panel.button("Pause")).to_be_enabled()
    assert UNHEARD not in panel.region.inner_text()


def test_hello_is_said_on_where_a_text_has_taken_the_views_place(page):
    panel = OtherEnd(page)
    panel.close()
    panel.pass_ms(2500)
    assert len(panel.sent("hello")) == 3
    panel.welcome()
    panel.pass_ms(5000)
    assert len(panel.sent("hello")) == 3


def test_where_nobody_ever_answers_the_run_is_over(page):
    panel = OtherEnd(page)
    panel.pass_ms(30_000)
    assert len(panel.sent("hello")) == 10
    expect(panel.region.get_by_role("status")).to_have_text("This panel's run is over")
    panel.welcome()
    expect(panel.region.get_by_role("status")).to_have_text("Running")


def test_a_panel_restored_without_a_kernel_says_that_its_run_is_over(page):
    panel = OtherEnd(page, has_kernel=False)
    panel.pass_ms(100)
    expect(panel.region.get_by_role("status")).to_have_text("This panel's run is over")
    assert panel.sent("hello") == []
    assert panel.region.get_by_role("button").count() == 0


def test_a_message_of_another_run_is_not_shown_until_a_welcome_begins_it(panel):
    panel.tell("state", run="run 2", state={"step": 50})
    panel.tell("refused", run="run 2", text="not for this one")
    panel.tell("ended", run="run 2", state={"state": "ended", "outcome": "finished"})
    assert panel.value_of("Step") == "12 of 80"
    expect(panel.region.get_by_role("status")).to_have_text("Running")
    panel.welcome(run="run 2", state={"step": 51})
    assert panel.value_of("Step") == "51 of 80"
    panel.button("Stop").click()
    assert panel.sent("command") == [{"kind": "command", "run": "run 2", "command": "stop"}]


def test_messages_that_are_not_understood_change_nothing(panel):
    shown = panel.region.inner_text()
    panel.page.evaluate("for (const odd of [null, {}, [], 'x', { kind: 'other' }]) panels[0].heard[0](odd, undefined)")
    panel.pass_ms(100)
    assert panel.region.inner_text() == shown


def test_two_panels_on_a_page_know_nothing_of_each_other(panel):
    other = OtherEnd(panel.page, 1)
    other.welcome(run="run 2", reach="update", state={"step": 3})
    other.button("Pause").click()
    assert panel.sent("command") == []
    assert [command["run"] for command in other.sent("command")] == ["run 2"]
    assert panel.value_of("Step") == "12 of 80"
    expect(panel.region).to_contain_text("Controls act at once")
    other.pass_ms(100)
    expect(other.region).to_contain_text("Pausing …")
    other.close()
    assert panel.page.evaluate("panels.map((one) => one.heard.length)") == [2, 1]  # the widget itself goes on to hear


# ---------------------------------------------------------------- controls


def test_each_control_sends_its_command_and_nothing_else(panel):
    panel.button("Pause").click()
    panel.tell("state", state={"state": "paused"})
    panel.button("Resume").click()
    panel.tell("state")
    panel.n.fill("8")
    panel.n.press("Enter")
    panel.pass_ms(1000)
    panel.button("Stop").click()
    command = {"kind": "command", "run": "run 1"}
    assert panel.sent("command") == [
        {**command, "command": "pause"},
        {**command, "command": "resume"},
        {**command, "command": "n", "value": 8},
        {**command, "command": "stop"},
    ]


def test_keys_held_down_ask_for_one_n(panel):
    panel.n.focus()
    for _ in range(5):
        panel.n.press("ArrowUp")
        panel.tell("state")  # does not put the old N back
    panel.pass_ms(1000)
    assert [command["value"] for command in panel.sent("command")] == [15]
    expect(panel.region).to_contain_text("15 micro-batches from the next step on")
    panel.tell("state", state={"n": 15})
    expect(panel.region).to_contain_text("Controls act at once")
    expect(panel.n).to_have_value("15")


@pytest.mark.parametrize("typed", ["0", "-3", "2.5", "1000001", ""])
def test_an_n_that_cannot_be_is_not_sent(panel, typed):
    panel.n.fill(typed)
    panel.n.press("Enter")
    panel.pass_ms(1000)
    assert panel.sent("command") == []
    expect(panel.region.get_by_role("status")).to_contain_text("N is a whole number from 1 to 1,000,000.")
    expect(panel.n).to_have_value("10")


def test_a_refused_n_gives_way_to_the_one_that_holds(panel):
    panel.n.fill("8")
    panel.n.press("Enter")
    panel.pass_ms(1000)
    expect(panel.n).to_have_value("8")
    panel.tell("refused", text="N cannot change here.")
    expect(panel.region.get_by_role("status")).to_contain_text("N cannot change here.")
    expect(panel.n).to_have_value("10")


def test_a_locked_n_says_why(page):
    panel = OtherEnd(page)
    panel.welcome(reach="update", locked="N cannot change: the window holds 3 batches.")
    expect(panel.n).to_be_disabled()
    expect(panel.button("Pause")).to_be_enabled()
    description = "Controls act at the next micro-batch. N cannot change: the window holds 3 batches."
    expect(panel.n).to_have_accessible_description(description)


def test_the_keyboard_keeps_its_place(panel):
    active = "document.activeElement.textContent"
    panel.button("Pause").focus()
    panel.page.keyboard.press("Space")
    panel.tell("state", state={"state": "paused"})
    assert panel.page.evaluate(active) == "Resume"
    panel.page.keyboard.press("Enter")
    panel.tell("state")
    assert panel.page.evaluate(active) == "Pause"
    panel.page.keyboard.press("Tab")
    assert panel.page.evaluate(active) == "Stop"
    expect(panel.button("Stop")).to_have_accessible_description("Stop after this update")
    panel.page.keyboard.press("Enter")
    panel.pass_ms(100)
    expect(panel.button("Stop")).to_be_disabled()
    expect(panel.button("Pause")).to_be_disabled()
    assert panel.page.evaluate("document.activeElement.getAttribute('aria-label')") == "accum_magic"
    expect(panel.region.get_by_role("status")).to_have_text("Stopping after this update")


def test_only_changes_of_state_are_announced(panel):
    status = panel.region.get_by_role("status")
    status.evaluate(
        "status => new MutationObserver(() => (window.changes = (window.changes ?? 0) + 1))"
        ".observe(status, { childList: true, characterData: true, subtree: true })"
    )
    for step in range(13, 20):
        panel.tell("state", state={"step": step, "loss": 1 / step, "memory_bytes": step * MEBIBYTE})
    assert panel.page.evaluate("window.changes") is None
    panel.tell("state", state={"state": "paused"})
    assert panel.page.evaluate("window.changes") == 1
    expect(status).to_have_text("Paused")


@pytest.mark.parametrize(("outcome", "word"), [("finished", "Finished"), ("stopped", "Stopped"), ("failed", "Failed")])
def test_an_ended_run_says_how_and_has_no_controls(panel, outcome, word):
    panel.tell("ended", state={"state": "ended", "outcome": outcome, "remaining_s": None})
    expect(panel.region.get_by_role("status")).to_have_text(word)
    assert panel.region.get_by_role("button").count() == 0
    assert panel.value_of("Step") == "12 of 80"


def test_behind_a_run_the_check_can_be_asked_for(panel):
    assert not panel.button("Check exactness").is_visible()
    panel.tell("ended", state={"state": "ended", "outcome": "finished"}, check=True)
    panel.button("Check exactness").click()
    assert panel.sent("command") == [{"kind": "command", "run": "run 1", "command": "check"}]
    expect(panel.button("Check exactness")).to_be_disabled()
    expect(panel.region).to_contain_text("Checking …")
    panel.tell("checked", run="run 0", text="of another run")
    expect(panel.button("Check exactness")).to_be_disabled()
    panel.tell("checked", text=f"line 4: the same\n  weight  {HOSTILE}")
    expect(panel.button("Check exactness")).to_be_enabled()
    expect(panel.region.locator("pre")).to_have_text(f"line 4: the same\n  weight  {HOSTILE}")
    panel.welcome(run="run 2")
    assert not panel.button("Check exactness").is_visible()


def test_in_jupyterlab_the_check_stays_beside_what_takes_the_panels_place_and_goes_with_it(page):
    child = "<div class='jp-OutputArea-child'></div>"
    page.evaluate(f"document.querySelector('main').innerHTML = \"<div class='jp-OutputArea'>{child}{child}</div>\"")
    panel = OtherEnd(page, into=".jp-OutputArea-child")
    panel.welcome()
    panel.tell("ended", state={"state": "ended", "outcome": "finished"}, check=True)
    page.evaluate("document.querySelector('.jp-OutputArea-child').remove()")
    panel.close()
    check = page.get_by_role("button", name="Check exactness")
    expect(check).to_be_visible()
    check.click()
    expect(check).to_be_disabled()
    panel.tell("checked", text="the same")
    expect(check).to_be_enabled()
    page.evaluate("document.querySelector('.jp-OutputArea-child').remove()")
    expect(check).to_have_count(0)


def test_a_closed_view_leaves_nothing_behind(panel):
    panel.close()
    sent = panel.sent("hello")
    panel.page.evaluate("window.dispatchEvent(new Event('online'))")
    panel.pass_ms(20_000)
    assert panel.page.evaluate("panels[0].heard.length") == 1  # the widget's own
    assert panel.sent("hello") == sent
