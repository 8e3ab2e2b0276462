"""From an attention call to the launches, as flash_attn_3 evaluates it.

The library has one C++ entry, so plain, varlen and kvcache calls differ only in what they pass. What differs
between versions is a field of Rules. Source: flash_attn hopper/flash_api.cpp (mha_fwd, get_num_splits,
get_pack_gqa, get_pagedkv_tma) and hopper/flash_attn_interface.py.

Checks, num_splits, packing, page loads, template arguments, kernel names, grids and blocks agree with
upstream's compiled code (tests/data/golden, fa3). Left out: seqused_q, left padding, a column-major V,
and the ATen kernel that zeroes the scheduler's counter, which is no attention launch.
"""

from __future__ import annotations

from attnprof.dispatch.flash_attn3.launches import Settled, launches
from attnprof.dispatch.flash_attn3.names import ELEMENTS
from attnprof.dispatch.flash_attn3.rules import (
    L2_BYTES,
    MAX_PLANNED_BATCH,
    MAX_SPLITS,
    MAX_SPLITS_AUTOMATIC,
    Rules,
    filled,
    head_dim_bucket,
    packs_gqa,
    split_choice,
)
from attnprof.dispatch.flash_attn3.sequence_splits import splits_of_requests
from attnprof.dispatch.heuristic import SplitChoice, ceil_div
from attnprof.dispatch.library import FLASH_ATTN_FUNCTIONS
from attnprof.dispatch.limits import GRID_REFUSAL, impossible_grid
from attnprof.dispatch.requests import Lengths, split_range
from attnprof.model import AttentionCall, Gpu, Prediction, Reason
from attnprof.nouns import count_of

_V_HEAD_DIMS = (
    "If V headdim is different from Q/K dim, we only support Q/K headdim in (128, 192] and V headdim in "
    "(96, 128], or (Q/K <= 64 and V <= 512)."
)
_NO_APPEND = "This flash attention build does not support appending KV."
_NO_SOFTCAP = "This flash attention build does not support tanh softcapping."
_VARLEN_ONLY = "This flash attention build only supports varlen (for build size reasons)."


class _RefusedError(Exception):
    """The library raises; the argument is the first line of its message."""


def dispatch(call: AttentionCall, gpu: Gpu, rules: Rules, *, explain: bool = False) -> Prediction:
    """The launches ``rules`` lead to, or the refusal; with ``explain``, every step of the derivation."""
    return _Dispatch(call, gpu, rules, explain).run()


