"""Architectures as values: codes, choices, domains, cost. Imports neither torch nor NNI."""
