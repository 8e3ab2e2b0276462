"""From an attention call to the launches, as flash_attn 2 and PyTorch's copy evaluate it.

What differs between libraries and versions is a field of Rules. Source: flash_attn
csrc/flash_attn/flash_api.cpp (mha_fwd, mha_varlen_fwd, mha_fwd_kvcache, set_params_fprop,
set_params_splitkv) and csrc/flash_attn/src/flash_fwd_launch_template.h.
"""

from __future__ import annotations

from attnprof.dispatch.flash_attn2.launches import ELEMENT, Launches
from attnprof.dispatch.flash_attn2.rules import (
    SPLIT_BLOCK_M,
    Rules,
    block_n,
    optional_arguments,
)
from attnprof.dispatch.heuristic import (
    MAX_SPLITS,
    ceil_div,
    choice_in_words,
    float32,
    num_splits_heuristic,
    split_choice,
)
from attnprof.dispatch.limits import DROPOUT_REFUSAL, GRID_REFUSAL, impossible_grid
from attnprof.model import AttentionCall, Gpu, KernelLaunch, Prediction, Reason
from attnprof.nouns import count_of


class _RefusedError(Exception):
    """The library raises; the argument is the first line of its message."""


def dispatch(call: AttentionCall, gpu: Gpu, rules: Rules, *, explain: bool = False) -> Prediction:
    """The launches ``rules`` lead to, or the refusal; with ``explain``, every step of the derivation."""
    return Dispatch(call, gpu, rules, explain).run()


