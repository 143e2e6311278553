"""What the head of a model says about texts: masked tokens filled in, for `neolm predict`."""
