"""What the hub and the libraries that load from it say when something cannot be had."""

from __future__ import annotations

from sapo.core.errors import first_line

# Seconds in which the hub must answer.
_PATIENCE = 10


def unreachable(name: str, file: str) -> str | None:
    """Return why a hub id's file cannot be had, where it was not downloaded and the hub does not answer.

    The libraries ask six times for each file, which takes a minute: here it is asked once.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError

    try:
        if not isinstance(try_to_load_from_cache(name, file), str):
            get_hf_file_metadata(hf_hub_url(name, file), timeout=_PATIENCE)
    except HfHubHTTPError:
        # The hub has answered; what is wrong, the libraries say.
        return None
    except ValueError as error:
        return f"it is neither a directory nor a hub id: {first_line(error)}"
    # The hub library's client has had other names for it.
    except Exception as error:
        return (
            "there is no such directory, it was not downloaded earlier, and the hub cannot be reached "
            f"({first_line(error)})."
        )
    return None
