"""What people read: terminal tables, Markdown, and one HTML file with figures.

Comes in: results and records. Goes out: pages.
Must not know: models. It computes nothing that is not in the records.
"""
