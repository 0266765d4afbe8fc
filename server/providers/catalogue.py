"""Which providers there are: what each takes for settings and for secrets, and how one is opened.

What a tenant fills in is one form: names that the provider's Secrets have are credentials, all others are settings.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Any, assert_never, get_args

import msgspec
from aiohttp import ClientSession
from msgspec import inspect as mi

from protocol.errors import DialdeskError, Language
from server.providers.aliyun import REPLY as ALIYUN_REPLY
from server.providers.aliyun import Aliyun, AliyunSecrets, AliyunSettings
from server.providers.custom import Custom, CustomSecrets, CustomSettings
from server.providers.infinity import REPLY as INFINITY_REPLY
from server.providers.infinity import Infinity, InfinitySecrets, InfinitySettings
from server.providers.provider import Provider, Reply
from server.providers.ronglian import REPLY as RONGLIAN_REPLY
from server.providers.ronglian import Ronglian, RonglianSecrets, RonglianSettings
from server.providers.tencent import REPLY as TENCENT_REPLY
from server.providers.tencent import Tencent, TencentSecrets, TencentSettings
from server.providers.tianrun import TianrunSecrets, TianrunSettings, tianrun
from server.providers.tianrun_record import REPLY as TIANRUN_REPLY
from storage.lines import ProviderName


class Vendor(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a provider without speaking to it.

    `settings` is a union where there are several platforms. `account` names the settings of which the first
    that is given names the account; `kinds` what stands in the paths of its callback URLs behind the provider's name.
    `given` is the secret that is not filled in: it is the line's own callback URL. `behind` are kinds that the vendor
    itself puts behind the URL that it was given. `reply` is what the vendor wants to
    hear where it is not known for which line it speaks.
    """

    title: tuple[str, str]
    settings: type[msgspec.Struct] | UnionType
    secrets: type[msgspec.Struct]
    account: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ("",)
    given: str | None = None
    behind: tuple[str, ...] = ()
    reply: Reply = Reply(b"", "text/plain")

    @property
    def platforms(self) -> dict[str, tuple[mi.Field, ...]]:
        """The fields of the settings, by platform; where there is but one, by no name that matters."""
        kinds: Sequence[Any] = get_args(self.settings) or (self.settings,)
        return {str(kind.__struct_config__.tag): _of(kind) for kind in kinds}


VENDORS: dict[ProviderName, Vendor] = {
    "aliyun": Vendor(
        title=("阿里云云联络中心", "Alibaba Cloud CCC"),
        settings=AliyunSettings,
        secrets=AliyunSecrets,
        reply=ALIYUN_REPLY,
        account=("instanceId",),
        kinds=("status", "recording"),
    ),
    "tencent": Vendor(
        title=("腾讯云联络中心", "Tencent Cloud CCC"),
        settings=TencentSettings,
        secrets=TencentSecrets,
        reply=TENCENT_REPLY,
        account=("sdkAppId",),
    ),
    "ronglian": Vendor(
        title=("容联云通讯", "Ronglian Yuntongxun"),
        settings=RonglianSettings,
        secrets=RonglianSecrets,
        reply=RONGLIAN_REPLY,
        account=("subAccountSid",),
        given="callbackUrl",
        behind=("CallAuth", "CallEstablish", "Hangup"),
    ),
    "tianrun": Vendor(
        title=("天润融通", "Tianrun"),
        settings=TianrunSettings,
        secrets=TianrunSecrets,
        reply=TIANRUN_REPLY,
        account=("enterpriseId", "accessKeyId"),
    ),
    "infinity": Vendor(
        title=("Infinity 外呼", "Infinity"),
        settings=InfinitySettings,
        secrets=InfinitySecrets,
        reply=INFINITY_REPLY,
        account=("appId",),
    ),
    "custom": Vendor(
        title=("自定义服务商", "Described by yourself"),
        settings=CustomSettings,
        secrets=CustomSecrets,
    ),
}

