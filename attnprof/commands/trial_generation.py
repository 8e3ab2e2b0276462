"""A generation of three tokens by a model of one layer, in a process of its own: its steps must be told."""

from __future__ import annotations

import subprocess
import tempfile
from collections import Counter
from pathlib import Path

from attnprof.calls.records import read_records
from attnprof.check.step_claims import disbelief
from attnprof.doctor.trial import TrialGeneration
from attnprof.errors import RunError
from attnprof.files.untrusted import read_json
from attnprof.workloads.spec import ChildSpec, GenerateOptions
from attnprof.workloads.written import CALLS_FILE, WORKLOAD_FILE

_NEW_TOKENS = 3
_OPTIONS = GenerateOptions(max_new_tokens=_NEW_TOKENS, prompt_tokens=5, layers=1, device="cpu", attn="sdpa")


def try_generation(*, limit_s: float = 120.0) -> TrialGeneration:
    """Generates under the installed torch and transformers, for at most ``limit_s`` seconds."""
    with tempfile.TemporaryDirectory(prefix="attnprof-") as name:
        folder = Path(name)
        command = ChildSpec(str(folder), "none", generate=_OPTIONS).command()
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=limit_s, check=False
            )
            workload = read_json(folder / WORKLOAD_FILE)
            records = read_records(folder / CALLS_FILE)
        except subprocess.TimeoutExpired:
            return TrialGeneration("", f"it had not ended after {limit_s:g} s")
        except (OSError, ValueError, RunError):
            said = done.stderr.decode(errors="replace").strip().splitlines() or ["it left no calls"]
            return TrialGeneration("", said[-1][:300])
        if workload.get("error"):
            return TrialGeneration("", str(workload["error"])[:300])
        steps = workload.get("steps") or []
        count = Counter(step.get("phase") for step in steps)
        found = " and ".join(f"{number} {phase}" for phase, number in count.items()) or "no"
        why = disbelief(steps, records, workload)
        if why is None and count != {"prefill": 1, "decode": _NEW_TOKENS - 1}:
            why = f"a generation of {_NEW_TOKENS} tokens came to {found} steps"
        return TrialGeneration(f"{_NEW_TOKENS} tokens came to {found} steps", why or "")
