"""Prefect adapters: one file per stage, `pipeline` chains them. All work is done in `vlmvid.pipeline`."""
