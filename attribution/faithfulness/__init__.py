"""Faithfulness: whether scores are true of the model that they are about, measured in many ways at once."""
