"""One fine-tuning: batches, loss, engine, checkpoints."""
