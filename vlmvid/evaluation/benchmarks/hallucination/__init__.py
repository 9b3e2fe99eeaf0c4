"""What models say is there and is not."""
