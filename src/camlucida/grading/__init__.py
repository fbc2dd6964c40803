"""Grades maps: what metrics take of a map, and what they ask of the model while they work."""

from camlucida.grading.grades import QUICK, Grades, grades, settled
from camlucida.grading.run import Outcome, grade
from camlucida.grading.scene import Scene, Subject, Truth

__all__ = ["QUICK", "Grades", "Outcome", "Scene", "Subject", "Truth", "grade", "grades", "settled"]
