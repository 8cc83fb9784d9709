"""One fine-tuning: batches, loss, engine, checkpoints; hard negatives for it."""
