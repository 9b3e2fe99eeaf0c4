"""Classes, masks and moments named by text alone."""
