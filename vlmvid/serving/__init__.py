"""The trained model in use: folders, `load`, embeddings and exact search."""
