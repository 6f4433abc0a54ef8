import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from environments import STACKS
from packaging.requirements import Requirement

import accum_magic

ROOT = Path(__file__).parents[1]
IN_CI = bool(os.environ.get("ACCUM_MAGIC_CI"))


def declared_requirements():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    return [Requirement(line) for line in sum(extras, project["dependencies"])]


def pinned_versions():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def readme_block(name):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    [block] = re.findall(rf"^<!-- {name} line -->\n+```bash\n(.*?)\n```$", text, re.MULTILINE | re.DOTALL)
    return block


@pytest.fixture(scope="module")
def checkout_files():
    """The files that a commit of this checkout would hold."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return sorted({name for name in listed.split("\0") if name and (ROOT / name).is_file()})


@pytest.fixture(scope="module")
def built(checkout_files, tmp_path_factory):
    """The folder with the source archive of a clean checkout, and the wheel built from that archive."""
    checkout, built = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("built")
    for name in checkout_files:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, checkout / name)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", built, checkout]
    run = subprocess.run(command, check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return built


@pytest.mark.skipif(not IN_CI, reason="a developer may work on an editable install")
def test_the_tests_use_the_installed_wheel():
    assert Path(accum_magic.__file__).parents[1].name == "site-packages"
    assert ROOT not in map(Path, sys.path), "the checkout on sys.path would hide what the wheel lacks"


def test_wheel_holds_the_package_and_nothing_else(built, checkout_files):
    [wheel] = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    package = {name for name in names if not name.startswith("accum_magic-0.1.0.dist-info/")}
    assert "accum_magic/py.typed" in package
    assert package == {name for name in checkout_files if name.startswith("accum_magic/")}


def test_wheel_tells_its_license_and_readme(built):
    [wheel] = built.glob("*.whl")
    archive = zipfile.ZipFile(wheel)
    assert "accum_magic-0.1.0.dist-info/licenses/LICENSE" in archive.namelist()
    about = archive.read("accum_magic-0.1.0.dist-info/METADATA").decode()
    assert "License-Expression: MIT" in about
    assert "Requires-Python: >=3.11" in about
    assert "# accum_magic" in about


def test_source_archive_holds_the_tests_and_the_notebooks(built, checkout_files):
    [source] = built.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = {name.removeprefix("accum_magic-0.1.0/") for name in archive.getnames()}
    folders = ("accum_magic/", "binder/", "notebooks/", "tests/")
    assert {name for name in checkout_files if name.startswith(folders)} <= names
    assert not any(name.startswith(".ci") for name in names)


@pytest.mark.parametrize("requirement", declared_requirements(), ids=lambda each: each.name)
def test_lowest_version_is_the_one_the_suite_ran_on(requirement):
    oldest = {pin.partition("==")[0]: pin.partition("==")[2] for pin in STACKS["colab"]}
    lowest = {**pinned_versions(), **oldest}[requirement.name]
    assert str(requirement.specifier) == f">={lowest}"


def test_torch_is_pinned_without_a_build_tag_and_nothing_brings_cuda():
    assert pinned_versions()["torch"] == "2.13.0"
    assert not [name for name in pinned_versions() if name.startswith(("nvidia", "cuda", "triton"))]


@pytest.mark.skipif(not IN_CI, reason="a developer's own environment may hold other versions")
def test_installed_versions_are_the_pinned_ones():
    installed = {each.name.lower().replace("_", "-"): each.version for each in metadata.distributions()}
    pinned = {name.lower().replace("_", "-"): version for name, version in pinned_versions().items()}
    assert {name: installed.get(name, "").split("+")[0] for name in pinned} == pinned


@pytest.mark.parametrize("name", ["setup", "test"])
def test_readme_line_is_one_line_and_installs_the_pinned_versions(name):
    block = readme_block(name)
    assert "\n" not in block
    assert "pip install -c constraints.txt" in block


def test_readme_setup_line_opens_a_notebook_that_exists():
    opened = readme_block("setup").split()[-1]
    assert opened.endswith(".ipynb")
    assert (ROOT / opened).is_file()