class Dispatch(Launches):
    """One call on its way through the library: the attributes are the library's local variables."""

    def __init__(self, call: AttentionCall, gpu: Gpu, rules: Rules, explain: bool = False) -> None:
        self.call, self.gpu, self.rules, self.explain = call, gpu, rules, explain
        self.reasons: list[Reason] = []
        self.batch, self.seqlen_q, self.seqlen_k = call.batch, call.seqlen_q, call.seqlen_k
        self.num_heads, self.folded = call.num_heads, False
        self.head_dim, self.causal = ceil_div(call.head_dim, 8) * 8, call.causal
        self.window_left, self.window_right = call.window
        # The kvcache entry takes neither.
        self.dropout_p = 0.0 if call.entry == "fwd_kvcache" else float32(call.dropout_p)
        self.return_softmax = call.return_softmax and call.entry != "fwd_kvcache"
        self.slots, self.keys = gpu.num_sms * rules.slots_per_sm, block_n(self.head_dim)
        self.num_splits, self.searched, self.force_split, self.cu_seqlens = 0, False, False, False
        self.kernels, self.combines = {}, {}

    def run(self) -> Prediction:
        """What is launched, or the refusal."""
        settled = self.settle()
        if settled is not None:
            return settled
        launches = tuple(KernelLaunch(*fields) for fields in self.launches())
        if impossible := impossible_grid(launches):
            self.say("grid", "impossible", impossible)
            return Prediction(error=GRID_REFUSAL, reasons=tuple(self.reasons))
        for launch in launches:
            name = launch.kernel.partition("<")[0].removeprefix("void ").rpartition("::")[2]
            self.say("launch", name, f"grid {launch.grid}, block {launch.block}")
        return Prediction(launches, max(1, self.num_splits), reasons=tuple(self.reasons))

    def settle(self) -> Prediction | None:
        """Goes all the way to the launches; the prediction where nothing is launched."""
        try:
            self.check_arguments_exist()
            {"fwd": self.fwd, "varlen_fwd": self.varlen_fwd, "fwd_kvcache": self.fwd_kvcache}[
                self.call.entry
            ]()
            if self.call.alibi:
                self.refuse("alibi_slopes")
        except _RefusedError as refusal:
            self.say("refused", refusal, "the library checks its arguments before it launches anything")
            return Prediction(error=str(refusal), reasons=tuple(self.reasons))
        empty_batch = self.call.batch == 0 and self.rules.skips_empty_batch
        if empty_batch or (self.call.seqlen_k == 0 and self.call.entry in self.rules.skips_empty):
            self.say("launches", "none", f"no {'queries' if empty_batch else 'keys'}: others fill the output")
            return Prediction(reasons=tuple(self.reasons))
        self.settle_windows()
        return None

    def say(self, rule: str, value: object, why: str) -> None:
        if self.explain:
            self.reasons.append(Reason(rule, str(value), why))

    # entries, in the order in which the library evaluates

    def fwd(self) -> None:
        self.check_device_and_dtype()
        if self.call.batch == 0 and self.rules.skips_empty_batch:
            return
        self.check_batch_and_head_dim()
        self.check_heads(self.num_heads)
        self.check_softcap()
        self.clamp_windows()
        self.bound_causal()
        if self.swap_groups():
            self.refuse("fold fwd")
        self.check_return_softmax()
        self.choose_num_splits(asked=0)

    def varlen_fwd(self) -> None:
        call = self.call
        self.check_device_and_dtype()
        self.check_softcap()
        if call.page_block_size is not None:
            self.check_page_size(call.page_block_size)
        folds = self.rules.varlen_folds
        self.bound_causal(one_query_rule=folds)
        swapped = self.swap_groups() if folds else False
        if swapped:
            self.check_packed_reshape()
        self.check_batch_and_head_dim()
        self.check_heads(self.num_heads)
        self.clamp_windows()
        if swapped:
            self.refuse("fold varlen_fwd")
        self.check_return_softmax()
        self.cu_seqlens = True
        self.force_split = call.page_block_size is not None
        if swapped or (self.force_split and self.rules.paged_varlen_splits):
            self.choose_num_splits(asked=call.num_splits)
        elif self.force_split and self.rules.paged_varlen_passes_splits:
            self.require(call.num_splits <= 1, "num_splits > 1 is not supported for varlen paged KV")
            self.num_splits = call.num_splits
            self.say("num_splits", call.num_splits, "given by the caller; 0 is one split too")
        else:
            why = "the varlen entry asks the heuristic only after folding query heads"
            self.say("num_splits", "not chosen", why)
        if self.force_split:
            self.say("split kernel", "forced", "only the split kernel reads a paged KV cache")

    def fwd_kvcache(self) -> None:
        call = self.call
        self.check_device_and_dtype()
        if call.page_block_size is not None:
            self.require(not call.cache_batch_idx, "Paged KVcache does not support cache_batch_idx")
            self.check_page_size(call.page_block_size)
        self.check_batch_and_head_dim()
        self.check_heads(self.num_heads)
        self.bound_causal()
        self.swap_groups()
        self.clamp_windows()
        if call.seqlen_knew is not None:
            self.require(call.cache_seqlens, "If key is supplied, seqlens_k must also be passed in")
            self.require(
                self.seqlen_q <= call.seqlen_k,
                "If key is supplied, it must have seqlen <= the seqlen of the KV cache",
            )
        self.cu_seqlens = call.cache_seqlens
        self.say("seqlen_k", call.seqlen_k, "the cache's capacity: the lengths in use do not enter")
        self.choose_num_splits(asked=call.num_splits)
        for forced, why in (
            (call.seqlen_knew is not None, "only the split kernel appends keys to the cache"),
            (
                call.cache_batch_idx and self.rules.batch_idx_forces_split,
                "only the split kernel indexes the cache",
            ),
            (call.page_block_size is not None, "only the split kernel reads a paged KV cache"),
        ):
            if forced:
                self.force_split = True
                self.say("split kernel", "forced", why)

    # checks

    def check_arguments_exist(self) -> None:
        """An argument that the version's entry does not take: no call with it can be made."""
        call = self.call
        self.require(call.entry in self.rules.entries, f"there is no entry {call.entry}")
        for given, name, words in optional_arguments(call):
            self.require(
                not given or name in self.rules.takes, f"this version's {call.entry} takes no {words}"
            )
            if given:
                self.refuse(name)

    def require(self, condition: bool, message: str) -> None:
        if not condition:
            raise _RefusedError(message)

    def refuse(self, what: str) -> None:
        """Raises where this build refuses ``what`` though the entry takes it."""
        if what in self.rules.refusals:
            raise _RefusedError(self.rules.refusals[what])

    def check_device_and_dtype(self) -> None:
        gpu = self.gpu
        if self.rules.any_sm_from_80:
            supported = gpu.sm_major >= 8
        else:
            supported = gpu.sm_major == 8 or (gpu.sm_major, gpu.sm_minor) in self.rules.sms_besides_8x
        self.require(supported, "FlashAttention only supports Ampere GPUs or newer.")
        self.require(self.call.dtype in ELEMENT, "FlashAttention only support fp16 and bf16 data type")

    def check_batch_and_head_dim(self) -> None:
        packed = self.call.entry == "varlen_fwd"
        message = "batch size must be positive" if packed else self.rules.batch_message
        self.require(self.call.batch > 0, message)
        refusal = None if self.call.entry == "fwd_kvcache" else self.rules.head_dim_multiple_message
        if refusal and self.rules.head_dim_multiple_first and not packed:
            self.require(self.call.head_dim % 8 == 0, refusal)
        self.require(
            self.call.head_dim <= 256, "FlashAttention forward only supports head dimension at most 256"
        )
        if refusal:
            self.require(self.call.head_dim % 8 == 0, refusal)

    def check_heads(self, num_heads: int) -> None:
        self.require(
            num_heads % self.call.num_heads_k == 0,
            "Number of heads in key/value must divide number of heads in query",
        )

    def check_page_size(self, page_block_size: int) -> None:
        self.require(page_block_size % 256 == 0, "Paged KV cache block size must be divisible by 256")

    def check_softcap(self) -> None:
        if self.call.softcap > 0:
            self.require(self.dropout_p == 0, "Softcapping does not support dropout for now")

    def check_return_softmax(self) -> None:
        if self.return_softmax:
            self.require(self.dropout_p > 0, "return_softmax is only supported when p_dropout > 0.0")
        self.require(self.dropout_p < 1, DROPOUT_REFUSAL)

    def check_packed_reshape(self) -> None:
        """Folding query heads reshapes q: that needs one query per sequence and whole groups."""
        call = self.call
        total_q = call.batch if call.total_q is None else call.total_q
        groups = call.num_heads // call.num_heads_k
        shape = [call.batch, call.num_heads_k, groups, call.head_dim]
        size = total_q * call.num_heads * call.head_dim
        self.require(
            call.batch * call.num_heads_k * groups * call.head_dim == size,
            f"shape '{shape}' is invalid for input of size {size}",
        )

    # the call, as the library changes it

    def bound_causal(self, *, one_query_rule: bool = True) -> None:
        """A causal mask bounds the window on the right, and hides nothing from a single query."""
        if one_query_rule and self.causal and self.call.seqlen_q == 1 and not self.call.alibi:
            self.causal = False
            self.say("causal", "off", "a causal mask hides nothing from a single query")
        if self.causal:
            self.window_right = 0

    def clamp_windows(self) -> None:
        """A window that reaches past every key is no window."""
        if not self.rules.clamps_windows:
            return
        if self.window_left >= self.call.seqlen_k:
            self.window_left = -1
        if self.window_right >= self.call.seqlen_k:
            self.window_right = -1

    def swap_groups(self) -> bool:
        """With one query, the query heads of a group become queries of one head."""
        call = self.call
        groups = call.num_heads // call.num_heads_k
        obstacle = next(
            (
                why
                for found, why in (
                    (call.seqlen_q != 1, f"there are {call.seqlen_q} queries"),
                    (call.num_heads <= call.num_heads_k, "every query head has its own KV head"),
                    (self.window_left >= 0 or self.window_right >= 0, "there is a window"),
                    (self.dropout_p > 0, "there is dropout"),
                    (call.head_dim % 8 != 0, "head_dim is not a multiple of 8"),
                    (call.alibi, "there is ALiBi"),
                )
                if found
            ),
            None,
        )
        if obstacle:
            self.say("fold query heads", "no", obstacle)
            return False
        self.seqlen_q, self.num_heads, self.folded = groups, call.num_heads_k, True
        why = f"one query: the {groups} query heads of each KV head become {groups} queries of one head"
        self.say("fold query heads", f"{groups} x {call.num_heads_k}", why)
        return True

    def choose_num_splits(self, *, asked: int) -> None:
        """The caller's num_splits, or the heuristic's where the caller asked for none."""
        self.num_splits = asked
        if self.dropout_p > 0:
            self.say("num_splits", "not chosen", "splitting is not implemented with dropout")
            return
        if asked >= 1:
            self.say("num_splits", asked, "given by the caller")
        else:
            blocks, slots, n_blocks = self.search()
            self.num_splits, self.searched = num_splits_heuristic(blocks, slots, n_blocks), True
            if self.explain:
                choice = split_choice(blocks, slots, n_blocks, MAX_SPLITS)
                call, sms, per_sm = self.call, self.gpu.num_sms, self.rules.slots_per_sm
                m_blocks = ceil_div(self.seqlen_q, SPLIT_BLOCK_M)
                tiles = f"{count_of(self.num_heads, 'head')} x {count_of(m_blocks, 'query block')}"
                product = f"batch {call.batch} x {tiles}"
                why = f"{call.seqlen_k} keys in blocks of {self.keys} (head_dim {self.head_dim})"
                self.say("key blocks", n_blocks, why)
                self.say("thread blocks", blocks, product)
                self.say("slots", slots, f"{sms} SMs x {per_sm}")
                self.say("num_splits", choice.num_splits, choice_in_words(choice, blocks, slots))
        self.require(self.num_splits <= MAX_SPLITS, f"num_splits > {MAX_SPLITS} not supported")

    def search(self) -> tuple[int, int, int]:
        """What the heuristic is asked: thread blocks, slots and key blocks."""
        m_blocks = -(-self.seqlen_q // SPLIT_BLOCK_M)
        return self.batch * self.num_heads * m_blocks, self.slots, -(-self.seqlen_k // self.keys)

    def settle_windows(self) -> None:
        """What the kernel is told: causal is a window of (-1, 0); a one-sided window gets its other side."""
        self.causal = self.window_left < 0 and self.window_right == 0
        if self.window_left < 0 <= self.window_right:
            self.window_left = self.call.seqlen_k
        elif self.window_right < 0 <= self.window_left:
            self.window_right = self.call.seqlen_k
