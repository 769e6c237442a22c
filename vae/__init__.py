"""The variational autoencoders of "Playing with VAEs"."""
