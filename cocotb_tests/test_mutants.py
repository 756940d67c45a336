"""The seeded defects: each is noticed by exactly the judges that the catalogue names; without one nobody complains."""

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from os import cpu_count

import pytest

from cocotb_tests.mutants.apply import Verdicts, clean, judge
from cocotb_tests.mutants.catalogue import CATALOGUE, seeded
from cocotb_tests.mutants.defect import Defect
from cocotb_tests.mutants.scenarios import SCENARIOS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sound() -> Mapping[str, Verdicts]:
    """Every scenario on the system as it is."""
    return clean()


@pytest.fixture(scope="module")
def mutants(request: pytest.FixtureRequest) -> Iterator[Mapping[str, Future[Verdicts]]]:
    """The defects that this run asks for, simulated side by side while their tests wait in turn."""
    asked = [getattr(item, "callspec", None) for item in request.session.items]
    wanted = {spec.params["defect"].name for spec in asked if spec is not None and "defect" in spec.params}
    with ThreadPoolExecutor(cpu_count() or 1) as pool:
        yield {
            defect.name: pool.submit(judge, defect.scenario, seeded(defect))
            for defect in CATALOGUE if defect.name in wanted
        }  # fmt: skip
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario_is_clean_without_a_defect(scenario: str, sound: Mapping[str, Verdicts]) -> None:
    """No judge raises a false alarm, and the scenario really ran."""
    verdicts = sound[scenario]
    assert not any(verdicts.kinds.values()), "\n" + verdicts.explain()
    assert verdicts.cycles > 100


@pytest.mark.parametrize("defect", CATALOGUE, ids=lambda defect: defect.name)
def test_defect_is_noticed(defect: Defect, mutants: Mapping[str, Future[Verdicts]]) -> None:
    """Exactly the judges of the catalogue notice it: a weaker judge fails here, and a stronger one too."""
    verdicts = mutants[defect.name].result()
    assert verdicts.caught == defect.caught, "\n" + verdicts.explain()
