import os
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
CONDA_NAMES = {"torch": "pytorch-cpu", "matplotlib": "matplotlib-base"}
ONLY_IN_CONDA = {"python", "pip"}


@pytest.fixture(scope="module")
def pyproject():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def environment():
    return yaml.safe_load((ROOT / "binder/environment.yml").read_text(encoding="utf-8"))


def bounds(lines):
    requirements = [Requirement(line) for line in lines]
    return {CONDA_NAMES.get(each.name, each.name): str(each.specifier) for each in requirements}


def conda_bounds(environment):
    lines = [line for line in environment["dependencies"] if line.split("=")[0] not in ONLY_IN_CONDA]
    return {line.split(">=")[0]: f">={line.split('>=')[1]}" for line in lines}


def test_packages_and_lowest_versions_agree(pyproject, environment):
    project = pyproject["project"]
    declared = project["dependencies"] + project["optional-dependencies"]["lab"] + pyproject["build-system"]["requires"]
    assert conda_bounds(environment) == bounds(declared)


def test_python_is_one_the_package_supports(pyproject, environment):
    [python] = [line for line in environment["dependencies"] if line.startswith("python=")]
    assert SpecifierSet(pyproject["project"]["requires-python"]).contains(python.removeprefix("python="))


def test_comes_from_conda_forge_alone(environment):
    assert environment["channels"] == ["conda-forge", "nodefaults"]


def test_post_build_adds_the_package_alone():
    post_build = ROOT / "binder/postBuild"
    assert os.access(post_build, os.X_OK)
    commands = [line for line in post_build.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert commands == ["set -euo pipefail", "python -m pip install --no-deps --no-build-isolation ."]
