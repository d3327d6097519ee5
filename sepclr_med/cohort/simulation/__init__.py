"""The parts of :func:`sepclr_med.cohort.simulate.simulate`."""