HELP: dict[str, tuple[str, str]] = {
    "instanceId": ("实例 ID", "The id of the call centre"),
    "accessKeyId": ("RAM 用户的 AccessKey ID", "AccessKey ID of a RAM user"),
    "accessKeySecret": ("RAM 用户的 AccessKey Secret", "AccessKey secret of that user"),
    "region": ("地域；容联与 Infinity 为拨号国家", "Region; for Ronglian and Infinity the country it dials from"),
    "mode": ("呼叫方式：坐席登录（agent）或双呼（back2back）", "agent: a signed-in agent; back2back: two telephones"),
    "broker": ("双呼时的中间号码", "The number of the instance that seats' telephones see"),
    "baseUrl": ("私有化部署的接口地址，一般不填", "Another address of the API, for private installations"),
    "sdkAppId": ("应用 ID（SdkAppId）", "The application"),
    "callers": ("外显号码，按顺序使用", "Caller numbers in E.164, tried in their order"),
    "secretId": ("API 密钥 SecretId", "SecretId of the API key"),
    "secretKey": ("API 密钥 SecretKey", "SecretKey of the API key"),
    "pushUser": ("推送的用户名", "User of pushes; with the password, or neither"),
    "pushPassword": ("推送的密码", "Password of pushes"),
    "pushToken": ("推送的 Bearer 令牌", "Bearer token of pushes"),
    "appId": ("应用 ID；Infinity 为授权 appid", "The application; for Infinity the appid"),
    "subAccountSid": ("子账户 SID", "SID of the sub-account"),
    "subAccountToken": ("子账户令牌", "Token of the sub-account"),
    "agentSees": ("坐席侧显示的号码", "The number that the agent sees"),
    "record": ("是否让服务商录音", "Whether the provider records"),
    "overCodes": ("表示通话已结束的返回码", "Codes by which the vendor says that a call is over"),
    "accessKey": ("授权 accesskey", "The accesskey"),
    "api": ("接口形式：form 或 json", "Which API the account is on"),
    "companyCode": ("公司编码，json 接口必填", "Company code; required with the JSON API"),
    "dialPrefix": ("拨号前缀", "Digits before every dialled number"),
    "platform": ("平台：clink2 或 cticloud", "The platform: clink2 or cticloud"),
    "enterpriseId": ("企业编号", "The enterprise"),
    "secret": ("Clink2 的 AccessKeySecret，或 CtiCloud 的 token", "AccessKeySecret of Clink2, or token of CtiCloud"),
    "fields": ("推送中各字段的名称", "What the fields of pushes are called"),
    "departmentId": ("部门编号，按部门签名时填写", "The department, where it signs instead of the enterprise"),
    "place": ("发起呼叫的请求", "The request that places a call"),
    "test": ("测试账号的请求", "A harmless request, to see that the account works"),
    "hangUp": ("挂断的请求", "The request that ends a call"),
    "mute": ("静音的请求", "The request that mutes the agent"),
    "unmute": ("取消静音的请求", "The request that unmutes the agent"),
    "transfer": ("转接的请求", "The request that hands a call on"),
    "lookUp": ("按服务商通话编号查询的请求", "The request that asks for a call by the vendor's id"),
    "lookUpByTag": ("按我方通话编号查询的请求", "The request that asks for a call by our id"),
    "recording": ("获取录音地址的请求", "The request that asks for a recording's URL"),
    "balance": ("查询余额的请求", "The request that asks what is left"),
    "webhooks": ("回调的校验与读法", "How its messages are verified and read"),
    "answer": ("如何判断请求成功", "How answers tell success"),
    "auth": ("Bearer 或 Basic 认证", "Bearer or basic authentication"),
    "signing": ("请求的签名方式", "How requests are signed"),
    "headers": ("每个请求都带的请求头", "Headers of every request"),
    "values": ("密钥，设置中以 {secret.名称} 引用", "Secrets, of which settings speak as {secret.NAME}"),
    "timeZone": ("话单时间的时区", "Time zone of the times in call records"),
}
"""What a field is, in Chinese and in English; docs/providers/ tells where it is found."""


