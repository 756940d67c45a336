"""A bench module without a test: running it must fail."""
