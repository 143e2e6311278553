"""Planning: size, memory, time, energy and carbon of a training, before it is started."""
