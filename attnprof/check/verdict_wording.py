"""What each verdict says, in the words that every output uses."""

from __future__ import annotations

MEANINGS = {
    "match": "kernels, template arguments, grids and num_splits are those predicted",
    "explained": "arguments not recorded; some call launches exactly this",
    "wrong kernel": "another kernel than predicted ran",
    "wrong num_splits": "the predicted kernels ran with another split count",
    "wrong template": "the predicted kernel ran with other template arguments",
    "wrong grid": "the predicted kernel ran with another grid or block",
    "missing": "a recorded call has no kernel in a trace that holds kernels",
    "unexpected": "an attention kernel ran that no recorded call accounts for",
    "unexplained": "no call makes any known version launch this",
    "inconsistent": "the library launches this for some call, but not beside the calls around it",
    "frozen": "a CUDA graph replays a split count chosen for another KV length",
    "not recorded": "predicted from a call's arguments alone, which were not recorded",
    "not read": "a kernel's name, grid or block cannot be read; nothing that can contradicts the rules",
    "not modelled": "a library, backend or kernel whose launches attnprof does not predict",
    "not observed": "predicted only: no kernel of the call was seen",
}
