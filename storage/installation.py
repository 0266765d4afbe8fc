"""What the command line asks of a whole installation, where nobody has signed in and no tenant is given."""

from storage.database import Connection, queries

_SQL = queries("installation")


async def tenant_by_code(connection: Connection, code: str) -> str | None:
    """Return the id of a tenant by its code."""
    tenant_id: str | None = await connection.fetchval(_SQL["tenant_by_code"], code)
    return tenant_id


async def user_by_name(connection: Connection, username: str) -> tuple[str, str | None] | None:
    """Return (user id, tenant id) of a user; a system_admin has no tenant."""
    row = await connection.fetchrow(_SQL["user_by_name"], username)
    return None if row is None else (row["id"], row["tenant_id"])


async def set_password(connection: Connection, username: str, password_hash: str) -> None:
    """Give a demo user the password it is to have."""
    await connection.execute(_SQL["set_password"], username, password_hash)
