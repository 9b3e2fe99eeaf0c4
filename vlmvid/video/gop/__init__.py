"""Exact decoding, one group of pictures at a time: what must be decoded, and whether it came out sound."""