class _Dispatch:
    """One call on its way through the library: ``settled`` holds what the launch templates will see."""

    def __init__(self, call: AttentionCall, gpu: Gpu, rules: Rules, explain: bool) -> None:
        self.call, self.gpu, self.rules, self.explain = call, gpu, rules, explain
        self.reasons: list[Reason] = []
        packed_q = call.entry == "varlen_fwd" or (call.entry == "fwd_kvcache" and call.total_q is not None)
        varlen = packed_q or call.cache_seqlens
        planned = call.batch <= MAX_PLANNED_BATCH or rules.plans_any_batch
        planned = planned and (rules.plans_one_split or call.num_splits != 1)
        self.settled = Settled(
            call, rules, gpu.sm_major * 10 + gpu.sm_minor, gpu.num_sms - call.sm_margin, packed_q, varlen,
            dynamic_split=rules.dynamic_split and varlen and planned, causal=call.causal,
        )  # fmt: skip
        self.window_left, self.window_right = call.window

    def run(self) -> Prediction:
        try:
            self.check_arguments()
            self.check_device_and_dtype()
            self.check_shapes()
            self.settle_masks()
            self.check_alignment()
            self.check_append()
            self.check_qv()
            self.choose_page_loads()
            self.choose_num_splits()
            self.choose_packing()
            self.require(self.settled.num_splits <= MAX_SPLITS, f"num_splits > {MAX_SPLITS} not supported")
            self.require(self.rules.softcap or self.call.softcap <= 0, _NO_SOFTCAP)
            self.require(self.rules.appends or not self.settled.append, _NO_APPEND)
            empty = self.nothing_to_do()
            self.require(bool(empty) or self.settled.varlen or not self.rules.varlen_only, _VARLEN_ONLY)
        except _RefusedError as refusal:
            self.say("refused", refusal, "the library checks its arguments before it launches anything")
            return Prediction(error=str(refusal), reasons=tuple(self.reasons))
        if empty:
            self.say("launches", "none", empty)
            return Prediction(reasons=tuple(self.reasons))
        found = launches(self.settled)
        if impossible := impossible_grid(found):
            self.say("grid", "impossible", impossible)
            return Prediction(error=GRID_REFUSAL, reasons=tuple(self.reasons))
        self.explain_launches()
        for launch in found:
            self.say("launch", kernel_kind(launch.kernel), f"grid {launch.grid}, block {launch.block}")
        return Prediction(
            found, self.settled.num_splits, reasons=tuple(self.reasons),
            splits_of_requests=splits_of_requests(self.settled),
            all_lengths_known=Lengths(self.call).known_k,
        )  # fmt: skip

    def say(self, rule: str, value: object, why: str) -> None:
        if self.explain:
            self.reasons.append(Reason(rule, str(value), why))

    # checks, in the library's order

    def require(self, condition: bool, message: str) -> None:
        if not condition:
            raise _RefusedError(message)

    def check_arguments(self) -> None:
        """What the Python functions have no argument for."""
        given = [("dropout_p", self.call.dropout_p > 0), ("alibi_slopes", self.call.alibi)]
        for name, passed in given:
            function = FLASH_ATTN_FUNCTIONS[self.call.entry]
            self.require(not passed, f"{function}() got an unexpected keyword argument '{name}'")

    def check_device_and_dtype(self) -> None:
        self.require(self.gpu.sm_major >= 8, "FlashAttention only supports Ampere GPUs or newer.")
        self.require(
            self.call.dtype in ELEMENTS, "FlashAttention only supports fp16, bf16, and fp8_e4m3 data type"
        )
        self.require(
            self.gpu.sm_major >= 9 or not self.settled.fp8,
            "FlashAttention on Ampere/Ada cards only supports fp16 and bf16 data type",
        )

    def check_shapes(self) -> None:
        call, head_dim, head_dim_v = self.call, self.call.head_dim, self.settled.head_dim_v
        if call.entry == "varlen_fwd":
            self.require(
                not self.settled.paged and not call.cache_batch_idx,
                "If cu_seqlens_k is passed in, then page table is not supported",
            )
        self.require(head_dim <= 256, "FlashAttention forward only supports head dimension at most 256")
        self.require(
            call.num_heads % call.num_heads_k == 0,
            "Number of heads in key/value must divide number of heads in query",
        )
        if head_dim_v == head_dim:
            return
        self.require(self.rules.head_dim_v, self.v_shape_message())
        known = (128 < head_dim <= 192 and 96 < head_dim_v <= 128) or (head_dim <= 64 and head_dim_v <= 512)
        self.require(known, _V_HEAD_DIMS)
        self.require(self.gpu.sm_major == 9, "Only Hopper supports different V headdim")
        self.require(
            head_dim_v <= 256 or not self.settled.fp8, "HeaddimV > 256 requires fp16 and bf16 data type"
        )

    def v_shape_message(self) -> str:
        """What a version that knows one head dim refuses another V with: its shape is wrong."""
        if self.settled.paged:
            shape = "num_pages, page_size, num_heads_k, head_size"
        elif self.call.entry == "varlen_fwd":
            shape = "total_k, num_heads_k, head_size"
        else:
            shape = "batch_size_k, seqlen_k, num_heads_k, head_size"
        return f"v must have shape ({shape})"

    def check_alignment(self) -> None:
        alignment = 16 if self.settled.fp8 else 8
        message = f"should be a multiple of {alignment}"
        self.require(self.call.head_dim % alignment == 0, f"head_size {message}")
        self.require(self.settled.head_dim_v % alignment == 0, f"head_size_v {message}")

    def check_append(self) -> None:
        if self.settled.append:
            self.require(self.call.cache_seqlens, "If k_new is supplied, seqlens_k must also be passed in")
            self.require(
                self.call.seqlen_q <= self.call.seqlen_k,
                "If k_new is supplied, it must have seqlen <= the seqlen of the KV cache",
            )

    def check_qv(self) -> None:
        """``q_v`` beside narrow queries, for a wide V."""
        if self.call.has_qv:
            self.require(self.call.head_dim <= 64, "q_v is only supported for head_size <= 64")
            self.require(
                self.call.dtype in ("bf16", "fp16"), "q_v is only supported for fp16 and bf16 data type"
            )
            self.require(self.settled.head_dim_v >= 256, "q_v is only supported for hdim_v >= 256.")

    # choices

    def settle_masks(self) -> None:
        """Causal and window as the kernel gets them; a window that hides nothing is none."""
        call, settled, seqlen_q = self.call, self.settled, self.call.seqlen_q
        chunk = call.attention_chunk if self.rules.attention_chunk else 0
        if self.window_left >= call.seqlen_k - 1:
            self.window_left = -1
        if self.window_right >= seqlen_q - 1:
            self.window_right = -1
        causal = call.causal
        unlimited = seqlen_q == 1 and self.window_left == self.window_right == -1 and chunk == 0
        if causal and unlimited and self.rules.one_query_drops_causal:
            causal = settled.paged and 64 < call.head_dim <= 128
            if causal:
                self.say("causal", "kept", "one query of a paged cache: the causal tile suits pages better")
            else:
                self.say("causal", "off", "a causal mask hides nothing from a single query")
        if causal:
            self.window_right = 0
        settled.causal = self.window_left < 0 and self.window_right == 0 and chunk == 0
        windowed = self.window_left >= 0 or self.window_right >= 0 or chunk >= 1
        settled.local = windowed and not settled.causal
        if self.window_left < 0:
            self.window_left = call.seqlen_k - 1
        if self.window_right < 0:
            self.window_right = seqlen_q - 1
        if chunk > 0:
            self.window_left = min(self.window_left, chunk - 1)
            self.window_right = min(self.window_right, chunk - 1)

    def choose_page_loads(self) -> None:
        settled, page = self.settled, self.call.page_block_size
        if page is None:
            return
        tile = settled.heuristic_tile(paged=False)
        queries = self.call.seqlen_q * settled.groups
        obstacle = next(
            (
                why
                for found, why in (
                    (not self.rules.paged_tma, "this version never loads pages by TMA"),
                    (settled.arch < 90, "there is no TMA before Hopper"),
                    (settled.append, "keys are appended"),
                    (settled.local and not self.rules.local_tma, "there is a window"),
                    (page % tile.block_n != 0, f"pages of {page} are no multiple of {tile.block_n} keys"),
                    (queries <= tile.block_m, f"{queries} packed queries fit one block of {tile.block_m}"),
                )
                if found
            ),
            None,
        )
        settled.paged_tma = obstacle is None
        why = obstacle or f"pages of {page} hold whole blocks of {tile.block_n} keys"
        self.say("page loads", "TMA" if settled.paged_tma else "without TMA", why)

    def choose_num_splits(self) -> None:
        """The caller's num_splits, the wrapper's default, or the heuristic's."""
        asked, settled = self.call.num_splits, self.settled
        if asked >= 1:
            settled.num_splits = asked
            self.say("num_splits", asked, "given by the caller")
        elif asked == 0 and self.call.entry != "fwd_kvcache":
            settled.num_splits = 1
            self.say("num_splits", 1, "the plain and varlen functions ask for one split by default")
        else:
            settled.num_splits = self.heuristic_num_splits()

    def heuristic_num_splits(self) -> int:
        call, rules, settled = self.call, self.rules, self.settled
        tile = settled.heuristic_tile(paged=settled.paged_without_tma)
        keys = call.seqlen_k
        if settled.local:
            keys = max(0, min(keys, self.window_right + self.window_left + 1 + tile.block_m))
        n_blocks = ceil_div(keys, tile.block_n)
        queries = settled.total_q if rules.blocks_of_all_queries and settled.packed_q else call.seqlen_q
        m_blocks = ceil_div(queries * settled.groups, tile.block_m)
        heads = call.num_heads_k if rules.blocks_of_kv_heads else call.num_heads
        batch = 1 if settled.dynamic_split else call.batch
        blocks = batch * heads * m_blocks
        head_bytes = call.seqlen_k * (call.head_dim + settled.head_dim_v) * (1 if settled.fp8 else 2)
        choice = split_choice(
            blocks, settled.num_sms, n_blocks, m_blocks, int32(head_bytes), settled.causal or settled.local,
            MAX_SPLITS_AUTOMATIC, rules.splits_past_l2,
        )  # fmt: skip
        if self.explain:
            reach = "keys in reach of the window" if settled.local else "keys"
            bucket = head_dim_bucket(call.head_dim)
            self.say(
                "key blocks", n_blocks, f"{keys} {reach} in blocks of {tile.block_n} (head_dim {bucket})"
            )
            rows = count_of(queries, "query", "queries")
            packed = f"{rows} x {count_of(settled.groups, 'head')} per KV head"
            self.say("query blocks", m_blocks, f"{packed} in blocks of {tile.block_m}")
            kind = count_of(heads, "KV head" if rules.blocks_of_kv_heads else "query head")
            counted = "one sequence" if settled.dynamic_split else f"batch {batch}"
            self.say("thread blocks", blocks, f"{counted} x {kind} x {count_of(m_blocks, 'query block')}")
            margin = f" less a margin of {call.sm_margin}" if call.sm_margin else ""
            self.say("slots", settled.num_sms, f"one per SM{margin}")
            self.say("num_splits", choice.num_splits, choice_in_words(choice, blocks, n_blocks, head_bytes))
        return choice.num_splits

    def explain_dynamic_split(self) -> None:
        if self.call.batch > MAX_PLANNED_BATCH and not self.rules.one_split_past_planned:
            why = f"the device splits no batch of more than {MAX_PLANNED_BATCH}; the kernels run as launched"
            self.say("splits per sequence", 1, why)
            return
        each = split_range(splits_of_requests(self.settled)) or f"1 to {self.settled.num_splits}"
        why = "a kernel on the device gives each sequence as many as its own length needs"
        known = Lengths(self.call).known_k
        self.say("splits per sequence", each, why if known else f"{why}; these are not known")

    def choose_packing(self) -> None:
        """Whether the query heads of a KV head share query blocks; the kernel may insist."""
        call, settled, rules = self.call, self.settled, self.rules
        head_dim, head_dim_v = settled.kernel_head_dims()
        forced = next(
            (
                why
                for found, why in (
                    (settled.arch < 90, "the kernels before Hopper always pack"),
                    (settled.paged_without_tma, "a kernel that reads pages without TMA always packs"),
                    (settled.split, "a kernel that splits always packs"),
                    (
                        rules.always_packs and head_dim == head_dim_v,
                        "this build has no kernels that do not pack",
                    ),
                )
                if found
            ),
            None,
        )
        if rules.one_split_past_planned and settled.varlen and call.batch > MAX_PLANNED_BATCH:
            settled.num_splits = 1
            self.say("num_splits", 1, f"more than {MAX_PLANNED_BATCH} sequences are never split")
        if forced:
            settled.pack_gqa = True
            self.say("pack_gqa", "yes", forced)
        elif call.pack_gqa is not None:
            settled.pack_gqa = call.pack_gqa
            self.say("pack_gqa", _yes(settled.pack_gqa), "given by the caller")
        elif call.num_heads == call.num_heads_k:
            self.say("pack_gqa", "no", "every query head has its own KV head")
        else:
            block_m = settled.heuristic_tile(paged=False).block_m
            settled.pack_gqa = packs_gqa(settled.packed_q, call.seqlen_q, settled.groups, block_m)
            alone, packed = filled(call.seqlen_q, block_m), filled(call.seqlen_q * settled.groups, block_m)
            why = f"query blocks are {packed:.0%} full with heads packed, {alone:.0%} without"
            if settled.packed_q:
                why = "the lengths of a packed batch are not known beforehand"
            self.say("pack_gqa", _yes(settled.pack_gqa), why)

    def nothing_to_do(self) -> str | None:
        """Why nothing is launched, if so."""
        if self.settled.total_q == 0:
            return "there are no queries"
        # Of a paged cache the library looks at the page size, not at the number of pages.
        keys = self.call.page_block_size or self.call.seqlen_k
        if self.call.batch * (keys + (self.call.seqlen_knew or 0)) == 0:
            return "there are no keys: the output is filled with zeros by other kernels"
        return None

    def explain_launches(self) -> None:
        settled = self.settled
        tile, (head_dim, _) = settled.kernel_tile(), settled.kernel_head_dims()
        size = f"queries x keys of a thread block, head_dim {head_dim}"
        self.say("tile", f"{tile.block_m} x {tile.block_n}", size)
        if settled.prepares:
            self.say("prepare kernel", "launched", "it plans the packed batch, also for one split")
        elif settled.dynamic_split and self.call.scheduler_metadata:
            self.say("prepare kernel", "not launched", "the caller passes the plan of an earlier launch")
        if settled.dynamic_split and settled.num_splits > 1:
            self.explain_dynamic_split()
        if settled.persistent:
            self.say("scheduler", "persistent", "the grid is the SMs, whatever the work")
        else:
            self.say("scheduler", "a thread block per tile", "grid: query blocks, heads x splits, batch")


