"""Choosing the texts of a log that are most worth labelling: uncertainty of a student, and diversity."""
