"""Every route of the API: its method, its path, the function that answers it, and what one must hold to ask it."""

import asyncio
from functools import cache
from typing import get_type_hints

from server import VERSION
from server.admin import Admin
from server.api_keys import ApiKeys
from server.asyncapi import describe_messages
from server.auth import Auth
from server.board import Board
from server.calls import Calls
from server.config import Config, Secret
from server.controls import Controls
from server.customers import IMPORT_BOUND, Customers
from server.devices import Devices
from server.do_not_call import IMPORT_BOUND as DO_NOT_CALL_BOUND
from server.do_not_call import DoNotCall
from server.docs_page import PAGE_POLICY, render_page
from server.explain import Explain
from server.export import Export
from server.extensions import Extensions
from server.health import Health
from server.hooks import Hooks
from server.http import ANYONE, PHONE, SIGNED_IN, Download, Endpoint
from server.infinity_calls import InfinityCalls
from server.infinity_channels import InfinityChannels
from server.infinity_configs import InfinityConfigs
from server.lately import Lately
from server.line_health import LineHealth
from server.lines import Lines
from server.openapi import describe_endpoints
from server.recordings import Recordings
from server.records import Records
from server.reports import AppEnd, AppStatus
from server.statistics import Statistics
from server.trial_numbers import TrialNumbers
from server.uploads import Uploads
from server.users import Users
from server.webhooks import Webhooks
from storage.objects import PART


