"""Interleaving explorer: every order in which agents, walkers and the invalidation queue may act (DESIGN section 6).

`explore` runs effect generators over a hashable memory and returns every reachable outcome with a shortest
schedule. `IommuAgent` is the architectural IOMMU as one more participant. `diagram` draws a schedule.
"""

from pymodel.explore.agents import Choose, Failed
from pymodel.explore.diagram import diagram
from pymodel.explore.explorer import explore
from pymodel.explore.iommu_agent import Attachment, Dma, Fault, IommuAgent, Prefetch
from pymodel.explore.locks import RwLock
from pymodel.explore.results import Exploration, Outcome, ScheduleStep, TooLarge
from pymodel.explore.unit import MORE, Pending, Unit, UnitMove
from pymodel.explore.world import World, freeze

__all__ = ["MORE", "Attachment", "Choose", "Dma", "Exploration", "Failed", "Fault", "IommuAgent", "Outcome", "Pending",
           "Prefetch", "RwLock", "ScheduleStep", "TooLarge", "Unit", "UnitMove", "World", "diagram", "explore",
           "freeze"]  # fmt: skip
