"""The attribution methods: one file, one method, discovered by its file name. See `attribution.method`."""