def routes(
    *,
    auth: Auth,
    admin: Admin,
    users: Users,
    api_keys: ApiKeys,
    hooks: Hooks,
    devices: Devices,
    calls: Calls,
    records: Records,
    statistics: Statistics,
    board: Board,
    export: Export,
    uploads: Uploads,
    recordings: Recordings,
    customers: Customers,
    lines: Lines,
    channels: InfinityChannels,
    infinity_configs: InfinityConfigs,
    line_health: LineHealth,
    controls: Controls,
    extensions: Extensions,
    infinity_calls: InfinityCalls,
    do_not_call: DoNotCall,
    trial_numbers: TrialNumbers,
    explain: Explain,
    lately: Lately,
    webhooks: Webhooks,
    health: Health,
    config: Config,
) -> list[Endpoint]:
    """Every route. What needs no credential says ANYONE."""
    return [
        Endpoint("GET", "/healthz", health.alive, needs=ANYONE),
        Endpoint("GET", "/readyz", health.ready, needs=ANYONE),
        Endpoint("GET", "/metrics", health.metrics, needs=ANYONE),
        # who
        Endpoint("POST", "/api/v1/auth/login", auth.login, needs=ANYONE),
        Endpoint("POST", "/api/v1/auth/refresh", auth.refresh, needs=ANYONE),
        Endpoint("POST", "/api/v1/auth/logout", auth.logout, needs=SIGNED_IN),
        Endpoint("POST", "/api/v1/auth/password", auth.change_password, needs=SIGNED_IN),
        Endpoint("POST", "/api/v1/auth/exchange", auth.exchange, needs="sessions.exchange"),
        Endpoint("POST", "/api/v1/auth/ws-ticket", auth.ws_ticket, needs=ANYONE),
        Endpoint("GET", "/api/v1/me", auth.me, needs=SIGNED_IN),
        # tenants, people, keys, audit
        Endpoint("POST", "/api/v1/admin/tenants", admin.create_tenant, needs="tenants.manage"),
        Endpoint("GET", "/api/v1/admin/tenants", admin.list_tenants, needs="tenants.manage"),
        Endpoint("GET", "/api/v1/admin/tenants/{tenant_id}", admin.get_tenant, needs="tenants.manage"),
        Endpoint("PUT", "/api/v1/admin/tenants/{tenant_id}", admin.rename_tenant, needs="tenants.manage"),
        Endpoint("POST", "/api/v1/admin/tenants/{tenant_id}/suspend", admin.suspend_tenant, needs="tenants.manage"),
        Endpoint("POST", "/api/v1/admin/tenants/{tenant_id}/resume", admin.resume_tenant, needs="tenants.manage"),
        Endpoint("GET", "/api/v1/admin/tenant", admin.get_config, needs=SIGNED_IN),
        Endpoint("PUT", "/api/v1/admin/tenant", admin.put_config, needs="tenant.configure"),
        Endpoint("POST", "/api/v1/admin/teams", admin.create_team, needs="teams.manage"),
        Endpoint("GET", "/api/v1/admin/teams", admin.list_teams, needs="users.read"),
        Endpoint("PUT", "/api/v1/admin/teams/{team_id}", admin.rename_team, needs="teams.manage"),
        Endpoint("DELETE", "/api/v1/admin/teams/{team_id}", admin.delete_team, needs="teams.manage"),
        Endpoint("GET", "/api/v1/admin/roles", users.list_roles, needs="users.read"),
        Endpoint("POST", "/api/v1/admin/users", users.create, needs="users.manage"),
        Endpoint("GET", "/api/v1/admin/users", users.list_users, needs="users.read"),
        Endpoint("POST", "/api/v1/admin/users/import", users.import_users, needs="users.manage"),
        Endpoint("GET", "/api/v1/admin/users/{user_id}", users.get, needs="users.read"),
        Endpoint("PUT", "/api/v1/admin/users/{user_id}", users.update, needs="users.manage"),
        Endpoint("POST", "/api/v1/admin/users/{user_id}/disable", users.disable, needs="users.manage"),
        Endpoint("POST", "/api/v1/admin/users/{user_id}/enable", users.enable, needs="users.manage"),
        Endpoint("POST", "/api/v1/admin/users/{user_id}/reset-password", users.reset_password, needs="users.manage"),
        Endpoint("POST", "/api/v1/admin/users/{user_id}/unlock", users.unlock, needs="users.manage"),
        Endpoint("POST", "/api/v1/admin/api-keys", api_keys.create, needs="api_keys.manage"),
        Endpoint("GET", "/api/v1/admin/api-keys", api_keys.list_keys, needs="api_keys.manage"),
        Endpoint("DELETE", "/api/v1/admin/api-keys/{key_id}", api_keys.revoke, needs="api_keys.manage"),
        # webhooks that we send
        Endpoint("POST", "/api/v1/admin/hooks", hooks.create, needs="hooks.manage"),
        Endpoint("GET", "/api/v1/admin/hooks", hooks.list_hooks, needs="hooks.manage"),
        Endpoint("GET", "/api/v1/admin/hooks/{hook_id}", hooks.get, needs="hooks.manage"),
        Endpoint("PUT", "/api/v1/admin/hooks/{hook_id}", hooks.update, needs="hooks.manage"),
        Endpoint("DELETE", "/api/v1/admin/hooks/{hook_id}", hooks.delete, needs="hooks.manage"),
        Endpoint("POST", "/api/v1/admin/hooks/{hook_id}/rotate-secret", hooks.rotate_secret, needs="hooks.manage"),
        Endpoint("POST", "/api/v1/admin/hooks/{hook_id}/ping", hooks.ping, needs="hooks.manage"),
        Endpoint("POST", "/api/v1/admin/hooks/{hook_id}/resend", hooks.resend_failed, needs="hooks.manage"),
        Endpoint("GET", "/api/v1/admin/hooks/{hook_id}/deliveries", hooks.list_deliveries, needs="hooks.manage"),
        Endpoint(
            "POST",
            "/api/v1/admin/hooks/{hook_id}/deliveries/{delivery_id}/resend",
            hooks.resend,
            needs="hooks.manage",
        ),
        Endpoint("GET", "/api/v1/admin/audit", admin.list_audit, needs="audit.read"),
        # work phones (seed 003 §5.1)
        Endpoint("POST", "/api/v1/calls/device/bindQRCode", devices.make_qr, needs=SIGNED_IN),
        Endpoint("POST", "/api/v1/calls/device/bind", devices.bind, needs=ANYONE),
        Endpoint("GET", "/api/v1/calls/device/list", devices.list_devices, needs="devices.read"),
        Endpoint("GET", "/api/v1/calls/device/bind-log", devices.bind_log, needs="devices.manage"),
        Endpoint("DELETE", "/api/v1/calls/device/{device_id}", devices.unbind, needs=SIGNED_IN),
        Endpoint("GET", "/api/v1/calls/device/{device_id}/status", devices.status, needs="devices.read"),
        Endpoint("GET", "/api/v1/calls/config", devices.get_config, needs="calls.dial"),
        Endpoint("PUT", "/api/v1/calls/config", devices.put_config, needs="calls.dial"),
        # lines (seed 003 §5.2)
        Endpoint("GET", "/api/v1/calls/lines", lines.list_lines, needs="lines.read"),
        Endpoint("POST", "/api/v1/calls/lines", lines.create, needs="lines.manage"),
        Endpoint("GET", "/api/v1/calls/lines/providers", lines.list_providers, needs="lines.manage"),
        Endpoint("POST", "/api/v1/calls/lines/test", lines.test_config, needs="lines.manage"),
        Endpoint("GET", "/api/v1/calls/lines/{line_id}", lines.get, needs="lines.read"),
        Endpoint("PUT", "/api/v1/calls/lines/{line_id}", lines.update, needs="lines.manage"),
        Endpoint("DELETE", "/api/v1/calls/lines/{line_id}", lines.delete, needs="lines.manage"),
        Endpoint("POST", "/api/v1/calls/lines/{line_id}/test", lines.test, needs="lines.manage"),
        Endpoint("POST", "/api/v1/calls/lines/{line_id}/unfreeze", line_health.unfreeze, needs="lines.manage"),
        Endpoint("GET", "/api/v1/calls/lines/{line_id}/seats", lines.list_seats, needs="lines.read"),
        Endpoint("PUT", "/api/v1/calls/lines/{line_id}/seats/{user_id}", lines.put_seat, needs="lines.manage"),
        Endpoint("DELETE", "/api/v1/calls/lines/{line_id}/seats/{user_id}", lines.delete_seat, needs="lines.manage"),
        # the same lines, where they are at Infinity, as a console's channels (seed 000 TRD 2)
        Endpoint("GET", "/api/v1/channel/infinity/list", channels.list_channels, needs="lines.manage"),
        Endpoint("POST", "/api/v1/channel/infinity", channels.create, needs="lines.manage"),
        Endpoint("GET", "/api/v1/channel/infinity/{channel_id}", channels.get, needs="lines.manage"),
        Endpoint("PUT", "/api/v1/channel/infinity/{channel_id}", channels.update, needs="lines.manage"),
        Endpoint("DELETE", "/api/v1/channel/infinity/{channel_id}", channels.delete, needs="lines.manage"),
        Endpoint("PUT", "/api/v1/channel/infinity/{channel_id}/status", channels.set_status, needs="lines.manage"),
        Endpoint("GET", "/api/v1/channel/infinity/{channel_id}/history", channels.history, needs="lines.manage"),
        Endpoint("GET", "/api/v1/channel/infinity/{channel_id}/health", channels.health, needs="lines.manage"),
        Endpoint("POST", "/api/v1/channel/infinity/{channel_id}/reveal", channels.reveal, needs="lines.reveal"),
        Endpoint("POST", "/api/v1/track", channels.track, needs="lines.manage"),
        # and as configurations (seed 001)
        Endpoint("GET", "/api/v1/infinity/configs", infinity_configs.list_configs, needs="lines.manage"),
        Endpoint("POST", "/api/v1/infinity/configs", infinity_configs.create, needs="lines.manage"),
        Endpoint(
            "POST", "/api/v1/infinity/configs/test-connection", infinity_configs.test_connection, needs="lines.manage"
        ),
        Endpoint("GET", "/api/v1/infinity/configs/id/{config_id}", infinity_configs.get, needs="lines.manage"),
        Endpoint("GET", "/api/v1/infinity/configs/{config_id}", infinity_configs.get_of_tenant, needs="lines.manage"),
        Endpoint("PUT", "/api/v1/infinity/configs/{config_id}", infinity_configs.update, needs="lines.manage"),
        Endpoint("DELETE", "/api/v1/infinity/configs/{config_id}", infinity_configs.delete, needs="lines.manage"),
        Endpoint("POST", "/api/v1/infinity/configs/{config_id}/toggle", infinity_configs.toggle, needs="lines.manage"),
        Endpoint(
            "POST", "/api/v1/infinity/configs/{config_id}/test-connection", infinity_configs.test, needs="lines.manage"
        ),
        # calls and the extensions of lines that dial from a pool (seed 001)
        Endpoint("POST", "/api/v1/infinity/make-call", infinity_calls.make_call, needs="calls.dial"),
        Endpoint(
            "POST", "/api/v1/infinity/extensions/batch-import", extensions.batch_import, needs="extensions.manage"
        ),
        Endpoint(
            "POST", "/api/v1/infinity/extensions/import/{line_id}", extensions.import_file, needs="extensions.manage"
        ),
        Endpoint(
            "POST", "/api/v1/infinity/extensions/batch-delete", extensions.batch_delete, needs="extensions.manage"
        ),
        Endpoint(
            "POST",
            "/api/v1/infinity/extensions/force-release-collector/{user_id}",
            extensions.release_agent,
            needs="extensions.manage",
        ),
        Endpoint(
            "GET",
            "/api/v1/infinity/extensions/statistics/{tenant_id}",
            extensions.statistics,
            needs="extensions.manage",
        ),
        Endpoint("GET", "/api/v1/infinity/extensions/id/{extension_id}", extensions.get, needs="extensions.manage"),
        Endpoint(
            "GET", "/api/v1/infinity/extensions/{extension_id}", extensions.list_extensions, needs="extensions.manage"
        ),
        Endpoint("PUT", "/api/v1/infinity/extensions/{extension_id}", extensions.update, needs="extensions.manage"),
        Endpoint("DELETE", "/api/v1/infinity/extensions/{extension_id}", extensions.delete, needs="extensions.manage"),
        Endpoint(
            "POST",
            "/api/v1/infinity/extensions/{extension_id}/release",
            extensions.release,
            needs="extensions.manage",
        ),
        # who may not be called, and who may while a line is tried
        Endpoint("POST", "/api/v1/calls/do-not-call", do_not_call.add, needs="do_not_call.add"),
        Endpoint("GET", "/api/v1/calls/do-not-call", do_not_call.list_entries, needs="do_not_call.read"),
        Endpoint("POST", "/api/v1/calls/do-not-call/check", do_not_call.check, needs="do_not_call.read"),
        Endpoint(
            "POST",
            "/api/v1/calls/do-not-call/import",
            do_not_call.import_file,
            needs="do_not_call.manage",
            body_limit=DO_NOT_CALL_BOUND,
        ),
        Endpoint("POST", "/api/v1/calls/do-not-call/{entry_id}/lift", do_not_call.lift, needs="do_not_call.manage"),
        Endpoint("GET", "/api/v1/calls/test-numbers", trial_numbers.list_numbers, needs="lines.manage"),
        Endpoint("PUT", "/api/v1/calls/test-numbers", trial_numbers.put, needs="lines.manage"),
        # calls (seed 003 §5.3, §5.5, §6.4)
        Endpoint("POST", "/api/v1/calls/dial", calls.dial, needs="calls.dial"),
        Endpoint("POST", "/api/v1/calls/routing/explain", explain.explain, needs="calls.dial"),
        Endpoint("POST", "/api/v1/calls/lately", lately.tell, needs="calls.dial"),
        Endpoint("POST", "/api/v1/calls/hangup", calls.hang_up, needs="calls.control"),
        Endpoint("POST", "/api/v1/calls/mute", controls.mute, needs="calls.control"),
        Endpoint("POST", "/api/v1/calls/transfer", controls.transfer, needs="calls.control"),
        Endpoint("POST", "/api/v1/calls/mobile/status", calls.report_status, needs=PHONE, salvaged=AppStatus),
        Endpoint("POST", "/api/v1/calls/mobile/end", calls.report_end, needs=PHONE, salvaged=AppEnd),
        Endpoint("GET", "/api/v1/calls", records.list_calls, needs="calls.read"),
        Endpoint("GET", "/api/v1/calls/export", export.calls, needs="calls.export"),
        Endpoint("GET", "/api/v1/calls/board", board.look, needs="calls.board"),
        Endpoint("GET", "/api/v1/calls/statistics", statistics.count, needs="calls.statistics"),
        Endpoint("GET", "/api/v1/calls/follow-ups", records.follow_ups_due, needs="calls.read"),
        Endpoint("GET", "/api/v1/calls/unrecorded", records.not_recorded, needs="calls.read"),
        Endpoint("GET", "/api/v1/calls/options", records.options, needs="calls.read"),
        Endpoint("GET", "/api/v1/calls/{call_id}", records.get, needs="calls.read"),
        Endpoint("GET", "/api/v1/calls/{call_id}/status", records.status, needs="calls.read"),
        Endpoint("PUT", "/api/v1/calls/{call_id}/follow-up", records.follow_up, needs="calls.follow_up"),
        Endpoint("POST", "/api/v1/calls/{call_id}/follow-up/done", records.complete_follow_up, needs="calls.follow_up"),
        # what providers tell (seed 003 §5.4): the secret of a line ends its URLs
        Endpoint("POST", "/api/v1/calls/webhook/{provider}", webhooks.hint, needs=ANYONE),
        Endpoint("POST", "/api/v1/calls/webhook/{provider}/{token}", webhooks.take, needs=ANYONE),
        Endpoint("GET", "/api/v1/calls/webhook/{provider}/{token}", webhooks.take_query, needs=ANYONE),
        Endpoint("POST", "/api/v1/calls/webhook/{provider}/{kind}/{token}", webhooks.take_kind, needs=ANYONE),
        Endpoint("GET", "/api/v1/calls/webhook/{provider}/{kind}/{token}", webhooks.take_kind_query, needs=ANYONE),
        # recordings (seed 003 §5.5, §8.5)
        Endpoint(
            "POST",
            "/api/v1/calls/mobile/recording/upload",
            uploads.upload,
            needs=PHONE,
            body_limit=config.recording_limit,
            timeout=config.upload_timeout,
        ),
        Endpoint("POST", "/api/v1/calls/mobile/recording/uploads", uploads.begin, needs=PHONE),
        Endpoint("GET", "/api/v1/calls/mobile/recording/uploads/{upload_id}", uploads.state, needs=PHONE),
        Endpoint(
            "PUT",
            "/api/v1/calls/mobile/recording/uploads/{upload_id}/parts/{number}",
            uploads.put_part,
            needs=PHONE,
            body_limit=PART,
            timeout=config.upload_timeout,
        ),
        Endpoint(
            "POST",
            "/api/v1/calls/mobile/recording/uploads/{upload_id}/complete",
            uploads.complete,
            needs=PHONE,
            timeout=config.upload_timeout,  # it is read back to its end
        ),
        Endpoint("DELETE", "/api/v1/calls/mobile/recording/uploads/{upload_id}", uploads.abandon, needs=PHONE),
        Endpoint(
            "POST",
            "/api/v1/calls/{call_id}/recording",
            uploads.attach,
            needs="recordings.attach",
            body_limit=config.recording_limit,
            timeout=config.upload_timeout,
        ),
        Endpoint("GET", "/api/v1/calls/{call_id}/recording", recordings.listen, needs="recordings.listen"),
        Endpoint("DELETE", "/api/v1/calls/{call_id}/recording", recordings.remove, needs="recordings.manage"),
        Endpoint("POST", "/api/v1/calls/{call_id}/recording/link", recordings.link, needs="recordings.listen"),
        Endpoint("GET", "/api/v1/calls/{call_id}/recording/waveform", recordings.waveform, needs="recordings.listen"),
        Endpoint("PUT", "/api/v1/calls/{call_id}/recording/hold", recordings.hold, needs="recordings.manage"),
        Endpoint("GET", "/api/v1/recordings/{token}", recordings.play, needs=ANYONE),
        # customers
        Endpoint("POST", "/api/v1/customers", customers.create, needs="customers.write"),
        Endpoint("GET", "/api/v1/customers", customers.search, needs="customers.read"),
        Endpoint(
            "POST", "/api/v1/customers/import", customers.import_file, needs="customers.write", body_limit=IMPORT_BOUND
        ),
        Endpoint("GET", "/api/v1/customers/{customer_id}", customers.get, needs="customers.read"),
        Endpoint("PUT", "/api/v1/customers/{customer_id}", customers.save, needs="customers.write"),
        Endpoint("DELETE", "/api/v1/customers/{customer_id}", customers.delete, needs="customers.write"),
    ]


