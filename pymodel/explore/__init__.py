"""Interleaving explorer: every order in which agents, walkers and the invalidation queue may act (DESIGN section 6).

`explore` runs effect generators over a hashable memory and returns every reachable outcome with a shortest
schedule. `IommuAgent` is the architectural IOMMU as one more participant. `diagram` draws a schedule.
"""

from pymodel.explore.agents import Choose, Failed
from pymodel.explore.cpu_agent import CpuAgent, GuestAccess, Violation
from pymodel.explore.diagram import diagram
from pymodel.explore.explorer import explore
from pymodel.explore.freezing import freeze
from pymodel.explore.iommu_agent import Attachment, Dma, Fault, IommuAgent, Prefetch
from pymodel.explore.labels import Names
from pymodel.explore.locks import RwLock
from pymodel.explore.results import Exploration, Outcome, ScheduleStep, StateView, TooLarge
from pymodel.explore.srcu import Srcu
from pymodel.explore.unit import MORE, Pending, Unit, UnitMove
from pymodel.explore.world import World

__all__ = ["MORE", "Attachment", "Choose", "CpuAgent", "Dma", "Exploration", "Failed", "Fault", "GuestAccess",
           "IommuAgent", "Names", "Outcome", "Pending", "Prefetch", "RwLock", "ScheduleStep", "Srcu", "StateView",
           "TooLarge", "Unit", "UnitMove", "Violation", "World", "diagram", "explore", "freeze"]  # fmt: skip
