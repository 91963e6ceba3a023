"""What a model can do besides its tasks, so that users see whether fine-tuning damages it."""