def choice_in_words(choice: SplitChoice, blocks: int, n_blocks: int, head_bytes: int) -> str:
    """The heuristic's answer in one sentence."""
    if choice.candidates:
        best = max(choice.candidates, key=lambda candidate: candidate.efficiency)
        chosen = next(c for c in choice.candidates if c.num_splits == choice.num_splits)
        return (
            f"smallest of {len(choice.candidates)} candidates whose efficiency ({chosen.efficiency:.3f}) "
            f"reaches 85 % of the best ({best.efficiency:.3f}, {best.num_splits} splits)"
        )
    if blocks < choice.nearly_full_at:
        few = f"{count_of(n_blocks, 'key block')} {'is' if n_blocks == 1 else 'are'} too few to split"
        return f"{few}: more than 4 are needed"
    if choice.num_splits > 1:
        return f"nearly full, but a KV head of {head_bytes} bytes exceeds the L2 of {L2_BYTES}"
    return f"{blocks} thread blocks are at least {choice.nearly_full_at:.1f}, 0.8 of the slots: nearly full"


def kernel_kind(name: str) -> str:
    """The kernel's own name, without wrappers and templates."""
    known = ("FlashAttnFwdCombine", "FlashAttnFwdSm90", "FlashAttnFwdSm80")
    return next((kind for kind in known if kind in name), "prepare_varlen_num_blocks_kernel")


def int32(value: int) -> int:
    """``value`` as the library's int holds it: a KV head beyond 2 GiB wraps around."""
    return (value + 2**31) % 2**32 - 2**31


def _yes(value: bool) -> str:
    return "yes" if value else "no"
