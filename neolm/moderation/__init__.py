"""Moderation: a policy says which classifiers judge texts, from which probability, and what happens then."""
