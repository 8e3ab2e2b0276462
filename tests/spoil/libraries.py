"""Of which libraries there are scenes of servers, and why of others there are none: the one table."""

from __future__ import annotations

from attnprof.model import Library
from tests.spoil import mla_scenes
from tests.spoil.served import Family

SERVED: dict[Library, Family] = {
    "flash_mla": Family(("vllm-0.33.0",), mla_scenes.flash_mla),
    "tokenspeed_mla": Family(("2.0.3",), mla_scenes.tokenspeed_mla),
    "cutlass_mla": Family(("0.33.0",), mla_scenes.cutlass_mla),
}
NO_SCENES: dict[Library, str] = {}  # a library of the registry without, and why it has none
