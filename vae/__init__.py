"""The variational autoencoders of "Playing with VAEs": likelihoods, networks, model, training, evaluation, runs, figures."""
