"""Unit tests, one per module; the tree mirrors pymodel/ and hdl/."""
