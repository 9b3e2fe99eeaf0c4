"""Readers behind one protocol, and which of them may read a file."""
