"""Files to items and predictions, and both to results; no model, no torch."""
