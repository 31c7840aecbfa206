"""Studies: settings × seeds, each row a training, a scoring and a ranking. Imports no torch."""
