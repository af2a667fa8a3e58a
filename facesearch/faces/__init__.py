"""Photo to embeddings: detect, align, embed."""
