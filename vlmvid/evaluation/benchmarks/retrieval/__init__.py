"""Text-video and text-image retrieval."""
