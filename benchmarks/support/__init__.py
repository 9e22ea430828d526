"""What several benchmarks share: models, synthetic runs, driven windows, ratios of rounds."""
