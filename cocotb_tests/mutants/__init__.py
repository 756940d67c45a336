"""Seeded defects: the proof that every judge notices what it is there to notice."""
