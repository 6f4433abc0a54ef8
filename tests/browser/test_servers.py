"""The servers, kernels and pages that the other tests stand on."""

import pytest

from browser.browser_cells import training
from browser.browser_tools import PLACES, chromium_path


def test_without_chromium_the_tests_fail_and_say_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"tests/browser needs Chromium.*apt-get install chromium"):
        chromium_path()


@pytest.mark.parametrize("front_end", PLACES)
def test_a_cell_trains_as_the_plain_one(front_end, opened):
    notebook = opened([training("4 --panel text", steps=5)], front_end)
    notebook.run(0)
    assert notebook.kernel.value("same(parameters(), plain(5))")
    assert [step for step, _ in notebook.steps()] == [0, 1, 2, 3, 4]
