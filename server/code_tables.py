"""Error codes and close codes as tables, for the documents that machines read and the page that people read."""

from collections.abc import Iterable, Sequence

from protocol.errors import ERRORS, CloseCode

ERROR_HEADS = ("code", "status", "retry", "English", "中文")
CLOSE_HEADS = ("close code", "why", "come back")


def error_rows() -> list[Sequence[str]]:
    """Every error code with its status, whether a repeat may succeed, and both texts."""
    return [(code, str(spec.status), "yes" if spec.retry else "no", spec.en, spec.zh) for code, spec in ERRORS.items()]


def close_rows() -> list[Sequence[str]]:
    """Every close code with its reason, and whether to come back."""
    codes = {name: code for name, code in vars(CloseCode).items() if name.isupper()}
    return [
        (str(code), name.replace("_", " ").lower(), "no" if 4500 <= code <= 4999 else "yes")
        for name, code in sorted(codes.items(), key=lambda item: item[1])
    ]


def in_markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table as Markdown, for the descriptions of documents."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