class Field(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A field of a provider's form. A `secret` is shown masked, and stays as it is where it is left out or sent back
    masked. `kind` is what JSON has there; `choices` are all it may be, where not anything goes. A field that is there
    on one `platform` only names it."""

    name: str
    platform: str | None
    kind: str
    required: bool
    secret: bool
    choices: list[str]
    default: Any
    help: str


class Form(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a provider asks for."""

    provider_type: str
    title: str
    fields: list[Field]
    callbacks: list[str]


def open_provider(provider: ProviderName, settings: bytes, secrets: bytes, http: ClientSession) -> Provider:
    """Open a provider from JSON of its settings and its secrets. Raises msgspec.ValidationError where they do not fit.

    `http` must be guarded (ssrf.py), for settings may name an address.
    """
    decode = msgspec.json.decode
    match provider:
        case "aliyun":
            return Aliyun(decode(settings, type=AliyunSettings), decode(secrets, type=AliyunSecrets), http)
        case "tencent":
            return Tencent(decode(settings, type=TencentSettings), decode(secrets, type=TencentSecrets), http)
        case "ronglian":
            return Ronglian(decode(settings, type=RonglianSettings), decode(secrets, type=RonglianSecrets), http)
        case "infinity":
            return Infinity(decode(settings, type=InfinitySettings), decode(secrets, type=InfinitySecrets), http)
        case "tianrun":
            return tianrun(decode(settings, type=TianrunSettings), decode(secrets, type=TianrunSecrets), http)
        case "custom":
            return Custom(decode(settings, type=CustomSettings), decode(secrets, type=CustomSecrets), http)
        case _:
            assert_never(provider)


def secret_names(known: Vendor) -> set[str]:
    """What the credentials of a provider are called, of those that are filled in."""
    return {field.encode_name for field in msgspec.structs.fields(known.secrets)} - {known.given}


def demand_fit(known: Vendor, settings: Mapping[str, Any], credentials: Mapping[str, Any]) -> None:
    """Raise INVALID_FIELD, naming the field, where a provider could not be opened with these."""
    try:
        msgspec.convert(settings, known.settings)
        msgspec.convert(credentials, known.secrets)
    except msgspec.ValidationError as error:
        raise DialdeskError("INVALID_FIELD", reason=_placed(str(error))) from None  # the cause may hold a secret


def addresses(known: Vendor, settings: Mapping[str, Any]) -> set[str]:
    """Return the URLs, of settings that fit, to which requests go other than to where the vendor is for everybody."""
    if known.settings is CustomSettings:
        return msgspec.convert(settings, CustomSettings).hosts
    return {settings["baseUrl"]} if settings.get("baseUrl") else set()


def describe(language: Language) -> list[Form]:
    """Return the forms of all providers, for consoles."""
    told = 0 if language == "zh-CN" else 1
    return [
        Form(
            provider_type=name,
            title=known.title[told],
            fields=[
                *_settings(known, told),
                *(_field(field, told, secret=True) for field in _of(known.secrets) if field.encode_name != known.given),
            ],
            callbacks=list(known.kinds),
        )
        for name, known in VENDORS.items()
    ]


def _settings(known: Vendor, told: int) -> Iterator[Field]:
    """The settings' fields: those of all platforms once, the others with theirs, and which platforms there are."""
    platforms = known.platforms
    if len(platforms) > 1:
        yield Field(
            name="platform",
            platform=None,
            kind="string",
            required=True,
            secret=False,
            choices=list(platforms),
            default=None,
            help=HELP["platform"][told],
        )
    everywhere = set.intersection(*({field.name for field in fields} for fields in platforms.values()))
    for at, (platform, fields) in enumerate(platforms.items()):
        for field in fields:
            if field.name not in everywhere:
                yield _field(field, told, platform=platform)
            elif at == 0:
                yield _field(field, told)


def _of(kind: type[msgspec.Struct]) -> tuple[mi.Field, ...]:
    info = mi.type_info(kind)
    assert isinstance(info, mi.StructType)
    return info.fields


def _field(field: mi.Field, told: int, *, secret: bool = False, platform: str | None = None) -> Field:
    bare = _bare(field.type)
    return Field(
        name=field.encode_name,
        platform=platform,
        kind=_kind(bare),
        required=field.required,
        secret=secret,
        choices=[str(value) for value in bare.values] if isinstance(bare, mi.LiteralType) else [],
        default=None if field.default is msgspec.NODEFAULT else field.default,
        help=HELP.get(field.encode_name, ("", ""))[told],
    )


def _bare(kind: mi.Type) -> mi.Type:
    """A type without what is said about it, and without null."""
    match kind:
        case mi.Metadata():
            return _bare(kind.type)
        case mi.UnionType():
            return _bare(next(one for one in kind.types if not isinstance(one, mi.NoneType)))
    return kind


def _kind(kind: mi.Type) -> str:
    match kind:
        case mi.BoolType():
            return "boolean"
        case mi.IntType():
            return "integer"
        case mi.CollectionType():
            return "array"
        case mi.StructType() | mi.DictType():
            return "object"
    return "string"


def _placed(reason: str) -> str:
    """What is wrong, with the path that the request has for it."""
    named = re.sub(r"`\$", "`$.providerConfig", reason)
    return named if named != reason else f"{reason} - at `$.providerConfig`"
