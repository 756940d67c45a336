"""Golden model of KVM's TDP MMU: agents that yield effects (DESIGN D2, section 5; facts C0-C12).

Imports only `pymodel.spec`, `pymodel.memory`, `pymodel.effects` and `pymodel.paging`; the primary MMU is known
through the Protocol `vm.Host` and the effect `HostFault`.
"""
