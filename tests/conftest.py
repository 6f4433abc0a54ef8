"""In .ci/run (ACCUM_MAGIC_CI=1) a test that skips has failed: there, every real part it needs is installed."""

import os
import sys

import pytest

FAILS_ON_SKIP = bool(os.environ.get("ACCUM_MAGIC_CI"))


def pytest_addoption(parser):
    parser.addoption("--update-golden", action="store_true", help="write tests/golden/*.txt anew; read them as a diff")


def _fail_skipped(report):
    is_xfail = hasattr(report, "wasxfail")
    if FAILS_ON_SKIP and report.skipped and not is_xfail:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid} must not skip under ACCUM_MAGIC_CI: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    return _fail_skipped((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report():
    return _fail_skipped((yield))


def pytest_unconfigure():
    environments = sys.modules.get("environments")
    if environments is not None:
        environments.forget()
