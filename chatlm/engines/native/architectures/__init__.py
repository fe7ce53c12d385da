"""Model families: each reads its config.json and describes its block as a `ModelConfig`."""
