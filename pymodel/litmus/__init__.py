"""The litmus catalogue (facts G): short concurrent scenarios with an outcome that must not be reachable.

One file per family. A family registers itself when it is imported; `catalogue.all_tests` imports them all.
"""

from pymodel.litmus.catalogue import Litmus, LitmusResult, Run, Scenario, UnknownLitmus, all_tests, explore, litmus

__all__ = ["Litmus", "LitmusResult", "Run", "Scenario", "UnknownLitmus", "all_tests", "explore", "litmus"]
