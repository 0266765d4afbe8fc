"""Lists that are told a page at a time."""

from typing import Annotated

import msgspec

from server.http import Body
from storage.accounts import Page


class Paging(Body, frozen=True, kw_only=True):
    """Which part of a list to tell."""

    page: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 1
    page_size: Annotated[int, msgspec.Meta(ge=1, le=100)] = 20

    @property
    def asked(self) -> Page:
        """The part, as queries take it."""
        return Page(self.page, self.page_size)
