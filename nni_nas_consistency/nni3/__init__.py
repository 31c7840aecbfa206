"""NNI 3.0: the only room that knows its experiment classes."""
