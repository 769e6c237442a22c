"""The page that explore.py writes: one HTML file that decodes points of the latent space in a browser."""
