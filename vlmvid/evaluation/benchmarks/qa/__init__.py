"""Questions about videos and pictures, open and with options."""
