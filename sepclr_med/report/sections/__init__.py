"""The page's sections: each takes what was collected and returns plain blocks, or nothing when its step was not run."""
