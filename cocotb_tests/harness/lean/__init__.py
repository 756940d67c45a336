"""The lane without VPI: the bench top as a shared library, driven by Python through a C interface."""
