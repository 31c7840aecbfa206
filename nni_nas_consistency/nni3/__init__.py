"""NNI 3.0's experiments and trials; no other room uses its experiment classes."""
