"""Nothing secret leaves with a page or an export."""

from __future__ import annotations

import gzip
import json
import re
import sqlite3
from pathlib import Path

import pytest

from attnprof.safety.redact import hide_secrets, redact, redact_all, redact_arguments, redact_command
from tests.conftest import SHARED, TESTS
from tests.support.secrets import secrets

TOKEN = "hf_" + "aB3" * 11


@pytest.mark.parametrize(
    "secret",
    [
        TOKEN,
        "ghp_" + "x1" * 18,
        "sk-proj-" + "Ab1" * 12,
        "AKIA" + "ABCD1234EFGH5678",
        ".".join(["eyJhbGciOiJIUzI1NiJ9", "eyJzdWIiOiIxIn0", "c2lnbmF0dXJl"]),
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
        "_ZN5flash16flash_fwd_kernelI23Flash_fwd_kernel_traitsILi128ELi128ELi64ELi4ELb0ELb0EEEvNS_16Flash_fwdE",
        "triton_poi_fused__to_copy_add_mul_tokens_0",
        "void cub::detail::scan<token::Policy, secret::Kernel>(int)",
    ):
        assert redact(name) == name


RECORDED = [
    path
    for folder in (TESTS / "data", SHARED)
    for path in sorted(folder.rglob("*.gz"))
    if path.name.endswith((".sqlite.gz", ".json.gz", ".jsonl.gz"))
]


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.name)
def test_no_name_in_a_recorded_or_golden_file_is_taken_for_a_secret(tmp_path: Path, path: Path) -> None:
    content = gzip.decompress(path.read_bytes())
    if content.startswith(b"SQLite"):
        (tmp_path / "trace.sqlite").write_bytes(content)
        names = texts_of_export(tmp_path / "trace.sqlite")
    else:
        names = texts_of_lines(content)
    changed = [name for name in names if hide_secrets(name) != name]
    assert names
    assert changed == []


def texts_of_export(path: Path) -> set[str]:
    """The strings of an nsys export but for environments."""
    db = sqlite3.connect(path)
    texts = {str(text) for (text,) in db.execute("SELECT CAST(value AS TEXT) FROM StringIds")}
    return {text for text in texts if not re.search("\0[A-Za-z_][A-Za-z0-9_]*=", text)}


def texts_of_lines(content: bytes) -> set[str]:
    """What stands between quotation marks."""
    return {text.decode() for text in re.findall(rb'"((?:[^"\\]|\\.)*)"', content)}


@pytest.mark.parametrize(
    "text",
    [
        "GPU-672a921d-3d54-44b6-9b1c-0e2f1a3b4c5d",
        "nsys 2022.4.2.1-df9881f, git 0123456789abcdef0123456789abcdef01234567",
        "sha256:" + "0123456789abcdef" * 4,
        "/usr/lib/x86_64-linux-gnu/nsight-systems/target-linux-x64/libToolsInjection64.so",
        "Wav2Vec2ConformerRelPositionalEmbedding, FastSpeech2ConformerWithHifiGanOutputProjection",
        "hf_model_forward_pass_12 and npm_install and sk-learn-pipeline-of-many-words",
        "pad_token=<pad>, next_token=1234567890, tokenizer=Qwen/Qwen2-7B-Instruct",
        "self.cls_token = nn.Parameter(torch.zeros(1, 12))",
        "batch=4 basic attention_block_of_layer12",
        "2026-11-21T10:11:18.123456+00:00 1795238840741577320",
    ],
)
def test_hashes_paths_classes_and_everyday_words_stay_as_they_are(text: str) -> None:
    assert hide_secrets(text) == text


@pytest.mark.parametrize("kind", [secret.kind for secret in secrets("x")])
def test_every_kind_of_secret_goes_from_every_kind_of_text(kind: str) -> None:
    for place in range(5):
        (secret,) = [each for each in secrets(str(place)) if each.kind == kind]
        quoted = json.dumps({"a": json.dumps([secret.text])})
        for text in (secret.text, f"load {secret.text}, please", quoted, f"/data/{secret.text}/x.bin"):
            if secret.fits_a_path or not text.startswith("/data"):
                assert secret.needle not in redact(text)
        for arguments in ([secret.text], ["--auth", secret.text], [f"--x={secret.text}"], [quoted]):
            assert secret.needle not in redact_command(["python", "x.py", *arguments])
            assert secret.needle not in " ".join(redact_arguments(["python", "x.py", *arguments]))


def test_arguments_are_kept_where_they_are_no_secrets() -> None:
    command = [
        "attnprof",
        "run",
        "--revision",
        "0123456789abcdef" * 2,
        "--",
        "python",
        "x.py",
        "lr=3",
        "--seed=1",
    ]
    assert redact_arguments(command) == command
    assert redact_arguments(["--max-token", "5", "--token=7", "--tokenizer", "x"]) == [
        "--max-token", "5", "--token=7", "--tokenizer", "x",
    ]  # fmt: skip


def test_json_in_a_command_line_is_redacted_inside_and_stays_json() -> None:
    given = {"folder": "/x", "program": {"target": "t.py", "arguments": ["--api-key", "hunter2", "--n", "3"]}}
    (shown,) = redact_arguments([json.dumps(given)])
    given["program"]["arguments"][1] = "<redacted>"  # type: ignore[index]
    assert json.loads(shown) == given


def test_redacting_twice_changes_nothing_more() -> None:
    for secret in secrets("twice"):
        once = redact(secret.text)
        assert redact(once) == once
        arguments = redact_arguments(["x", "--password", secret.text, secret.text])
        assert redact_arguments(arguments) == arguments


def test_a_long_text_without_secrets_takes_no_time_that_grows_with_its_square() -> None:
    for unit in ("a", "aB3", "-", "_token", "://", "x=", "eyJ", "-----BEGIN "):
        text = unit * (1_000_000 // len(unit))
        assert len(redact(text)) <= len(text)


def test_nested_values_are_covered_keys_included() -> None:
    assert redact_all({TOKEN: [("a", TOKEN), 3, None]}) == {"<redacted>": [["a", "<redacted>"], 3, None]}
