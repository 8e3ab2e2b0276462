"""Every library of the registry: the set read back contains the true call, and spoilt launches are found.

Calls are drawn in the domain of each library's rules and predicted; truth is the prediction alone. A spoilt
size is found, or a call is named by the forward prediction that launches just it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attnprof.dispatch import libraries
from attnprof.dispatch.explanation import GpuFacts, Observed, ReadBack
from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.errors import UsageError
from attnprof.model import AttentionCall, Gpu, KernelLaunch, Prediction
from tests.support.read_back_domains import DOMAINS, NOT_READ_BACK
from tests.support.witnesses import witness

Launches = tuple[KernelLaunch, ...]
CALLS = 3  # of each library, each of whose sizes is spoilt
COSTLY = ("flash_attn", "torch", "flash_attn_3", "vllm_flash_attn")  # read back by asking many builds


def observed(launches: Launches) -> Observed | None:
    """The launches as a call of a trace: what is before, the main kernel or its two, what adds up after."""
    roles: dict[str, list[KernelLaunch]] = {}
    for one in launches:
        roles.setdefault(parse_kernel_name(one.kernel).role or "main", []).append(one)
    if "main" not in roles:
        return None
    main, *again = roles["main"]
    after, before = (roles.get(role, [None])[-1] for role in ("combine", "scheduler"))
    return Observed(main, after, before, again[0] if again else None)


def told(launches: Launches, gpu: GpuFacts) -> ReadBack | None:
    seen = observed(launches)
    return None if seen is None else libraries.explain(seen, gpu)


def facts(gpu: Gpu) -> GpuFacts:
    return GpuFacts(gpu.num_sms, (gpu.sm_major, gpu.sm_minor), gpu.vendor)


def predicted(name: str, rng: Random) -> tuple[AttentionCall, Gpu, str, Prediction]:
    """The first call drawn that is launched."""
    for _ in range(200):
        call, gpu, version = DOMAINS[name].draw(rng)
        try:
            prediction = libraries.predict(call, gpu, version)
        except UsageError:
            continue
        if prediction.launches:
            return call, gpu, version, prediction
    raise AssertionError(f"no call of {name} in the domain drawn is launched")


def holds(back: ReadBack, call: AttentionCall, num_splits: int | None) -> bool:
    """Whether the true call is among the explanations; ``num_splits``: the count, None where none shows."""
    folded = call.num_heads // call.num_heads_k
    queries, keys = max(call.seqlens_q, default=call.seqlen_q), max(call.seqlens_k, default=call.seqlen_k)
    heads = (None, call.num_heads, call.num_heads_k)
    return any(
        one.library == call.library
        and one.entry == call.entry
        and one.has_length(keys)
        and (folded if one.folded else queries) in one.seqlen_q
        and -(-call.head_dim // 8) * 8 in one.head_dim
        and one.batch in (None, call.batch)
        and one.heads in heads
        and one.batch_heads in (None, call.batch * call.num_heads, call.batch * call.num_heads_k)
        and num_splits in (None, one.num_splits, one.num_splits or num_splits)
        for one in back.explanations
    )


def test_every_library_is_read_back_or_it_is_said_why_not() -> None:
    without = {name for name in NOT_READ_BACK if " " not in name}
    assert set(DOMAINS) | without == set(libraries.LIBRARIES)
    assert not set(DOMAINS) & without
    assert all(NOT_READ_BACK.values())


@pytest.mark.parametrize("name", DOMAINS)
def test_each_entry_is_drawn(name: str) -> None:
    drawn = {predicted(name, Random(seed))[0].entry for seed in range(60)}
    without = {entry for entry in libraries.library(name).entries if f"{name} {entry}" in NOT_READ_BACK}
    assert drawn == set(libraries.library(name).entries) - without


@pytest.mark.parametrize("name", DOMAINS)
@given(rng=st.randoms(use_true_random=False))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_true_call_is_in_the_set_read_back(name: str, rng: Random) -> None:
    call, gpu, _, prediction = predicted(name, rng)
    count = prediction.num_splits if DOMAINS[name].counts else None
    back = told(prediction.launches, facts(gpu))
    assert back is not None
    assert holds(back, call, count), (call, gpu.name, prediction.launches, back)


def spoils(launches: Launches, few: Random | None = None) -> Iterator[tuple[str, Launches]]:
    """Each size of each launch otherwise, and each launch left out: what it is, and what is left.

    few: of each size one other value is drawn.
    """
    for at, one in enumerate(launches):
        role = parse_kernel_name(one.kernel).role
        if len(launches) > 1:
            yield f"{role} left out", launches[:at] + launches[at + 1 :]
        for what in ("grid", "block"):
            size = getattr(one, what)
            for axis, old in enumerate(size):
                values = sorted({old + 1, old - 1, 2 * old, old // 2, old + 32} - {old, 0})
                for new in [few.choice(values)] if few else values:
                    changed = (*size[:axis], new, *size[axis + 1 :])
                    other = (*launches[:at], replace(one, **{what: changed}), *launches[at + 1 :])
                    yield f"{role} {what} {axis}: {old} -> {new}", other


@pytest.mark.parametrize("name", DOMAINS)
def test_a_spoilt_size_is_found_or_is_another_calls(name: str) -> None:
    """Found without a main kernel too: what adds up alone is a finding of the check."""
    rng, found, others, undecided = Random(name), 0, 0, 0
    for _ in range(CALLS):
        call, gpu, version, prediction = predicted(name, rng)
        launches = tuple(
            one for one in prediction.launches if parse_kernel_name(one.kernel).role != "metadata"
        )
        whole = told(launches, facts(gpu))
        assert whole is not None
        for what, broken in spoils(launches, rng if name in COSTLY else None):
            back = told(broken, facts(gpu))
            alone = observed(broken) is None
            if alone or (back is not None and not back.explanations):
                found += 1
            elif back is None:
                assert whole.shared or DOMAINS[name].theirs, what  # theirs, who have the name too
                others += 1
            elif witness(broken, gpu, call, version, back):
                others += 1
            else:
                of = DOMAINS[name].undecided
                assert of, (what, call, gpu.name, broken, back)
                assert of in launches[0].kernel
                undecided += 1
    assert found > 0
    assert others > 0
    assert undecided <= found // 20
