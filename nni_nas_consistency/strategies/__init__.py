"""Strategies for NNI: one-shot training with the sandwich rule, and scoring of released lists."""
