"""Training: recipes, runs, supernets, archs alone and their reference accuracies."""
