"""What a command line asks to be run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from attnprof.capture.recording import CaptureOptions, describe_command, plan
from attnprof.errors import UsageError
from attnprof.workloads.presets import PRESETS, find_preset, preset_name
from attnprof.workloads.spec import ChildSpec, GenerateOptions, Program, parse_program


@pytest.fixture
def script(tmp_path: Path) -> str:
    path = tmp_path / "script.py"
    path.write_text("")
    return str(path)


@pytest.mark.parametrize("option", ["max_new_tokens", "prompt_tokens", "batch", "layers"])
def test_counts_below_one_are_refused_by_the_name_of_their_option(option):
    with pytest.raises(UsageError, match=f"--{option.replace('_', '-')} must be at least 1, not 0"):
        GenerateOptions(**{option: 0})


def test_a_prompt_and_a_length_exclude_each_other():
    with pytest.raises(UsageError, match="exclude each other"):
        GenerateOptions(prompt="hello", prompt_tokens=5)


def test_an_unknown_model_is_refused_before_anything_runs_with_the_presets_named():
    with pytest.raises(UsageError, match="no model 'qwen9'") as error:
        GenerateOptions(model="qwen9")
    assert "qwen2.5-7b" in error.value.hint


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cpu:0"])
def test_a_device_that_torch_does_not_have_is_refused(device):
    with pytest.raises(UsageError, match="--device"):
        GenerateOptions(device=device)


def test_presets_are_found_with_and_without_their_suffix():
    assert find_preset("Qwen2.5-7B") is find_preset("qwen2.5-7b-attn") is PRESETS["qwen2.5-7b"]
    assert preset_name("llama-3-8b") == "llama-3-8b-attn"
    assert find_preset("Qwen/Qwen2.5-7B") is None


def test_a_python_script_runs_in_process_with_its_arguments_and_the_interpreters_flags(script):
    program, _ = parse_program(["python3", "-u", "-X", "dev", script, "--flag", "1"])
    assert program == Program("script", script, ("--flag", "1"), ("-u", "-X", "dev"))
    assert parse_program([script, "a"])[0] == Program("script", script, ("a",))


def test_modules_and_command_texts_run_in_process():
    assert parse_program(["-m", "json.tool", "x"])[0] == Program("module", "json.tool", ("x",))
    assert parse_program(["python", "-c", "pass", "x"])[0] == Program("command", "pass", ("x",))


def test_another_environments_python_is_run_as_it_is(script, tmp_path):
    assert parse_program([sys.executable, script])[0].mode == "script"
    other = tmp_path / "python3"
    other.symlink_to(sys.executable)
    assert parse_program([str(other), "-u", script]) == (Program("other", str(other), ("-u", script)), ())
    program, (note,) = parse_program([str(other), "-Iu", script])
    assert program == Program("other", str(other), ("-Iu", script))
    assert note == f"{other} -Iu keeps attnprof out: its attention calls could not be recorded"


def test_any_other_program_is_run_as_it_is():
    assert parse_program(["sh", "-c", "true"]) == (Program("other", "sh", ("-c", "true")), ())


@pytest.mark.parametrize("flag", ["-S", "-I", "-E", "-uE"])
def test_where_python_may_not_find_attnprof_the_child_is_started_by_its_path(script, flag):
    program, _ = parse_program([sys.executable, flag, script])
    command = ChildSpec("/f", "none", program=program).command()
    assert command[:2] == [sys.executable, flag]
    assert command[2].endswith("/attnprof/workloads/child_by_path.py")
    assert "-m" in ChildSpec("/f", "none", program=Program("script", script)).command()


@pytest.mark.parametrize(
    "argv", [["python"], ["python", "-u"], ["python", "-m"], ["python", "no-such.py"], ["no-such-program"]]
)
def test_what_cannot_be_started_is_a_usage_error(argv):
    with pytest.raises(UsageError):
        parse_program(argv)


@pytest.mark.parametrize(
    "spec",
    [
        ChildSpec("/f", "nvtx", generate=GenerateOptions(prompt="a 'b' \"c\" é", batch=2)),
        ChildSpec("/f", "none", program=Program("script", "x.py", ("--a", ""), ("-u",)), notes=("n",)),
    ],
)
def test_the_child_reads_back_exactly_what_it_is_given(spec):
    assert ChildSpec.from_json(spec.to_json()) == spec


def test_a_recorder_that_does_not_exist_is_refused():
    with pytest.raises(UsageError, match="--capture perf is none of"):
        CaptureOptions(GenerateOptions(), recorder="perf")


def test_an_nsys_that_was_named_is_not_replaced_by_another(tmp_path):
    options = CaptureOptions(GenerateOptions(), nsys=str(tmp_path / "nsys"))
    with pytest.raises(UsageError, match="was not found"):
        plan(options)


def test_without_nsys_a_run_says_what_it_does_instead(monkeypatch, tmp_path):
    monkeypatch.setattr("attnprof.capture.recording.find_nsys", lambda explicit=None: None)
    monkeypatch.setattr("attnprof.capture.recording.has_gpu", lambda: False)
    without = plan(CaptureOptions(GenerateOptions()))
    assert (without.recorder, without.program) == ("none", None)
    assert "there is no trace" in without.notes[0]
    monkeypatch.setattr("attnprof.capture.recording.has_gpu", lambda: True)
    with_gpu = plan(CaptureOptions(GenerateOptions()))
    assert with_gpu.recorder == "torch"
    assert "torch.profiler instead" in with_gpu.notes[0]


def test_the_command_shown_is_the_command_run(tmp_path):
    options = CaptureOptions(GenerateOptions(max_new_tokens=3), recorder="none")
    chosen = plan(options)
    shown = describe_command(chosen, options, tmp_path / "run")
    import shlex

    assert shlex.split(shown.splitlines()[-1]) == chosen.command(options, tmp_path / "run")
    assert shown.startswith(f"mkdir -p {tmp_path / 'run'} &&")
