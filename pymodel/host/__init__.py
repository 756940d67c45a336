"""The primary MMU: as much of it as KVM's model needs to be held against recordings (facts C1, C2, F)."""
