"""Scores of archs from a supernet."""
