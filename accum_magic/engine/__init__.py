"""Running micro-batches: splitting, weights, the probe. Knows torch; never imports IPython or a widget."""
