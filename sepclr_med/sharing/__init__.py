"""What leaves the house: the tables, maps and report of a run, with new ids if wished, or its model as a bundle."""
