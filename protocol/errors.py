"""Every error Dialdesk tells anybody: one exception, one table of codes.

The table says for each stable code its HTTP status, whether the same request sent again unchanged may succeed, and the
text for people in both languages. A code that is not in the table cannot be raised.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

Language = Literal["zh-CN", "en"]


class ErrorSpec(NamedTuple):
    """What is fixed about an error code: HTTP status, whether a repeat may succeed, and its two texts."""

    status: int
    retry: bool
    zh: str
    en: str


ERRORS: dict[str, ErrorSpec] = {
    # requests
    "BAD_REQUEST": ErrorSpec(400, False, "请求格式错误：{reason}", "The request is malformed: {reason}"),
    "INVALID_FIELD": ErrorSpec(422, False, "字段不合法：{reason}", "A field is invalid: {reason}"),
    "INVALID_PHONE": ErrorSpec(
        422, False, "电话号码无效，请核对后重拨", "The phone number is not valid; check it and dial again"
    ),
    "NOT_FOUND": ErrorSpec(404, False, "{what}不存在或无权查看", "{what} does not exist, or you may not see it"),
    "METHOD_NOT_ALLOWED": ErrorSpec(405, False, "该地址不支持此方法", "This path does not take this method"),
    "BODY_TOO_LARGE": ErrorSpec(413, False, "请求体超过 {limit} 字节", "The body is larger than {limit} bytes"),
    "UNSUPPORTED_MEDIA_TYPE": ErrorSpec(415, False, "请使用 {expected} 类型", "Send the body as {expected}"),
    "REQUEST_TIMEOUT": ErrorSpec(408, True, "请求体未在限定时间内到达", "The body did not arrive in time"),
    "IDEMPOTENCY_MISMATCH": ErrorSpec(
        409,
        False,
        "该 Idempotency-Key 已用于另一个请求，请换一个",
        "This Idempotency-Key was used for another request; use a new one",
    ),
    "ALREADY_EXISTS": ErrorSpec(409, False, "{what}已存在", "{what} exists already"),
    "VERSION_CONFLICT": ErrorSpec(
        409,
        False,
        "已被他人修改（当前版本 {current}），请刷新后再保存",
        "Somebody changed it meanwhile (it is at version {current}); read it again, then save",
    ),
    "IN_USE": ErrorSpec(409, False, "{what}仍在使用中", "{what} is still in use"),
    # who
    "UNAUTHENTICATED": ErrorSpec(401, False, "请先登录", "Sign in first"),
    "TOKEN_EXPIRED": ErrorSpec(401, False, "登录已过期，请刷新令牌", "The token has expired; refresh it"),
    "BAD_CREDENTIALS": ErrorSpec(401, False, "用户名或密码错误", "Wrong user name or password"),
    "REFRESH_REUSED": ErrorSpec(
        401,
        False,
        "刷新令牌已被使用过，为安全起见请重新登录",
        "This refresh token was used before; for safety sign in again",
    ),
    "ACCOUNT_LOCKED": ErrorSpec(
        403, False, "登录失败次数过多，请于 {until} 后再试", "Too many failed sign-ins; try again after {until}"
    ),
    "ACCOUNT_DISABLED": ErrorSpec(
        403, False, "账号已停用，请联系管理员", "The account is disabled; ask your administrator"
    ),
    "TENANT_SUSPENDED": ErrorSpec(
        403, False, "企业已停用，请联系管理员", "The tenant is suspended; ask your administrator"
    ),
    "PASSWORD_CHANGE_REQUIRED": ErrorSpec(403, False, "请先修改密码", "Change your password first"),
    "WEAK_PASSWORD": ErrorSpec(
        422,
        False,
        "密码须为 8–128 个字符，且不同于用户名",
        "A password has 8 to 128 characters and is not the user name",
    ),
    "FORBIDDEN": ErrorSpec(403, False, "缺少权限 {permission}", "You lack the permission {permission}"),
    "ROLE_NOT_GRANTABLE": ErrorSpec(
        403, False, "不能授予或变更权限高于自己的角色 {role}", "You may not give, or change who holds, the role {role}"
    ),
    "SELF_CHANGE": ErrorSpec(
        409, False, "不能对自己执行此操作", "You cannot do this to yourself; ask another administrator"
    ),
    "LAST_ADMIN": ErrorSpec(
        409,
        False,
        "企业至少需要一名启用的管理员",
        "A tenant needs at least one enabled administrator; make another first",
    ),
    "ORIGIN_NOT_ALLOWED": ErrorSpec(403, False, "来源不被允许", "This origin is not allowed"),
    "RATE_LIMITED": ErrorSpec(
        429, True, "操作过于频繁，请 {retryAfter} 秒后再试", "Too many requests; try again in {retryAfter} s"
    ),
    # devices
    "BIND_TOKEN_INVALID": ErrorSpec(
        410, False, "二维码无效、已使用或已过期，请重新生成", "The QR code is unknown, used or expired; make a new one"
    ),
    "DEVICE_UNBOUND": ErrorSpec(401, False, "设备已解绑，请重新扫码绑定", "The device is unbound; scan a new QR code"),
    "DEVICE_ON_CALL": ErrorSpec(
        409,
        False,
        "设备正在通话，结束后再操作，或使用 force=true",
        "The device is on a call; wait for its end, or use force=true",
    ),
    # calls
    "NO_DEVICE": ErrorSpec(
        409, False, "尚未绑定工作手机，请先扫码绑定", "No work phone is bound; bind one by QR first"
    ),
    "DEVICE_OFFLINE": ErrorSpec(
        409, True, "工作手机不在线，请打开手机 APP 后重拨", "The work phone is offline; open its app and dial again"
    ),
    "DEVICE_BUSY": ErrorSpec(
        409, True, "工作手机正在通话，请稍后重拨", "The work phone is on a call; dial again later"
    ),
    "NO_LINE": ErrorSpec(409, False, "尚未配置云呼叫线路", "No cloud line is configured"),
    "NO_SEAT": ErrorSpec(
        409,
        False,
        "您在该线路上没有坐席，请联系管理员配置",
        "You have no seat on a line; ask your administrator for one",
    ),
    "LINE_BUSY": ErrorSpec(
        409, True, "线路并发已满，请稍后重拨", "The line carries as many calls as it may; dial again later"
    ),
    "NO_EXTENSION": ErrorSpec(
        409,
        True,
        "分机已全部占用，请 {retryAfter} 秒后重拨",
        "All extensions are in use; dial again in {retryAfter} seconds",
    ),
    "LIMIT_LINE_DAY": ErrorSpec(
        409, False, "线路今日呼叫次数已用完", "The line has made as many calls today as it may"
    ),
    "CALLS_OFF": ErrorSpec(
        409, False, "企业已关闭外呼，请联系管理员", "Calling is switched off for your company; ask your administrator"
    ),
    "DO_NOT_CALL": ErrorSpec(
        409, False, "该号码在禁呼名单中，不能呼叫", "The number is on the do-not-call list, and is not called"
    ),
    "LIMIT_HOURS": ErrorSpec(409, False, "当前不在允许外呼的时间段内", "Calls may not be made at this time of day"),
    "TEST_NUMBER_ONLY": ErrorSpec(
        409, False, "测试中的线路只能呼叫测试号码", "A line under test calls test numbers only"
    ),
    "HANGUP_UNSUPPORTED": ErrorSpec(
        409,
        False,
        "该手机无法远程挂断，请在手机上挂断",
        "This phone cannot be hung up from here; hang up on the handset",
    ),
    "NOT_SUPPORTED": ErrorSpec(
        409, False, "该线路或手机不支持此操作", "The call's line, or its phone, has no such function"
    ),
    "CALL_ENDED": ErrorSpec(409, False, "通话已结束", "The call has ended"),
    "CONTROL_REFUSED": ErrorSpec(
        409, False, "服务商拒绝了此操作（{code}）", "The provider refused to do this to the call ({code})"
    ),
    "CONTROL_UNCERTAIN": ErrorSpec(
        409,
        False,
        "服务商未确认，操作可能已执行，请勿盲目重试",
        "The provider did not answer, and may have done it; look before you ask again",
    ),
    "LINE_UNWELL": ErrorSpec(
        409,
        False,
        "线路服务商未通过检测（{reason}），可用 force=true 强制恢复",
        "The line's provider does not answer as it should ({reason}); use force=true to put it into service anyway",
    ),
    "CALL_CHANGED": ErrorSpec(409, True, "通话状态正在变化，请重试", "The call is changing; try again"),
    "EXPORT_TOO_LARGE": ErrorSpec(
        422,
        False,
        "符合条件的通话超过 {limit} 条，请缩小时间范围或增加条件",
        "More than {limit} calls match; choose a shorter time or more filters",
    ),
    # webhooks that we send
    "TOO_MANY_HOOKS": ErrorSpec(
        409,
        False,
        "最多 {limit} 个 Webhook，请先删除不用的",
        "There may be {limit} webhooks; delete one that is not used",
    ),
    "HOOK_DISABLED": ErrorSpec(409, False, "该 Webhook 已停用，请先启用", "The webhook is disabled; enable it first"),
    # recordings
    "RECORDING_OFF": ErrorSpec(
        403, False, "未启用录音，录音不会保存", "Recording is off for this call; the file is not kept"
    ),
    "RECORDING_EXISTS": ErrorSpec(
        409, False, "该通话已有另一份录音", "The call has another recording; it is not replaced"
    ),
    "RECORDING_GONE": ErrorSpec(
        410, False, "录音已到期清理或被删除", "The recording has expired or was deleted; it does not come back"
    ),
    "RECORDING_MISSING": ErrorSpec(
        404,
        False,
        "录音文件不在存储中，请联系管理员",
        "The recording's bytes are not in the store; tell your administrator",
    ),
    "RECORDING_HELD": ErrorSpec(
        409, False, "录音处于法律保留状态，请先解除", "The recording is under legal hold; lift the hold first"
    ),
    "UPLOAD_IN_PROGRESS": ErrorSpec(
        409, True, "该通话的录音正在保存，请稍后再试", "This call's recording is being stored; try again shortly"
    ),
    "UPLOAD_INCOMPLETE": ErrorSpec(
        409, False, "缺少分片 {missing}，请补传后再完成", "Parts {missing} have not arrived; send them, then complete"
    ),
    "CHECKSUM_MISMATCH": ErrorSpec(
        422,
        True,
        "收到的内容与声明不符：{reason}，请重新上传",
        "What arrived is not what was told: {reason}; upload again",
    ),
    "UNSUPPORTED_AUDIO": ErrorSpec(
        415,
        False,
        "不支持的录音格式，请使用 mp3、m4a、aac、amr、wav 或 ogg",
        "This is no audio we take; send mp3, m4a, aac, amr, wav or ogg",
    ),
    "STORAGE_FULL": ErrorSpec(
        507, True, "存储空间不足，请稍后重试", "There is no room for the recording; try again later"
    ),
    "RANGE_NOT_SATISFIABLE": ErrorSpec(
        416, False, "请求的范围超出文件大小", "The range lies beyond the end of the file"
    ),
    # the wire
    "BAD_MESSAGE": ErrorSpec(400, False, "消息格式错误：{reason}", "The message is malformed: {reason}"),
    "UNKNOWN_TYPE": ErrorSpec(400, False, "未知消息类型 {type}", "Unknown message type {type}"),
    "UNEXPECTED_MESSAGE": ErrorSpec(400, False, "此时不应发送 {type}", "{type} is out of place here"),
    # our side
    "UNAVAILABLE": ErrorSpec(503, True, "服务暂时不可用，请稍后重试", "The service is unavailable for now; try again"),
    "DRAINING": ErrorSpec(503, True, "节点正在下线，请重新连接", "This node is leaving; connect again"),
    "INTERNAL": ErrorSpec(
        500, True, "服务器内部错误，请提供请求编号 {requestId}", "Internal error; quote request {requestId}"
    ),
}


_IN_CHINESE = {
    "agent": "坐席",
    "API key": "API 密钥",
    "call": "通话",
    "customer": "客户",
    "device": "设备",
    "do-not-call entry": "禁呼记录",
    "delivery": "投递记录",
    "extension": "分机",
    "follow-up": "跟进",
    "hook": "Webhook",
    "line": "线路",
    "line account": "线路账号",
    "line name": "线路名称",
    "path": "地址",
    "recording": "录音",
    "seat": "席位",
    "team": "团队",
    "tenant": "企业",
    "upload": "上传",
    "user": "用户",
    "username": "用户名",
}
"""What errors speak of, for people who read Chinese."""


class DialdeskError(Exception):
    """An error with a stable code. `details` fill the text and travel to the asker, so they hold nothing secret."""

    def __init__(self, code: str, /, **details: Any) -> None:
        self.spec = ERRORS[code]
        self.code = code
        self.details: Mapping[str, Any] = details
        super().__init__(self.message("en"))

    @property
    def status(self) -> int:
        """The HTTP status that goes with the code."""
        return self.spec.status

    @property
    def retry(self) -> bool:
        """Whether the same request, sent again unchanged, may succeed."""
        return self.spec.retry

    def message(self, language: Language) -> str:
        """The text for people, which says what to do next."""
        if language == "zh-CN":
            what = self.details.get("what")
            return self.spec.zh.format_map(_Blank({**self.details, "what": _IN_CHINESE.get(str(what), what)}))
        return self.spec.en.format_map(_Blank(self.details))


class _Blank(dict[str, Any]):
    """A detail that was not given shows as nothing rather than failing the error itself."""

    def __missing__(self, key: str) -> str:
        return ""


class CloseCode:
    """WebSocket close codes. 4500-4999: do not come back, tell the person. Any other: come back with back-off."""

    DRAINING = 1012
    FIRST_MESSAGE = 4400
    REFRESH_TOKEN = 4401
    HEARTBEAT_LOST = 4408
    SLOW_CONSUMER = 4410
    TOO_MANY_MESSAGES = 4429
    VERSION_NOT_SERVED = 4500
    REPLACED = 4501
    UNBOUND = 4503
