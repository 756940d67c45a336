"""What a bench runs: a job, made by a factory that is named as `package.module:function`.

A factory gets a `JobContext` and the parameters of the job (JSON-able), builds a `LockStep` with
`context.lockstep`, adds agents and sources, and returns it. The same factory serves every lane: a
simulator, or the model alone.
"""

import importlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from cocotb_tests.harness.errors import HarnessError
from cocotb_tests.harness.eventlog import EventLog
from cocotb_tests.harness.lockstep import JUDGES, LockStep, run_model_lane
from pymodel.spec.params import Architecture, IommuParams

__all__ = ["JobContext", "load_factory", "params_from_json", "params_to_json", "run_job_on_model"]


@dataclass(frozen=True)
class JobContext:
    """What the lane decides for a job."""

    params: IommuParams
    seed: int
    judges: Collection[str] = JUDGES
    log: EventLog | None = None
    replay: str = ""
    """The command that repeats the run."""
    extra: Mapping[str, Any] = field(default_factory=dict)

    def lockstep(self, **options: Any) -> LockStep:
        """A `LockStep` for this lane; `options` are those of its constructor."""
        return LockStep(
            self.params,
            **{"seed": self.seed, "judges": self.judges, "log": self.log, "replay": self.replay, **options},
        )


def load_factory(name: str) -> Callable[..., LockStep]:
    """The function that `package.module:function` names; raises `HarnessError` where there is none."""
    module, colon, function = name.partition(":")
    if not colon:
        raise HarnessError(f"a job must be named package.module:function, not {name!r}")
    try:
        factory = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise HarnessError(f"job {name!r} cannot be loaded: {error}") from error
    if not callable(factory):
        raise HarnessError(f"job {name!r} is no function")
    result: Callable[..., LockStep] = factory
    return result


def params_to_json(params: IommuParams) -> dict[str, Any]:
    """Parameters as JSON-able values."""
    return {
        name: value.value
        if isinstance(value, Architecture)
        else list(value)
        if isinstance(value, tuple)
        else value
        for name, value in asdict(params).items()
    }


def params_from_json(values: Mapping[str, Any]) -> IommuParams:
    """The inverse of `params_to_json`; fields that are missing have their defaults."""
    converted = dict(values)
    for field_ in fields(IommuParams):
        if field_.name in converted and isinstance(field_.default, Architecture):
            converted[field_.name] = Architecture(converted[field_.name])
    if "levels" in converted:
        converted["levels"] = tuple(converted["levels"])
    return IommuParams(**converted)


def run_job_on_model(
    name: str, params: IommuParams, seed: int, log: EventLog | None = None, **parameters: Any
) -> Any:
    """Run a job on the model alone: all judges but the comparison with RTL. Returns the summary."""
    context = JobContext(params, seed, log=log, replay=f"job {name}, model lane, seed {seed}")
    return run_model_lane(load_factory(name)(context, **parameters))
