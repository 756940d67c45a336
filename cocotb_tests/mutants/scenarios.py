"""The scenarios by name: short directed jobs, each with the parameter set that it needs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["SCENARIOS", "Scenario"]

_PACKAGE = "cocotb_tests.mutants.scenes_"


@dataclass(frozen=True)
class Scenario:
    """A job (see `harness.job`), its options, and the name of its parameter set."""

    job: str
    params: str = "base"
    options: Mapping[str, Any] = field(default_factory=dict)


def _scenario(module: str, function: str, params: str = "base", **options: Any) -> Scenario:
    return Scenario(f"{_PACKAGE}{module}:{function}", params, options)


SCENARIOS: Mapping[str, Scenario] = {
    "in flight, page": _scenario("invalidation", "in_flight"),
    "in flight, domain": _scenario("invalidation", "in_flight", kind="domain"),
    "in flight, global": _scenario("invalidation", "in_flight", kind="global"),
    "in flight, stalls": _scenario("invalidation", "in_flight", stall=75, last=40),
    "in flight, beside": _scenario("invalidation", "in_flight", kind="beside", jitter=40, last=26),
    "ranges": _scenario("invalidation", "ranges"),
    "large pages": _scenario("invalidation", "large_pages"),
    "large pages, amd": _scenario("invalidation", "large_pages", "amd"),
    "pointers": _scenario("invalidation", "pointers"),
    "domains": _scenario("invalidation", "domains"),
    "held hits": _scenario("invalidation", "held_answers"),
    "held completions": _scenario("invalidation", "held_answers", port="completions"),
    "entries": _scenario("walk", "entries"),
    "entries, scalable": _scenario("walk", "entries", scalable=True),
    "entries, no snoop": _scenario("walk", "entries", "rewalk"),
    "late": _scenario("walk", "late"),
    "permissions": _scenario("walk", "permissions"),
    "permissions, rewalk": _scenario("walk", "permissions", "rewalk"),
    "pressure": _scenario("walk", "pressure"),
    "pressure, stalls": _scenario("walk", "pressure", stall=40),
    "pasids": _scenario("walk", "pasids"),
    "malformed": _scenario("registers", "malformed"),
    "malformed, wide": _scenario("registers", "malformed", wide=True),
    "waits": _scenario("registers", "waits"),
    "waits, stalls": _scenario("registers", "waits", stall=75),
    "events": _scenario("registers", "events"),
    "faults": _scenario("registers", "faults"),
    "resets": _scenario("reset", "resets"),
}
"""Every scenario is clean on the system as it is, under every judge."""
