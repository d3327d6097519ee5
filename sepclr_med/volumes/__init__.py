"""The volume world: deterministic preprocessing, its cache, random views and two-group batches."""
