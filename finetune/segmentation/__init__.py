"""SAM: models, prompts, embeddings, training and evaluation."""
