"""Rank statistics and reports: how well scores rank archs. Imports no torch."""
