"""What people read: tables in the terminal, Markdown, and one HTML file with figures.

Comes in: results of runs, records of sweeps and studies, selections. Goes out: text and pages; their texts are escaped.
Must not know: models, or how a run is made. It computes nothing that cannot be computed again from the records.
"""
