"""The search page and its REST API: texts and videos in, clips and words out."""
