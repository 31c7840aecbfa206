"""Search of a trained supernet for the best archs."""
