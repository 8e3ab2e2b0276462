"""attnprof capture against servers in this process: what it asks, what it refuses, what it leaves."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import attnprof as package
from attnprof.capture.server_traces import trace_folder
from tests.support.command import attnprof

SECRET = "s3cret-t0ken"


class Engine(ThreadingHTTPServer):
    """Answers like ``engine``; when its profile ends, each of two ranks writes a trace."""

    daemon_threads = True

    def __init__(self, engine: str, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.engine, self.folder, self.ranks = engine, folder, 2
        self.asked: list[tuple[str, Any]] = []
        self.tokens: list[str | None] = []
        self.answers: dict[str, int] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def write_traces(self) -> None:
        for rank in range(self.ranks):
            pid, at = 100 + rank, 1000 * rank
            name = ("execute_context_1(16)_generation_0(0)", "execute_context_0(0)_generation_1(1)")
            events = [_event("user_annotation", n, pid, at + 100 * i, 80) for i, n in enumerate(name)]
            for i in range(2):
                events.append(
                    _event("cuda_runtime", "cudaLaunchKernel", pid, at + 100 * i + 5, 2, correlation=7 + i)
                )
                kernel = _event(
                    "kernel", f"kernel_of_rank_{rank}", pid, at + 100 * i + 20, 10, correlation=7 + i
                )
                kernel["args"] |= {"device": rank, "stream": 7, "grid": [1, 2, 3], "block": [128, 1, 1]}
                events.append(kernel)
            device = {"id": rank, "name": "NVIDIA H100 80GB HBM3", "computeMajor": 9, "computeMinor": 0}
            text = json.dumps({"schemaVersion": 1, "deviceProperties": [device], "traceEvents": events})
            (self.folder / f"rank{rank}.1.pt.trace.json").write_text(text)


def _event(cat: str, name: str, pid: int, ts: int, dur: int, **args: int) -> dict[str, Any]:
    return {
        "ph": "X",
        "cat": cat,
        "name": name,
        "pid": pid,
        "tid": pid,
        "ts": ts,
        "dur": dur,
        "args": dict(args),
    }


class _Handler(BaseHTTPRequestHandler):
    server: Engine

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        pages = {
            "vllm": {"/version": {"version": "0.32.0"}},
            "sglang": {"/get_server_info": {"version": "0.5.23"}},
        }.get(self.server.engine, {})
        pages |= {"/v1/models": {"data": [{"id": "org/toy"}]}} if pages else {}
        self._answer(200 if self.path in pages else 404, pages.get(self.path))

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"null")
        server.asked.append((self.path, body))
        server.tokens.append(self.headers.get("Authorization"))
        code = server.answers.get(self.path, 200)
        if self.path == "/start_profile" and code == 200 and server.engine == "sglang":
            server.folder = Path(body["output_dir"])
        ends = "/start_profile" if (body or {}).get("max_iterations") else "/stop_profile"
        if self.path == ends and code == 200:
            server.write_traces()
        self._answer(code, {"error": "no"} if code >= 400 else {})

    def _answer(self, code: int, value: Any) -> None:
        self.send_response(code)
        if code == 307:
            self.send_header("Location", "http://192.0.2.1/elsewhere")
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Any]:
    servers: list[Engine] = []

    def start(engine: str = "vllm") -> Engine:
        folder = tmp_path / "traces"
        folder.mkdir(exist_ok=True)
        servers.append(Engine(engine, folder))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return servers[-1]

    yield start
    for one in servers:
        one.shutdown()
        one.server_close()


def capture(server: Engine, *more: str) -> Any:
    named = () if server.engine == "sglang" else ("--trace-dir", str(server.folder))
    return attnprof("capture", "--url", server.url, *named, "--seconds", "0.1", "-o", "made", *more)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attnprof.capture.server_traces._SETTLED_S", 0.01)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_both_ranks_are_one_run_whose_kernels_find_the_steps_of_their_own_process(serve, engine):
    server = serve(engine)
    (server.folder / "rank0.0.pt.trace.json").write_text("{}")  # of a profile before this one
    done = capture(server)
    assert done.code == 0, done.err
    assert "2 ranks, 4 kernels, 4 ranges" in done.out
    assert [path for path, _ in server.asked] == ["/start_profile", "/stop_profile"]
    run = package.load("made")
    kernels = run.trace.kernels
    named = [run.trace.strings[name] for name in kernels.name]
    assert sorted(zip(named, kernels.pid.tolist(), kernels.device.tolist(), strict=True)) == [
        ("kernel_of_rank_0", 100, 0), ("kernel_of_rank_0", 100, 0),
        ("kernel_of_rank_1", 101, 1), ("kernel_of_rank_1", 101, 1),
    ]  # fmt: skip
    assert run.timeline.step.tolist() == [0, 1, 0, 1]
    assert kernels.grid.tolist() == [[1, 2, 3]] * 4
    assert [device.index for device in run.trace.info.devices] == [0, 1]
    assert sorted(path.name for path in (run.folder / "traces").iterdir()) == [
        "rank0.1.pt.trace.json", "rank1.1.pt.trace.json",
    ]  # fmt: skip
    config = json.loads((run.folder / "run.json").read_text())
    version = "0.32.0" if engine == "vllm" else "0.5.23"
    assert config["server"] == {"engine": engine, "version": version, "model": "org/toy"}


@pytest.mark.usefixtures("quick")
def test_steps_and_a_load_are_asked_for_in_the_words_of_the_engine(serve):
    server = serve()
    named = ("--trace-dir", str(server.folder), "-o", "made")
    done = attnprof("capture", "--url", server.url, "--steps", "3", "--load", "2", *named)
    assert done.code == 0, done.err
    bodies = dict(server.asked)
    assert bodies["/start_profile"] == {"max_iterations": 3}
    sent = [body for path, body in server.asked if path == "/v1/completions"]
    assert sorted(len(body["prompt"]) for body in sent) == [16, 128]
    assert {body["model"] for body in sent} == {"org/toy"}
    sglang = serve("sglang")
    assert capture(sglang, "-f").code == 0
    start = dict(sglang.asked)["/start_profile"]
    assert set(start) == {"output_dir", "activities", "record_shapes"}


@pytest.mark.usefixtures("quick")
def test_a_token_is_sent_and_written_nowhere(serve, monkeypatch):
    monkeypatch.setenv("ATTNPROF_SERVER_TOKEN", SECRET)
    server = serve()
    done = capture(server)
    assert done.code == 0, done.err
    assert set(server.tokens) == {f"Bearer {SECRET}"}
    assert SECRET not in done.out + done.err
    for path in package.load("made").folder.rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes(), path


@pytest.mark.usefixtures("quick")
def test_what_the_server_refuses_is_said_and_its_profiler_is_stopped(serve):
    server = serve()
    server.answers = {"/start_profile": 404}
    done = capture(server)
    assert done.code != 0
    assert "no /start_profile" in done.err
    assert "--profiler-config" in done.err
    assert [path for path, _ in server.asked] == ["/start_profile"]
    server.answers = {"/start_profile": 307}
    assert "307" in capture(server).err  # and nobody was asked elsewhere
    server.answers = {"/v1/completions": 401}
    done = capture(server, "--load", "2")
    assert done.code == 0
    assert "2 of 2 requests of the load failed" in done.err
    assert "401" in done.err
    server.answers, server.ranks = {}, 0
    done = capture(server, "-f", "--timeout", "1")
    assert done.code != 0
    assert "left no trace" in done.err
    assert server.asked[-1][0] == "/stop_profile"


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://192.0.2.1:8000", "another machine"),
        ("http://user:pass@127.0.0.1:8000", "credentials"),
        ("ftp://127.0.0.1", "no address"),
        ("http://127.0.0.1:99999", "--url"),
        ("http://127.0.0.1:9", "does not answer"),
    ],
)
def test_an_address_that_is_not_asked(url, told):
    done = attnprof("capture", "--url", url)
    assert done.code != 0
    assert told in done.err
    assert "pass@" not in done.err


def test_a_server_that_is_no_engine_and_one_that_does_not_say_where_its_traces_go(serve):
    assert "neither vLLM nor SGLang" in capture(serve("something else")).err
    done = attnprof("capture", "--url", serve().url)
    assert done.code == 2
    assert "--trace-dir" in done.err


def test_the_folder_is_read_from_what_listens_on_the_port(tmp_path):
    listen = "import socket, sys; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1])"
    for arguments in (
        ["--profiler-config", json.dumps({"profiler": "torch", "torch_profiler_dir": str(tmp_path)})],
        [f"--profiler-config.torch_profiler_dir={tmp_path}"],
        ["--profiler-config.torch-profiler-dir", str(tmp_path)],
    ):
        process = subprocess.Popen(
            [sys.executable, "-c", f"{listen}; sys.stdout.flush(); sys.stdin.read()", *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            assert trace_folder(port) == tmp_path.resolve()
        finally:
            process.communicate()
