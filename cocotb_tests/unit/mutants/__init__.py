"""Unit tests of the seeded defects."""
