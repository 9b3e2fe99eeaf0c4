"""Decoding in worker processes: no file can hang, crash or fill the memory of a run."""
