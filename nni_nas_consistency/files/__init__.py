"""Files: atomic writes, strict JSON, arch lists, score files, provenance."""
