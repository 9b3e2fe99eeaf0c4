"""Who did what to whom, and in which order."""
