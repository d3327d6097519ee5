"""Tables in, tables out: what the embeddings hold. No torch."""
