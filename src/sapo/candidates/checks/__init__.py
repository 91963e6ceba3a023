"""Why a text is not a valid candidate, always compared with the original instruction."""
