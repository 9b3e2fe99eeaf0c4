"""Measurements: JSON out, figures written into RESULTS.md with the command."""
