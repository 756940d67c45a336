"""Tests of the litmus catalogue and of its commands."""
