"""Images: data sets, augmentation, loaders."""
