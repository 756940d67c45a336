"""The child process of `apply`: builds the system of the tree in which it stands and runs scenarios on it."""

import json
import os
import sys
from collections.abc import Sequence

import cocotb_tests
from cocotb_tests.harness import simulators
from cocotb_tests.harness.cosim import build_bench
from cocotb_tests.harness.job import params_to_json
from cocotb_tests.mutants.defect import MODES
from cocotb_tests.mutants.scenarios import SCENARIOS
from cocotb_tests.mutants.stage import PARAMETERS

__all__ = ["main"]


def main(names: Sequence[str]) -> None:
    """Run the scenarios, which share one parameter set, under each mode; print what was said as one line of JSON."""
    scenarios = [SCENARIOS[name] for name in names]
    (params,) = {PARAMETERS[scenario.params] for scenario in scenarios}
    result = simulators.run(
        build_bench("icarus", params),
        "cocotb_tests.mutants.bench",
        parameters={
            "params": params_to_json(params),
            "seed": 1,
            "modes": {mode: list(chosen) for mode, chosen in MODES.items()},
            "runs": [
                {"name": name, "job": scenario.job, "options": dict(scenario.options)}
                for name, scenario in zip(names, scenarios, strict=True)
            ],
        },
        seed=1,
    )
    place = os.path.realpath(os.path.dirname(os.path.dirname(os.path.abspath(cocotb_tests.__file__))))
    print(json.dumps({"found": result.result["found"], "folder": place}))


if __name__ == "__main__":
    main(sys.argv[1:])
