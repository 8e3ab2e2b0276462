"""Nothing secret leaves with a page or an export."""

from __future__ import annotations

from pathlib import Path

import pytest

from attnprof.redact import redact, redact_all, redact_command

TOKEN = "hf_" + "aB3" * 11


@pytest.mark.parametrize(
    "secret",
    [
        TOKEN,
        "ghp_" + "x1" * 18,
        "sk-proj-" + "Ab1" * 12,
        "AKIA" + "ABCD1234EFGH5678",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
    ],
)
def test_token_shaped_strings_go(secret: str) -> None:
    assert secret not in redact(f"loading with {secret} from the hub")
    assert secret not in redact_command(["python", "x.py", "--auth", secret])


def test_secrets_named_as_such_go_whatever_their_shape() -> None:
    assert "hunter2" not in redact("API_KEY=hunter2 password: hunter2")
    assert "hunter2" not in redact("https://me:hunter2@host/x")
    assert "hunter2" not in redact_command(["python", "x.py", "--hub-token", "hunter2", "--password=hunter2"])


def test_a_command_keeps_its_arguments_but_no_value_of_a_variable() -> None:
    shown = redact_command(["env", "CUDA_VISIBLE_DEVICES=0", "python", "my script.py", "--lr", "1e-3"])
    assert shown == "env CUDA_VISIBLE_DEVICES=<redacted> python 'my script.py' --lr 1e-3"
    shown = redact_command(["env", f"HF_TOKEN={TOKEN}", "x.py", f"--auth={'aB3' * 12}", "--seed=3"])
    assert shown == "env HF_TOKEN=<redacted> x.py --auth=<redacted> --seed=3"
    command = ["attnprof", "run", "--max-new-tokens", "512", "--prompt-tokens", "25"]
    assert redact_command(command) == " ".join(command)


def test_home_folders_become_a_tilde() -> None:
    assert redact(f"{Path.home()}/models/qwen") == "~/models/qwen"
    assert redact("/home/alice/x.py, /Users/bob/y.py and /root/z") == "~/x.py, ~/y.py and ~/z"
    assert redact("/rootless/x and /srv/home") == "/rootless/x and /srv/home"
    assert redact_command(["python", "/home/alice/my code/x.py"]) == "python ~/'my code/x.py'"


def test_counts_of_tokens_are_no_secrets() -> None:
    assert redact("max_new_tokens=512, tokens: 25") == "max_new_tokens=512, tokens: 25"


def test_kernel_names_stay_as_they_are() -> None:
    for name in (
        "fmhaSm100aKernel_QkvE4m3OBfloat16H64PagedKvSlidingOrChunkedCausalP16VarSeqQ128Kv128PersistentContext",
        "void flash::flash_fwd_kernel<Flash_fwd_kernel_traits<128, 64, 128, 4, false>>(Flash_fwd_params)",
        "triton_poi_fused__to_copy_add_mul_tokens_0",
    ):
        assert redact(name) == name


def test_nested_values_are_covered_keys_included() -> None:
    assert redact_all({TOKEN: [("a", TOKEN), 3, None]}) == {"<redacted>": [["a", "<redacted>"], 3, None]}
