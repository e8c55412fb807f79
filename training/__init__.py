"""Trains the embedded model: data, tokenizer, training and evaluation. See README.md."""
