"""One thread, and the tables after everything else."""

import platform

import pytest
import torch

from benchmarks.report import Report

REPORT = pytest.StashKey()


def pytest_configure(config):
    config.stash[REPORT] = Report()


@pytest.fixture
def report(request):
    return request.config.stash[REPORT]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_terminal_summary(terminalreporter, config):
    report = config.stash[REPORT]
    if not (report.lines or report.goals):
        return
    terminalreporter.section("what accumulation costs (tests/benchmarks/__init__.py says how to read it)")
    terminalreporter.write_line(f"torch {torch.__version__}, Python {platform.python_version()}, one thread")
    for line in report.all_lines():
        terminalreporter.write_line(line)
