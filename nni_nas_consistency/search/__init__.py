"""Search on a trained supernet."""
