"""vlmvid."""
