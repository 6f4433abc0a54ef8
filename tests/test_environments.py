"""Each stack of tests/environments.py is what it says: pinned packages, their requirements met, torch from here."""

import json
import os
import subprocess

import pytest
import torch
from environments import CHECKOUT, IN_A_NEWER_LAB, STACKS, environment

# What the environment sees: versions of its own packages, what these ask for and do not find, where others come from.
ASK = """
import json, sys
from importlib.metadata import PackageNotFoundError, requires, version
from packaging.requirements import Requirement

def unmet(package):
    for requirement in map(Requirement, requires(package) or ()):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            try:
                found = version(requirement.name)
            except PackageNotFoundError:
                found = None
            if found is None or not requirement.specifier.contains(found, prereleases=True):
                yield f"{package} asks for {requirement}, found {found}"

import accum_magic, torch
packages = sys.argv[1:]
print(json.dumps({
    "versions": {p: version(p) for p in packages},
    "unmet": [text for p in packages for text in unmet(p)],
    "torch": torch.__file__,
    "accum_magic": accum_magic.__file__,
}))
"""
# Parts of a front end that no kernel imports; servers are the running interpreter's.
OF_THE_PAGE = ("jupyterlab-widgets", "widgetsnbextension")
ALL = {**STACKS, **IN_A_NEWER_LAB}


@pytest.mark.parametrize("name", [name for name in ALL if ALL[name]])
def test_an_environment_holds_its_stack_and_borrows_the_rest(name, tmp_path):
    pins = dict(pin.split("==") for pin in ALL[name])
    made = environment(name)
    run = subprocess.run(
        [made.python, "-c", ASK, *pins],
        env={**os.environ, **made.variables}, cwd=tmp_path,  # `-c` looks for packages there first
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    told = json.loads(run.stdout)
    assert told["versions"] == pins
    assert [text for text in told["unmet"] if not any(part in text for part in OF_THE_PAGE)] == []
    assert told["torch"] == torch.__file__
    assert told["accum_magic"] == str(CHECKOUT / "accum_magic" / "__init__.py")


def test_a_kernelspec_starts_the_environments_interpreter(tmp_path):
    made = environment("newest")
    assert made.write_kernelspec(tmp_path) == "newest"
    spec = json.loads((tmp_path / "kernels" / "newest" / "kernel.json").read_text(encoding="utf-8"))
    assert spec["argv"][0] == str(made.python)
    assert spec["display_name"] == "Python (newest)"
