"""The hub: the real client library against a small hub of our own, there and back."""

import base64
import hashlib
import importlib.util
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from cleanpoke import ppo
from cleanpoke.errors import CleanPokeError
from cleanpoke.run import load_checkpoint

spec = importlib.util.spec_from_file_location("hub", Path(__file__).parents[2] / "tools" / "hub.py")
hub = importlib.util.module_from_spec(spec)
sys.modules["hub"] = hub
spec.loader.exec_module(hub)

COMMIT = "0" * 40


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's HTTP interface as an upload and a download need."""

    files: dict[str, bytes]
    created: list[dict]

    def answer(self, content: dict | bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self) -> None:  # noqa: N802 (the name is the library's)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            self.created.append(json.loads(body))
            self.answer({"url": f"http://{self.headers['Host']}/me/pole"})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif self.path.endswith("/preupload/main"):
            files = json.loads(body)["files"]
            answers = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]
            self.answer({"files": answers})
        elif self.path.endswith("/commit/main"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer(
                {"commitUrl": f"http://{self.headers['Host']}/me/pole/commit/{COMMIT}", "commitOid": COMMIT}
            )
        else:
            self.answer({"error": f"no {self.path}"}, 404)

    def do_GET(self) -> None:  # noqa: N802
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/me/pole"):
            names = [{"rfilename": name} for name in self.files]
            tree = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in self.files.items()
            ]
            info = {"id": "me/pole", "sha": COMMIT, "siblings": names, "tags": [], "private": False}
            self.answer(tree if "/tree/" in path else info)
        elif path.startswith("/me/pole/resolve/") and path.rpartition("/")[2] in self.files:
            content = self.files[path.rpartition("/")[2]]
            etag = f'"{hashlib.sha1(content).hexdigest()}"'
            self.answer(content, headers={"ETag": etag, "X-Repo-Commit": COMMIT})
        else:
            self.answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def endpoint(monkeypatch):
    Hub.files, Hub.created = {}, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pole")
    options = {"num_envs": 2, "num_steps": 16, "num_minibatches": 4, "total_timesteps": 64}
    ppo.main(ppo.Args(runs=folder, eval_episodes=2, **options))
    (run,) = folder.iterdir()
    return run


def test_a_run_goes_up_and_comes_back(run, endpoint, tmp_path, capsys):
    hub.main(hub.Push(run, "me/pole", private=True), endpoint)
    assert Hub.created[0]["name"] == "pole" and Hub.created[0]["visibility"] == "private"
    card = Hub.files["README.md"].decode()
    assert "library_name: cleanpoke" in card and "mean_reward" in card and "|learning_rate|0.001|" in card
    hub.main(hub.Pull("me/pole", runs=tmp_path), endpoint)
    folder = tmp_path / "me__pole"
    ours, theirs = load_checkpoint(run), load_checkpoint(folder)
    assert theirs.step == ours.step == 64
    for name, weights in ours.state["agent"].items():
        assert torch.equal(weights, theirs.state["agent"][name])
    assert (folder / "evaluation.json").read_bytes() == (run / "evaluation.json").read_bytes()
    assert list(folder.glob("events.out.tfevents.*"))
    with pytest.raises(CleanPokeError, match="exists already"):
        hub.main(hub.Pull("me/pole", runs=tmp_path), endpoint)


def test_mistakes_are_told_in_one_line(run, endpoint, tmp_path):
    for command, message in (
        (hub.Pull("me/nothing", runs=tmp_path), "the hub did not do it"),
        (hub.Push(run, "not a name"), "the hub did not do it"),
        (hub.Push(tmp_path, "me/pole"), "holds no checkpoint"),
    ):
        with pytest.raises(CleanPokeError, match=message):
            hub.main(command, endpoint)
    with pytest.raises(CleanPokeError, match="the hub did not do it"):
        hub.main(hub.Push(run, "me/pole"), "http://127.0.0.1:9")
