"""The table world: from tables about images to a checked, divided manifest. No torch."""
