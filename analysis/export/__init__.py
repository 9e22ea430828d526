"""Maps in the formats of other tools: one file a format.

May import every other folder of analysis. A format is a function ``export_NAME(store, out, …)`` that opens
what it exports by `source` and writes it by `outputs`: whole or not at all, and never over others unasked.
The command line has a line for each (`i2am.cli.export`).
"""
