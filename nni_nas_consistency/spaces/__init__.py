"""Search spaces, as NNI model spaces."""
