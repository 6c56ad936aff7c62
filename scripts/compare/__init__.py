"""compare: the parts of compare_optimizers.py. Data flow one way: optimizers.py says what settings are tried, model.py
makes the config of each run, pool.py trains, results.py makes one JSON of all runs, and report.py makes tables, plots
and a page from that JSON alone.
"""
