"""Texts and numbers that break readers, terminals, pages and databases."""

from __future__ import annotations

from typing import Any

MARKUP = (
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</script><svg onload=alert(1)>",
    "--><iframe src=//x>", "{{ 7 * 7 }}{% raise %}", "&lt;b&gt;&#0;", "[bold red]x[/][/nothing]", "`x`|y|z",
)  # fmt: skip
TERMINAL = (
    "\x1b[2J\x1b[31mred\x1b[8m", "\x1b]0;title\x07", "\x1b]8;;http://x\x1b\\link", "\x9b31mc1\x9c",
    "over\rwritten", "back\b\b\b\bspace", "line\nverdict    OK: nothing", "tab\tbed", "bi\u202edi\u2066x",
    "\x00", "a\0b", "\x7f\x85\u2028\u2029", "\ufeffbom", "\ud83d", "\udfffx\ud800",
)  # fmt: skip
SQL = ("'; DROP TABLE kernels; --", '"] ; drop table [ranges]; --', "x' OR '1'='1", "%s%n%d", "[calls]")
LONG = (
    "x" * 20_000, "a." * 10_000, "token" * 4_000, "<" * 10_000, "flash::flash_fwd_kernel<" * 1_000,
    "execute_context_0(" * 2_000, "w_" * 9_000 + "attention", "((((" * 5_000, "\u0301" * 9_000,
    "日本" * 5_000, "_ZN7ck_tileFmhaFwd" * 1_000, "ck_tile_FmhaPrefill" * 1_000, "/home/" * 3_000,
    "cudnn_generated_flash" * 900, "flashinfer::" + "PrefillDecode" * 1_500, "aten::" + "flash" * 4_000,
    "execute_context_1(_generation_0" * 600, "void cutlass::device_kernel<flash::enable_sm90<" * 400,
    "kernel_unified_attention_" * 700, "decode_step_layers." * 1_000, "secret=" * 2_500, "a:b@c://" * 2_000,
)  # fmt: skip
NAMES = (
    "", "attnprof", "decode", "prefill", "attn", "layer", "decode -1", "step=99999999999999999999",
    "step=999999999", "layer=-1", "ProfilerStep#0", "flash_fwd_kernel<", "flash::flash_fwd_kernel<<<<>>>",
    "void flash::flash_fwd_splitkv_kernel<Flash_fwd_kernel_traits<(int)99999999999999999999,", "\u0663\u00b2",
    "_ZN5flash16flash_fwd_kernelI", "_ZN5flash24flash_fwd_splitkv_kernelILi9999999999999999999999E", "void ",
    "../../../etc/passwd", "/dev/zero", "C:\\x", "-rf", "--help", "cudaGraphLaunch", "=cmd|' /C calc'!A0",
)  # fmt: skip
TEXTS = (*MARKUP, *TERMINAL, *SQL, *LONG, *NAMES)
NUMBERS: tuple[Any, ...] = (
    0, 1, -1, 2, 127, 128, 255, 2**15, 2**24, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**62, 2**63 - 1, -(2**31),
    -(2**63), 10**30, 0.5, 1e308, float("inf"), float("nan"), None,
)  # fmt: skip


def storable(text: str) -> str:
    """The text as UTF-8 can hold it."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