def all_routes() -> list[Endpoint]:
    """Every route, to be described and not served: nothing is opened, and the modules are only looked at."""
    nothing = Secret("")
    config = Config(database_url=nothing, redis_url=nothing, secret_key=nothing, master_keys=nothing)
    kinds = {name: kind for name, kind in get_type_hints(routes).items() if name not in {"return", "config"}}
    return routes(**{name: object.__new__(kind) for name, kind in kinds.items()}, config=config)


def documents(endpoints: list[Endpoint], server_url: str) -> list[Endpoint]:
    """The routes that describe the others, and themselves not.

    What they show is made when somebody first asks for it, in a thread: it takes most of a second, for which no node
    should start later and no call should wait.
    """
    described = tuple(endpoints)

    @cache
    def openapi() -> bytes:
        return describe_endpoints(described, version=VERSION, server_url=server_url)

    @cache
    def asyncapi() -> bytes:
        return describe_messages(version=VERSION, server_url=server_url)

    @cache
    def page() -> bytes:
        return render_page(openapi(), asyncapi())

    async def show_openapi() -> Download:
        """Show the OpenAPI document."""
        return Download(await asyncio.to_thread(openapi), "application/json")

    async def show_asyncapi() -> Download:
        """Show the AsyncAPI document of the WebSocket protocol."""
        return Download(await asyncio.to_thread(asyncapi), "application/json")

    async def show_page() -> Download:
        """Show both documents to people."""
        html = await asyncio.to_thread(page)
        return Download(html, "text/html; charset=utf-8", headers={"content-security-policy": PAGE_POLICY})

    return [
        Endpoint("GET", "/api/openapi.json", show_openapi, needs=ANYONE),
        Endpoint("GET", "/api/asyncapi.json", show_asyncapi, needs=ANYONE),
        Endpoint("GET", "/api/docs", show_page, needs=ANYONE),
    ]
