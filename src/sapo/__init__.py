"""SAPO: State-Adaptive Prompt Optimization for fine-tuning."""

__version__ = "0.1.0.dev0"
