"""Which variables the factors go with: permutation tests that keep to the exchangeable rows, effects and intervals."""
