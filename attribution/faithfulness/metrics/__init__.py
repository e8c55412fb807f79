"""One file, one idea; a file may hold several metrics. See `attribution.faithfulness.metric`."""
