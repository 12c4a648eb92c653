"""Where a step's time goes, by kind of work, from PyTorch's profiler.

Each operator's own time (what it calls is counted there) is added to the kind that its name tells. The head's products
stand with the others; `loss` is what softmax and its gradient cost beside them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile

_COPIES = (
    "copy_|clone|cat|contiguous|_to_copy|to|index|index_put_|index_select|index_copy_|stack|fill_|zero_|zeros|empty.*"
    "|resize_.*|new_.*|select_backward|slice_backward|embedding.*"
)
KINDS = (
    ("products", r"aten::(mm|addmm_?|linear|matmul|_addmm_activation)$|mkldnn|dnnl"),
    ("attention", r"attention|flash|aten::(bmm|baddbmm_?)$"),
    ("loss", r"softmax|logsumexp|cross_?entropy|loss|aten::exp_?$|aten::(gather|amax|max)$"),
    ("optimizer", r"adam|aten::_foreach|linalg_vector_norm|clip_grad"),
    ("copies", rf"aten::({_COPIES})$"),
    ("elementwise and norms", r"aten::|compiled|graph|cpp_fused|norm|rotary|silu|swiglu|Backward"),
)
NAMED = 12


def costs(step: Callable[[], Any]) -> dict[str, Any]:
    """Shares of the time of `step`, carried out once under the profiler, by kind; and its dearest operators."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        step()
    own = {event.key: event.self_cpu_time_total / 1e6 for event in profiler.key_averages()}
    total = sum(own.values())
    shares: dict[str, float] = {}
    for name, seconds in own.items():
        shares[kind(name)] = shares.get(kind(name), 0.0) + seconds / total
    dearest = sorted(own.items(), key=lambda item: -item[1])[:NAMED]
    return {
        "shares": dict(sorted(shares.items(), key=lambda item: -item[1])),
        "dearest": [{"operator": name, "share": seconds / total} for name, seconds in dearest],
    }


def kind(operator: str) -> str:
    """The first of `KINDS` that the name of `operator` tells."""
    return next((name for name, pattern in KINDS if re.search(pattern, operator, re.IGNORECASE)), "other")
