"""chatlm's own decoders, in C and torch, for the model families in `architectures`."""
