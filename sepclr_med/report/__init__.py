"""One self-contained page about a run: collected as data first, then drawn, then written."""
