"""Paraphrases made by rules, for which neither network nor model is needed."""
