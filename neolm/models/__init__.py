"""Tensors to tensors: one decoder for GPT-2, GPT-3, GPT-Neo and GPT-NeoX, whose differences are config fields."""
