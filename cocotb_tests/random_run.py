"""`twodim random`: random translations, table edits, invalidations, faults and mistakes on the RTL, from
one seed."""

import secrets
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from cocotb_tests.harness.cosim import CosimResult, cosimulate
from cocotb_tests.harness.lockstep import JUDGES
from cocotb_tests.harness.stimulus import PARAMETER_SETS, RandomPlan

__all__ = ["JOB", "PARAMETER_SETS", "random_run", "replay_command"]

JOB = "cocotb_tests.harness.stimulus:random_job"


def replay_command(simulator: str, plan: RandomPlan, cycles: int) -> str:
    """The command that repeats a run."""
    return f"twodim random --sim {simulator} --params {plan.name} --seed {plan.seed} --cycles {cycles}"


def random_run(
    simulator: str = "verilator",
    *,
    seed: int | None = None,
    params: str | None = None,
    cycles: int = 20_000,
    judges: Collection[str] = JUDGES,
    log: Path | bool | None = None,
    waves: Path | None = None,
    say: Callable[[str], None] = print,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> CosimResult:
    """Run the plan of `seed` (a fresh one by default) on the RTL and return what it did.

    simulator: "verilator", "icarus", or "lean", which writes no waves.
    params: name of a parameter set; drawn from the seed by default. cycles: when the run starts to drain.
    say: gets one line with the seed before anything runs.

    Raises `CosimFailed` with the explanation and the replay command.
    """
    chosen = secrets.randbelow(1 << 32) if seed is None else seed
    plan = RandomPlan.from_seed(chosen, params)
    say(f"random run on {simulator}: {plan.describe()}, {cycles} cycles")
    return cosimulate(
        simulator,
        PARAMETER_SETS[plan.name],
        JOB,
        seed=chosen,
        job_parameters={"params": plan.name, "cycles": cycles},
        judges=judges,
        log=log,
        waves=waves,
        replay=replay_command(simulator, plan, cycles),
        progress=progress,
    )
