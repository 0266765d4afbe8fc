// Made by `python -m server.typescript` from the server's OpenAPI and AsyncAPI documents. Not to be edited.

/** The first message of a phone. `connection` is kept on the phone and raised at each attempt to connect. */
export interface DeviceOnline {
  appVersion?: string
  osType?: string
  osVersion?: string
  deviceToken?: string | null
  capabilities?: Capabilities
  bootId?: string
  connection?: number
  activeCall?: ActiveCall | null
  pendingReports?: number
}

/** What a handset can do and see (docs/handsets.md); a phone that says nothing can do nothing by itself. */
export interface Capabilities {
  autoDial?: boolean
  hangUp?: boolean
  answerSignal?: boolean
  recording?: boolean
}

/** The call a handset is on. Without `callId` it is a call of its own, and dials are refused with DEVICE_BUSY. */
export interface ActiveCall {
  callId?: string | null
  status?: string | null
}

/** The phone goes on purpose: it is offline at once, without grace. */
export interface DeviceOffline {
  reason?: string | null
}

/** A sign of life. `handsetBusy` tells that a private call began or ended since DEVICE_ONLINE. */
export interface Heartbeat {
  battery?: number | null
  network?: string | null
  handsetBusy?: boolean | null
}

/** The answer to HEARTBEAT. To a page it tells `lastSeq`: one that is behind asks again with HELLO. */
export interface HeartbeatAck {
  lastSeq?: number | null
}

/** From a phone: the command is on its disk. From the server: the report is committed. */
export interface Ack {
  messageId: string
}

/** A call moved on (seed 003 §2.2.3). `timestamp` is the phone's clock and informs only. */
export interface CallStatus {
  callId: string
  status: "calling" | "connected" | "ringing"
  timestamp?: number | null
  evidence?: string | null
}

/**
 * A call is over (seed 003 §2.2.3). May come twice: at once, then enriched from the call log. Times without an
 * offset mean UTC: they come naive, and must be made aware before they meet any of ours.
 */
export interface CallEnd {
  callId: string
  status: string
  startTime?: string | null
  endTime?: string | null
  duration?: number | null
  hangupCause?: string | null
  evidence?: string | null
  hasRecording?: boolean | null
  recordingSize?: number | null
}

/** The upload over HTTP is complete (seed 003 §2.2.3): checked against what has been stored. */
export interface RecordingUpload {
  callId: string
  size: number
  sha256: string
}

/** The first message of a page, and again at any time: resume after `lastSeq`. */
export interface Hello {
  lastSeq?: number | null
  client?: string | null
}

/** Start a call; the same fields as `POST /api/v1/calls/dial`. Its `messageId` is the idempotency key. */
export interface Dial {
  customerPhone?: string | null
  customerId?: string | null
  customerName?: string | null
  callMethod?: "cloud" | "mobile" | null
  lineId?: string | null
  caseType?: string | null
  tags?: string[]
  orderId?: string | null
  externalId?: string | null
  customData?: Record<string, unknown> | null
  deviceId?: string | null
  userId?: string | null
}

/** End a call, or keep it from being dialled. */
export interface HangUp {
  callId: string
}

/** The session stands. `serverTime` (epoch ms) is what the phone judges expiry by; `commands` are still waiting. */
export interface WelcomePhone {
  sessionId: string
  heartbeatInterval: number
  serverTime: number
  node: string
  epoch: number
  commands?: WaitingCommand[]
}

/** A command as it stands in WELCOME: the same id and content as when it is sent alone. */
export interface WaitingCommand {
  type: string
  messageId: string
  data: unknown
}

/** Something the peer sent was refused. `retry: false` ends a report: it must not be sent again. */
export interface Error {
  code: string
  message: string
  retry: boolean
  messageId?: string | null
  details?: Record<string, unknown>
}

/**
 * Dial this number, if server time is still before `expiresAt` (epoch milliseconds).
 *
 * Record the call only where `record` says so; `consentNotice` is what the agent must tell the customer first.
 */
export interface DialCommand {
  callId: string
  customerPhone: string
  expiresAt: number
  record?: boolean
  consentNotice?: string | null
  customerName?: string | null
  customerId?: string | null
  orderId?: string | null
}

/** Do not dial this call, or hang it up. One that comes before its DIAL_COMMAND is remembered. */
export interface CancelDial {
  callId: string
  reason: string
}

/** The binding is over and its token void; the app forgets it. */
export interface DeviceUnbind {
  reason: string
}

/** This node is leaving: come back after a random share of `afterMs`. */
export interface Reconnect {
  afterMs: number
  reason: string
}

/** The session stands; devices and calls are as of `lastSeq`. */
export interface WelcomeAgent {
  sessionId: string
  heartbeatInterval: number
  serverTime: number
  node: string
  lastSeq: number
  devices?: DeviceView[]
  calls?: LiveCall[]
}

/** A work phone as its agent sees it (seed 003 §5.1). */
export interface DeviceView {
  id: string
  deviceId: string
  phoneNumber: string
  deviceName: string
  deviceModel: string
  osType: string
  onlineStatus: "offline" | "online"
  bindTime: string
  lastActiveAt: string | null
  capabilities: Capabilities
  isDefault: boolean
}

/** A call that has not ended, as a page needs it to draw its window. `customerPhone` is masked. */
export interface LiveCall {
  callId: string
  status: Status
  callMethod: string
  customerPhone: string
  createdAt: string
  deviceId?: string | null
  customerName?: string | null
  customerId?: string | null
  orderId?: string | null
  externalId?: string | null
  customData?: unknown
  connectedAt?: string | null
}

/** Where a call stands (seed 003 §8.3). */
export type Status = "pending" | "calling" | "ringing" | "connected" | "ended"

/** The answer to DIAL: the call exists and its command is committed. `messageId` is the DIAL's. */
export interface DialAccepted {
  messageId: string
  callId: string
}

/** The answer to HANGUP. The call ends when the phone says so: CALL_ENDED follows. */
export interface HangUpAccepted {
  messageId: string
  callId: string
}

/** A phone was bound to this agent; the QR page learns here that the scan worked. */
export interface DeviceBound {
  device: DeviceView
}

/** A phone is no longer this agent's. */
export interface DeviceUnbound {
  deviceId: string
  reason: string
}

/** A phone of this agent went online or offline. */
export interface DeviceStatus {
  deviceId: string
  onlineStatus: "offline" | "online"
}

/** The phone (or provider) says that it is dialling. */
export interface CallDialing {
  callId: string
  at: number
  evidence: Evidence
  customerPhone: string
  customerName?: string | null
  customerId?: string | null
  orderId?: string | null
  externalId?: string | null
  customData?: unknown
  deviceId?: string | null
  source: string
}

/** On what grounds something is said; RANK orders the grounds. */
export type Evidence = "server" | "assumed" | "in_call_service" | "cx_call" | "call_log" | "provider_record"

/** The customer's phone rings. */
export interface CallRinging {
  callId: string
  at: number
  evidence: Evidence
  customerPhone: string
  customerName?: string | null
  customerId?: string | null
  orderId?: string | null
  externalId?: string | null
  customData?: unknown
  deviceId?: string | null
  source: string
}

/** The customer answered, as far as `evidence` goes. */
export interface CallConnected {
  callId: string
  at: number
  evidence: Evidence
  customerPhone: string
  customerName?: string | null
  customerId?: string | null
  orderId?: string | null
  externalId?: string | null
  customData?: unknown
  deviceId?: string | null
  source: string
}

/** The call is over. It comes again, marked `enriched`, when a stronger record corrects it. `duration` is in s. */
export interface CallEnded {
  callId: string
  at: number
  evidence: Evidence
  customerPhone: string
  customerName?: string | null
  customerId?: string | null
  orderId?: string | null
  externalId?: string | null
  customData?: unknown
  deviceId?: string | null
  status: Outcome
  hangupCause: HangupCause
  closedBy: string
  duration?: number | null
  hasRecording?: boolean | null
  enriched?: boolean
}

/** How a call ended. */
export type Outcome = "connected" | "missed" | "busy" | "rejected" | "failed" | "cancelled" | "unknown"

/** Why a call ended: seed 003 §8.2, completed. The raw cause is kept beside it. */
export type HangupCause = "NORMAL_CLEARING" | "USER_BUSY" | "NO_ANSWER" | "CALL_REJECTED" | "INVALID_NUMBER" | "UNALLOCATED_NUMBER" | "NETWORK_ERROR" | "TIMEOUT" | "DEVICE_OFFLINE" | "DEVICE_BUSY" | "EXPIRED" | "CANCELLED" | "LOST" | "RESTRICTED" | "POWER_OFF" | "SUSPENDED" | "NO_PERMISSION" | "NO_SIM" | "UNKNOWN"

/** A call's recording is stored, whole: it can be played at `recordingUrl`. `size` is in bytes, `at` epoch ms. */
export interface RecordingReady {
  callId: string
  at: number
  source: "agent" | "phone" | "provider"
  mediaType: string
  size: number
  recordingUrl: string
}

/** Continuity is lost between `fromSeq` and `toSeq`: read calls and devices again over HTTP. */
export interface Resync {
  fromSeq: number
  toSeq: number
}

/** Who signs in. */
export interface LoginRequest {
  username: string
  password: string
}

/** The newest refresh token of a session. */
export interface RefreshRequest {
  refreshToken: string
}

/** A change of one's own password. */
export interface PasswordRequest {
  oldPassword: string
  newPassword: string
}

/** The agent whose session a CRM asks for. */
export interface ExchangeRequest {
  userId: string
}

/** For an API key, the agent whose ticket it asks for; others ask for their own. */
export interface TicketRequest {
  userId?: string | null
}

/** A tenant to be made; `region` is the country of its telephone numbers. */
export interface NewTenant {
  code: string
  name: string
  timezone?: string
  region?: string
  admin: NewAdmin
}

/** The first admin of a tenant. A password that is not given is made. */
export interface NewAdmin {
  username: string
  name: string
  password?: string | null
}

/** What the installation sets for a tenant: its name, and the hours in which it calls; what is not named stays. */
export interface TenantChange {
  name?: string
  callingFrom?: string
  callingTo?: string
}

/**
 * What a tenant sets for itself; what is not named stays as it is.
 *
 * `recordingEnabled` counts from the next dial on. `recordingNotice` is what the agent must tell the customer before
 * the call is recorded. `recordingDays` counts for recordings that are there already, too: those that are older, and
 * under no legal hold, are deleted. While `callsEnabled` holds, calls are made from `callingFrom` to `callingTo` by
 * the tenant's clock: within 08:00 to 21:00, unless the installation gave wider hours.
 */
export interface TenantConfig {
  name?: string
  timezone?: string
  callResults?: string[]
  callIntentions?: string[]
  recordingEnabled?: boolean
  recordingNotice?: string
  recordingDays?: number
  callsEnabled?: boolean
  callingFrom?: string
  callingTo?: string
}

/** A team's name. */
export interface TeamRequest {
  name: string
}

/**
 * A user to be made. A password that is not given is made; either is to be changed at first use, unless told not.
 *
 * A system_admin names the tenant, and makes tenant_admins only.
 */
export interface NewUser {
  username: string
  name: string
  role: string
  teamId?: string | null
  supervisedTeams?: string[]
  password?: string | null
  mustChangePassword?: boolean
  tenantId?: string | null
}

/** What to change of a user; what is not named stays as it is, and a `teamId` of null takes it out of its team. */
export interface UserChange {
  name?: string
  role?: string
  teamId?: string | null
  supervisedTeams?: string[]
}

/** A key to be made. Its scopes are permissions that its maker holds, and those of acting for an agent. */
export interface NewApiKey {
  name: string
  scopes: string[]
  expiresAt?: string | null
}

/** Where to tell of which events. `reveal`: customers' numbers unmasked; its maker must hold `customers.reveal`. */
export interface NewHook {
  url: string
  events: ("call.connected" | "call.corrected" | "call.created" | "call.ended" | "device.bound" | "device.offline" | "device.online" | "device.unbound" | "recording.deleted" | "recording.expired" | "recording.failed" | "recording.ready")[]
  description?: string
  enabled?: boolean
  reveal?: boolean
}

/** What is to be different; what is not named stays as it is. */
export interface HookChange {
  url?: string
  events?: ("call.connected" | "call.corrected" | "call.created" | "call.ended" | "device.bound" | "device.offline" | "device.online" | "device.unbound" | "recording.deleted" | "recording.expired" | "recording.failed" | "recording.ready")[]
  description?: string
  enabled?: boolean
  reveal?: boolean
}

/** Since when what was given up is to be sent again. */
export interface ResendFailed {
  since: string
}

/** For whom the phone will be; whoever asks, where nobody is named. */
export interface QrRequest {
  userId?: string | null
}

/**
 * What an app tells when it binds its phone. `token` is the QR code's, or what a person typed.
 *
 * `phoneNumber` is empty where the handset does not know it (iOS). `deviceToken` is the push token. With `force` a
 * call that the server believes to be under way on this phone is closed as unknown.
 */
export interface BindRequest {
  token: string
  deviceId: string
  phoneNumber?: string
  deviceName: string
  deviceModel: string
  osType: "android" | "ios"
  osVersion: string
  appVersion: string
  deviceToken?: string | null
  force?: boolean
}

/** How to call out from now on; what is not named stays as it is, and null means none. */
export interface ConfigRequest {
  callMethod?: "cloud" | "mobile"
  deviceId?: string | null
  lineId?: string | null
  callParameters?: Record<string, boolean | number | string | null>
}

/** A line to be made: off, unless it says otherwise. */
export interface NewLine {
  name: string
  accountId?: string
  providerConfig: Record<string, unknown>
  callerNumber?: string | null
  status?: "active" | "inactive" | "testing"
  priority?: number
  weight?: number
  maxConcurrent?: number
  dailyLimit?: number
  userDailyLimit?: number
  callTimeout?: number
  maxRetry?: number
  windowStart?: string
  windowEnd?: string
  intervalMinutes?: number
  extensionPolicy?: "affinity" | "lru" | "round_robin"
  caseTypes?: string[]
  tags?: string[]
  allowedNetworks?: string[]
  providerType: "aliyun" | "custom" | "infinity" | "ronglian" | "tencent" | "tianrun"
}

/** A configuration to be tried. Its credentials are given in full: none of a line that is kept is used. */
export interface LineTrial {
  providerType: "aliyun" | "custom" | "infinity" | "ronglian" | "tencent" | "tianrun"
  providerConfig: Record<string, unknown>
}

/**
 * What may be set of a line; of a new one the rest is as seed 000 §9 has it, of another it stays as it is.
 *
 * `providerConfig` holds settings and credentials by the names that `GET /api/v1/calls/lines/providers` tells. It is
 * set as a whole, but for credentials: one that is left out, or sent back masked, stays, and null takes one away.
 * `accountId` names the account at the provider, and is taken from `providerConfig` where it is not given: one account
 * is one line. A `dailyLimit` of 0 is none. Of lines that could carry a call the one with the smallest `priority` is
 * taken, in proportion to `weight`. Calls are made from `windowStart` to `windowEnd` by the tenant's clock.
 * `allowedNetworks` are those that callbacks may come from; none: any.
 */
export interface LineFields {
  name?: string
  accountId?: string
  providerConfig?: Record<string, unknown>
  callerNumber?: string | null
  status?: "active" | "inactive" | "testing"
  priority?: number
  weight?: number
  maxConcurrent?: number
  dailyLimit?: number
  userDailyLimit?: number
  callTimeout?: number
  maxRetry?: number
  windowStart?: string
  windowEnd?: string
  intervalMinutes?: number
  extensionPolicy?: "affinity" | "lru" | "round_robin"
  caseTypes?: string[]
  tags?: string[]
  allowedNetworks?: string[]
}

/** `force` puts the line into service though its provider does not answer. */
export interface UnfreezeRequest {
  force?: boolean
}

/**
 * Who an agent is at the line's provider: `seatId` is the id there, such as a UserId or cno, and `number` the
 * telephone that is rung first. Which of them it takes, the provider's page says.
 */
export interface SeatBody {
  seatId?: string
  number?: string
}

/** A channel to be made, which is off. */
export interface NewChannel {
  channel_name: string
  account_id: string
  api_key: string
  api_secret: string
  callback_url?: string | null
  priority?: number
  daily_limit?: number
  user_daily_limit?: number
  call_timeout?: number
  max_retry?: number
  time_range_start?: string
  time_range_end?: string
  interval_minutes?: number
}

/**
 * What may be set of a channel; what is left out stays as it is, of a new one as seed 000 §9 has it.
 *
 * So does an `api_key` or an `api_secret` that is sent back masked. A `daily_limit` of 0 is none; the channel with the
 * smallest `priority` is taken first. Calls are made from `time_range_start` to `time_range_end` by the tenant's clock, within
 * 08:00 to 21:00.
 */
export interface ChannelFields {
  channel_name: string
  account_id: string
  api_key?: string
  api_secret?: string
  callback_url?: string | null
  priority?: number
  daily_limit?: number
  user_daily_limit?: number
  call_timeout?: number
  max_retry?: number
  time_range_start?: string
  time_range_end?: string
  interval_minutes?: number
}

/** 0: off. 1: on. 2: testing, which dials test numbers only. */
export interface ChannelStatus {
  status: 0 | 1 | 2
}

/** Why a key must be seen; it stands in the audit log. */
export interface Reason {
  reason: string
}

/** What somebody did on the console's page (seed 000, 二.1). */
export interface Footprint {
  event: "infinity_config_add_click" | "infinity_config_page_view"
}

/** A configuration to be made: off, unless it says otherwise. */
export interface NewInfinityConfig {
  appId: string
  accessKey: string
  api?: "form" | "json"
  baseUrl?: string | null
  companyCode?: string
  region?: string
  dialPrefix?: string
  timeZone?: string
  name: string
  callerNumber?: string | null
  maxConcurrent?: number
  callTimeout?: number
  extensionPolicy?: "affinity" | "lru" | "round_robin"
  isActive?: boolean
}

/** A configuration to be tried. None that is kept is used. */
export interface InfinityTrial {
  appId: string
  accessKey: string
  api?: "form" | "json"
  baseUrl?: string | null
  companyCode?: string
  region?: string
  dialPrefix?: string
  timeZone?: string
}

/**
 * What may be set of a configuration; what is left out stays as it is. At most `maxConcurrent` calls are made over
 * it at once, by extensions that `extensionPolicy` takes from its pool.
 */
export interface InfinityConfigFields {
  appId?: string
  accessKey?: string
  api?: "form" | "json"
  baseUrl?: string | null
  companyCode?: string
  region?: string
  dialPrefix?: string
  timeZone?: string
  name?: string
  callerNumber?: string | null
  maxConcurrent?: number
  callTimeout?: number
  extensionPolicy?: "affinity" | "lru" | "round_robin"
  isActive?: boolean
}

/** Whether calls are to be made over it. */
export interface Toggle {
  isActive: boolean
}

/**
 * A call over the line `configId`, on an extension that the line lends. `customParams` come back in every event and
 * record of the call, as `customData`.
 */
export interface MakeCall {
  configId: string
  customerPhone?: string | null
  customerId?: string | null
  customerName?: string | null
  orderId?: string | null
  customParams?: Record<string, unknown> | null
  userId?: string | null
}

/** Extensions for a line's pool: numbers as the provider knows them, or ranges such as `8001~8020`. */
export interface BatchImport {
  lineId: string
  extensions: string[]
}

/** Extensions to delete. */
export interface BatchDelete {
  extensionIds: string[]
}

/** Why the lease is ended by force; the audit log keeps it. */
export interface Release {
  reason?: string | null
}

/** `offline` takes an extension out of the pool, `available` puts it back, at once if it was cooling. */
export interface ExtensionFields {
  status: "available" | "offline"
}

/** Whom not to call: `phone`, or who has it, a customer or a call. Until `expiresAt`, or for good. */
export interface NewListing {
  phone?: string | null
  customerId?: string | null
  callId?: string | null
  reason?: string
  expiresAt?: string | null
}

/** Numbers to look up. */
export interface CheckBody {
  phones: string[]
}

/** Why the number may be called again, which the audit log keeps. */
export interface LiftBody {
  reason: string
}

/** All the numbers that lines under test may dial: what is not among them, they dial no more. */
export interface NumbersBody {
  numbers: Number[]
}

/** A number, in any way of writing it, and a note on whose it is. */
export interface Number {
  phone: string
  note?: string
}

/**
 * A call to make. `customerId` alone suffices for a customer that is known here.
 *
 * `customerId`, `orderId`, `externalId` and `customData` come back in every event and record of the call. `deviceId`
 * names one of the agent's phones, else the default is used. `userId` dials for another agent (scope calls.dial_for).
 * `caseType` and `tags` say which lines may carry a cloud call.
 */
export interface DialRequest {
  customerPhone?: string | null
  customerId?: string | null
  customerName?: string | null
  callMethod?: "cloud" | "mobile" | null
  lineId?: string | null
  caseType?: string | null
  tags?: string[]
  orderId?: string | null
  externalId?: string | null
  customData?: Record<string, unknown> | null
  deviceId?: string | null
  userId?: string | null
}

/** Of whom to tell: exactly one of a number, a customer that is known here, and a call of the asker's. */
export interface LatelyRequest {
  customerPhone?: string | null
  customerId?: string | null
  callId?: string | null
}

/** Which call to end. */
export interface HangUpRequest {
  callId: string
}

/** Mute the agent towards the customer, or with `muted` false no longer. */
export interface MuteRequest {
  callId: string
  muted?: boolean
}

/** Hand the customer to a telephone `number`, or to another agent by the `seatId` at the line's provider. */
export interface TransferRequest {
  callId: string
  number?: string | null
  seatId?: string | null
}

/** CALL_STATUS over HTTP (seed 003 §5.5); `messageId` is the one of the socket, so that either may repeat. */
export interface AppStatus {
  callId: string
  status: "calling" | "connected" | "ended" | "ringing"
  timestamp?: number | null
  evidence?: string | null
  messageId?: string | null
}

/** CALL_END over HTTP (seed 003 §5.5). */
export interface AppEnd {
  callId: string
  status: string
  startTime?: string | null
  endTime?: string | null
  duration?: number | null
  hangupCause?: string | null
  evidence?: string | null
  hasRecording?: boolean | null
  recordingSize?: number | null
  messageId?: string | null
}

/** The quick record after a call; what is left out is empty. `nextFollowUpAt` lies in the future. */
export interface FollowUpBody {
  result?: string | null
  intention?: string | null
  note?: string | null
  nextFollowUpAt?: string | null
}

/** A recording that will come in parts: its `size` in bytes, the `sha256` of the whole file, and its media type. */
export interface NewUpload {
  callId: string
  size: number
  sha256: string
  mediaType: string
}

/** Whether to keep the recording whatever its age, and why. */
export interface HoldRequest {
  hold: boolean
  reason: string
}

/** A customer to make. Its external id may not have the form of our ids. */
export interface NewCustomer {
  externalId?: string | null
  name: string
  phone: string
  tags?: string[]
  orderIds?: string[]
}

/** What is known of a customer; it replaces all that was known, but a number that is left out stays. */
export interface CustomerBody {
  name: string
  phone?: string | null
  tags?: string[]
  orderIds?: string[]
}

/** The process runs. */
export interface Alive {
  success: true
  status: string
}

/**
 * The node serves. A deaf relay makes it slower (rows bring what Redis does not), not unready: Redis away would
 * otherwise take every node out of service at once.
 */
export interface Ready {
  success: true
  node: string
  relay: "deaf" | "hears"
}

/** A session: `accessToken` is good for `expiresIn` seconds, `refreshToken` for one use at /auth/refresh. */
export interface SignedIn {
  success: true
  accessToken: string
  refreshToken: string
  expiresIn: number
  user: Profile
}

/** A user, as it sees itself. */
export interface Profile {
  id: string
  tenantId: string | null
  username: string
  name: string
  role: string
  teamId: string | null
  teamName: string | null
  supervisedTeams: string[]
  permissions: string[]
  mustChangePassword: boolean
}

/** It is done, and there is nothing to add. */
export interface Done {
  success: true
}

/** What opens one WebSocket within `expiresIn` seconds. */
export interface Ticket {
  success: true
  ticket: string
  expiresIn: number
}

/** Who asks: a user, or an API key with its scopes as `permissions`. */
export interface Me {
  success: true
  kind: "api_key" | "user"
  permissions: string[]
  user: Profile | null
  tenant: Tenant | null
}

/**
 * A company that uses the installation, with what its agents may choose in the quick record (seed 003 §6.4).
 *
 * While `recordingEnabled` holds calls are recorded, after the agent has told the customer `recordingNotice`, and
 * kept for `recordingDays`. While `callsEnabled` holds calls are made, from `callingFrom` to `callingTo` by the
 * tenant's clock: hours and minutes, to 24:00.
 */
export interface Tenant {
  id: string
  code: string
  name: string
  timezone: string
  region: string
  status: "active" | "suspended"
  callResults: string[]
  callIntentions: string[]
  recordingEnabled: boolean
  recordingNotice: string
  recordingDays: number
  callsEnabled: boolean
  callingFrom: string
  callingTo: string
  createdAt: string
}

/** A tenant and its first admin; `password` is set where one was made, and is told this once. */
export interface TenantMade {
  success: true
  tenant: Tenant
  admin: User
  password: string | null
}

/** A user. `tenantId` is None for a system_admin; `lockedUntil` is None where no lock-out goes on. */
export interface User {
  id: string
  tenantId: string | null
  username: string
  name: string
  role: string
  teamId: string | null
  teamName: string | null
  supervisedTeams: string[]
  status: "active" | "disabled"
  mustChangePassword: boolean
  lockedUntil: string | null
  createdAt: string
}

/** A page of tenants, by code. */
export interface TenantList {
  success: true
  tenants: Tenant[]
  page: number
  pageSize: number
  total: number
}

/** A tenant. */
export interface TenantAnswer {
  success: true
  tenant: Tenant
}

/** A team. */
export interface TeamAnswer {
  success: true
  team: Team
}

/** A team of a tenant; `members` counts its enabled users. */
export interface Team {
  id: string
  name: string
  members: number
  createdAt: string
}

/** A page of teams, by name. */
export interface TeamList {
  success: true
  teams: Team[]
  page: number
  pageSize: number
  total: number
}

/** The roles; those in `grantable` the asker may give. */
export interface RoleList {
  success: true
  roles: Role[]
  grantable: string[]
}

/** What a kind of user may do, and whose rows it reaches. */
export interface Role {
  code: string
  name: string
  reach: "installation" | "own" | "teams" | "tenant"
  permissions: string[]
}

/** A user; `password` is set where one was made, and is told this once. */
export interface UserMade {
  success: true
  user: User
  password: string | null
}

/** A page of users, by user name. */
export interface UserList {
  success: true
  users: User[]
  page: number
  pageSize: number
  total: number
}

/** A report, row by row. Rows stand for themselves: those that can be are made, whatever becomes of others. */
export interface Imported {
  success: true
  dryRun: boolean
  created: number
  refused: number
  rows: ImportedRow[]
}

/** What became of a row: a user, whose made password is told this once, or why there is none. */
export interface ImportedRow {
  line: number
  username: string
  userId: string | null
  password: string | null
  code: string | null
  message: string | null
}

/** A user. */
export interface UserAnswer {
  success: true
  user: User
}

/** The key itself is in `key`: this once, and null where the answer is repeated for the same Idempotency-Key. */
export interface ApiKeyMade {
  success: true
  apiKey: ApiKey
  key: string | null
}

/** An API key as answers tell it; `prefix` is how a person knows it again. */
export interface ApiKey {
  id: string
  name: string
  prefix: string
  scopes: string[]
  createdBy: string
  createdAt: string
  expiresAt: string | null
  lastUsedAt: string | null
  revokedAt: string | null
}

/** A page of the tenant's keys, newest first; revoked ones stay in the list. */
export interface ApiKeyList {
  success: true
  apiKeys: ApiKey[]
  page: number
  pageSize: number
  total: number
}

/**
 * A hook, and what its messages are signed with: this once, and null where the answer is repeated for the same
 * Idempotency-Key.
 */
export interface HookMade {
  success: true
  hook: Hook
  secret: string | null
}

/**
 * Where a tenant wants to be told. `disabledReason` is set where the machine disabled it; since `failingSince`
 * nothing was taken; until `oldSecretUntil` messages carry signatures with an older secret, too.
 */
export interface Hook {
  id: string
  url: string
  events: ("call.connected" | "call.corrected" | "call.created" | "call.ended" | "device.bound" | "device.offline" | "device.online" | "device.unbound" | "recording.deleted" | "recording.expired" | "recording.failed" | "recording.ready")[]
  description: string
  enabled: boolean
  reveal: boolean
  disabledReason: "failing" | "gone" | null
  disabledAt: string | null
  failingSince: string | null
  deliveredAt: string | null
  oldSecretUntil: string | null
  createdBy: string
  createdAt: string
  updatedAt: string
}

/** The tenant's hooks, oldest first; there are never many. */
export interface HookList {
  success: true
  hooks: Hook[]
}

/** A hook. */
export interface HookAnswer {
  success: true
  hook: Hook
}

/** The delivery whose line in the log will tell how it went. */
export interface Pinged {
  success: true
  deliveryId: string
}

/** How many are sent again. Where there are `more`, ask once more. */
export interface Resent {
  success: true
  resent: number
  more: boolean
}

/** Lines of the log; `nextCursor` asks for older ones, and is null where there are none. */
export interface DeliveryList {
  success: true
  deliveries: Delivery[]
  nextCursor: string | null
}

/**
 * A line of a hook's log: an event, and how telling it went. `id` is the `webhook-id` of every attempt; `subjectId`
 * is the call's or the phone's id; `status` and `answer` are the last attempt's, `failure` why it counts as none.
 */
export interface Delivery {
  id: string
  event: string
  subjectId: string
  at: string
  state: "delivered" | "failed" | "waiting"
  nextAt: string | null
  attempts: number
  attemptedAt: string | null
  status: number | null
  answer: string | null
  failure: string | null
  tookMs: number | null
}

/** Lines of the audit log; `nextCursor` asks for older ones, and is null where there are none. */
export interface AuditList {
  success: true
  lines: AuditLine[]
  nextCursor: string | null
}

/** One change. `before` and `after` hold the fields that it changed. */
export interface AuditLine {
  id: string
  actorKind: string
  actorId: string
  action: string
  resource: string
  resourceId: string
  before: Record<string, unknown> | null
  after: Record<string, unknown> | null
  reason: string | null
  ip: string | null
  requestId: string | null
  at: string
}

/** A QR code as a PNG data URL, the JSON it holds, and eight characters to type where no camera works. */
export interface QrAnswer {
  success: true
  qrCodeUrl: string
  qrCodeData: string
  typedCode: string
  expiresAt: string
}

/** The phone is bound. `authToken` is told this once, and goes with every request and connection of the phone. */
export interface BindAnswer {
  success: true
  id: string
  websocketUrl: string
  userId: string
  authToken: string
}

/** A page of phones, the newest binding first; `total` counts all pages. */
export interface ListAnswer {
  success: true
  devices: ListedDevice[]
  page: number
  pageSize: number
  total: number
}

/** A phone, and whose it is. */
export interface ListedDevice {
  id: string
  deviceId: string
  phoneNumber: string
  deviceName: string
  deviceModel: string
  osType: string
  onlineStatus: "offline" | "online"
  bindTime: string
  lastActiveAt: string | null
  capabilities: ApiCapabilities
  isDefault: boolean
  userId: string
  userName: string
}

/** What a handset can do and see (docs/handsets.md); a phone that says nothing can do nothing by itself. */
export interface ApiCapabilities {
  autoDial: boolean
  hangUp: boolean
  answerSignal: boolean
  recording: boolean
}

/** Lines of the bind log, the newest first; `nextCursor` asks for the rest, and is null where there is none. */
export interface LogAnswer {
  success: true
  records: LogEntry[]
  nextCursor: string | null
}

/** A line of the bind log (seed 003 §4.2.4). `deviceId` is the handset's own; `phoneId` the `id` of its binding. */
export interface LogEntry {
  id: string
  userId: string
  userName: string
  phoneId: string
  deviceId: string
  phoneNumber: string
  deviceName: string
  deviceModel: string
  osType: string
  bindType: "manual" | "qrcode"
  action: "bind" | "move" | "unbind"
  reason: string | null
  ipAddress: string | null
  createdAt: string
}

/** Whether a phone is online, which it stays for the grace of a lost connection, and when it was last heard from. */
export interface StatusAnswer {
  success: true
  online: boolean
  lastHeartbeat: string | null
}

/** How an agent calls out; `deviceId` is the `id` of the phone that is used where a dial names none. */
export interface ConfigAnswer {
  success: true
  callMethod: "cloud" | "mobile"
  deviceId: string | null
  lineId: string | null
  callParameters: Record<string, boolean | number | string | null>
}

/** A page of lines, in the order in which they are taken. */
export interface LineList {
  success: true
  lines: LineView[]
  page: number
  pageSize: number
  total: number
}

/** A line as agents see it. `todayCount` counts calls since midnight by the tenant's clock, `seats` who has one. */
export interface LineView {
  id: string
  name: string
  providerType: "aliyun" | "custom" | "infinity" | "ronglian" | "tencent" | "tianrun"
  callerNumber: string | null
  status: "active" | "inactive" | "testing"
  health: "frozen" | "ok" | "suspended"
  maxConcurrent: number
  currentConcurrent: number
  dailyLimit: number
  todayCount: number
  seats: number
}

/** The line that was made. Its callback URLs are told by `GET /api/v1/calls/lines/{line_id}`. */
export interface LineMade {
  success: true
  line: LineView
  config: LineConfig | null
  id: string
}

/**
 * How a line is set up, and how it does, as its administrators see it.
 *
 * `providerConfig` has credentials masked. `callbackUrls` are what to paste at the provider, by what it sends there;
 * without the right to read them, or where the key they are sealed under is missing, there are none. `heardAt` is when
 * a callback last came, to the minute. `notEnforced` names what is kept and limits nothing yet.
 */
export interface LineConfig {
  accountId: string
  providerConfig: Record<string, unknown>
  callbackUrls: Record<string, string>
  heardAt: string | null
  allowedNetworks: string[]
  priority: number
  weight: number
  userDailyLimit: number
  callTimeout: number
  maxRetry: number
  windowStart: string
  windowEnd: string
  intervalMinutes: number
  extensionPolicy: "affinity" | "lru" | "round_robin"
  caseTypes: string[]
  tags: string[]
  notEnforced: string[]
  failures: number
  healthReason: string | null
  healthAt: string | null
  version: number
  createdBy: string
  createdAt: string
  updatedBy: string | null
  updatedAt: string
}

/** What each provider asks for. */
export interface ProviderList {
  success: true
  providers: Form[]
}

/** What a provider asks for. */
export interface Form {
  providerType: string
  title: string
  fields: Field[]
  callbacks: string[]
}

/**
 * A field of a provider's form. A `secret` is shown masked, and stays as it is where it is left out or sent back
 * masked. `kind` is what JSON has there; `choices` are all it may be, where not anything goes. A field that is there
 * on one `platform` only names it.
 */
export interface Field {
  name: string
  platform: string | null
  kind: string
  required: boolean
  secret: boolean
  choices: string[]
  default: unknown
  help: string
}

/** Whether the account answered, after how many milliseconds, and what it said (seed 003 §5.2). */
export interface TestAnswer {
  success: boolean
  latency: number
  message: string
}

/** A line; `config` is null for who may not manage it. */
export interface LineAnswer {
  success: true
  line: LineView
  config: LineConfig | null
}

/** The line is in service. `problem` is what the probe found, where it was forced. */
export interface Unfrozen {
  success: true
  health: "ok"
  problem: string | null
}

/** The seats on a line of the agents within reach, by name. */
export interface SeatList {
  success: true
  seats: SeatView[]
}

/** Who an agent is at the line's provider. */
export interface SeatView {
  userId: string
  userName: string
  seatId: string
  number: string
  updatedAt: string
}

/**
 * What is answered below `/api/v1/channel/` where a request is not carried out: `code` is the HTTP status, and
 * `error` what is called `code` elsewhere.
 */
export interface NumberedError {
  success: false
  code: number
  error: "BAD_REQUEST" | "INVALID_FIELD" | "INVALID_PHONE" | "NOT_FOUND" | "METHOD_NOT_ALLOWED" | "BODY_TOO_LARGE" | "UNSUPPORTED_MEDIA_TYPE" | "REQUEST_TIMEOUT" | "IDEMPOTENCY_MISMATCH" | "ALREADY_EXISTS" | "VERSION_CONFLICT" | "IN_USE" | "UNAUTHENTICATED" | "TOKEN_EXPIRED" | "BAD_CREDENTIALS" | "REFRESH_REUSED" | "ACCOUNT_LOCKED" | "ACCOUNT_DISABLED" | "TENANT_SUSPENDED" | "PASSWORD_CHANGE_REQUIRED" | "WEAK_PASSWORD" | "FORBIDDEN" | "ROLE_NOT_GRANTABLE" | "SELF_CHANGE" | "LAST_ADMIN" | "ORIGIN_NOT_ALLOWED" | "RATE_LIMITED" | "BIND_TOKEN_INVALID" | "DEVICE_UNBOUND" | "DEVICE_ON_CALL" | "NO_DEVICE" | "DEVICE_OFFLINE" | "DEVICE_BUSY" | "NO_LINE" | "NO_SEAT" | "LINE_BUSY" | "NO_EXTENSION" | "LIMIT_LINE_DAY" | "CALLS_OFF" | "DO_NOT_CALL" | "LIMIT_HOURS" | "TEST_NUMBER_ONLY" | "HANGUP_UNSUPPORTED" | "NOT_SUPPORTED" | "CALL_ENDED" | "CONTROL_REFUSED" | "CONTROL_UNCERTAIN" | "LINE_UNWELL" | "CALL_CHANGED" | "EXPORT_TOO_LARGE" | "TOO_MANY_HOOKS" | "HOOK_DISABLED" | "RECORDING_OFF" | "RECORDING_EXISTS" | "RECORDING_GONE" | "RECORDING_MISSING" | "RECORDING_HELD" | "UPLOAD_IN_PROGRESS" | "UPLOAD_INCOMPLETE" | "CHECKSUM_MISMATCH" | "UNSUPPORTED_AUDIO" | "STORAGE_FULL" | "RANGE_NOT_SATISFIABLE" | "BAD_MESSAGE" | "UNKNOWN_TYPE" | "UNEXPECTED_MESSAGE" | "UNAVAILABLE" | "DRAINING" | "INTERNAL"
  message: string
  details: Record<string, unknown>
  timestamp: string
  requestId: string
}

/** A page of channels, in the order in which they are taken. */
export interface ChannelList {
  code: 200
  message: string
  data: ChannelPage
}

/** Some channels, and how many there are. */
export interface ChannelPage {
  total: number
  list: ListedChannel[]
}

/** A channel in a list. */
export interface ListedChannel {
  channel_id: string
  channel_name: string
  account_id: string
  status: 0 | 1 | 2
  priority: number
  daily_limit: number
  user_daily_limit: number
  created_at: string
  updated_at: string
}

/** The channel that was made. */
export interface ChannelMade {
  code: 200
  message: string
  data: ChannelId
}

/** Which channel it is. */
export interface ChannelId {
  channel_id: string
}

/** One channel. */
export interface ChannelShown {
  code: 200
  message: string
  data: ChannelDetail
}

/** A channel, its key masked. `version` is for `If-Match`; `not_enforced` names what is kept and limits nothing. */
export interface ChannelDetail {
  channel_id: string
  channel_name: string
  account_id: string
  status: 0 | 1 | 2
  priority: number
  daily_limit: number
  user_daily_limit: number
  created_at: string
  updated_at: string
  api_key: string
  callback_url: string | null
  call_timeout: number
  max_retry: number
  time_range_start: string
  time_range_end: string
  interval_minutes: number
  created_by: string
  updated_by: string | null
  version: number
  not_enforced: string[]
}

/** It is changed; or with `dry_run` it is not, and `data` tells what would be. */
export interface ChannelChanged {
  code: 200
  message: string
  data: ChannelChanges | null
}

/** What would be changed, and of which version: sent with it as `If-Match`, the change is this one or none. */
export interface ChannelChanges {
  version: number
  changes: FieldChange[]
}

/** A field that becomes another. Of a key that is replaced both are masked, and may look the same. */
export interface FieldChange {
  field: string
  before: unknown
  after: unknown
}

/** It is done, and there is nothing to add. */
export interface ChannelDone {
  code: 200
  message: string
  data: null
}

/** What was done to a channel, which may have been deleted since. */
export interface ChannelHistory {
  code: 200
  message: string
  data: ChannelOperations
}

/** Some operations, newest first; `next_cursor` asks for older ones, and is null where there are none. */
export interface ChannelOperations {
  list: ChannelOperation[]
  next_cursor: string | null
}

/**
 * Something that was done to a channel: `create`, `update`, `status_change`, `delete`, `reveal`, or what else lines
 * know. The fields that it changed stand in `before_data` and `after_data`, keys masked.
 */
export interface ChannelOperation {
  operation_type: string
  before_data: Record<string, unknown> | null
  after_data: Record<string, unknown> | null
  operator: string
  operation_time: string
  client_ip: string | null
  remark: string | null
}

/** How a channel does. */
export interface ChannelHealth {
  code: 200
  message: string
  data: ChannelState
}

/** How a channel does. `balance` is null: the vendor does not tell it. */
export interface ChannelState {
  channel_id: string
  status: 0 | 1 | 2
  health: "frozen" | "ok" | "suspended"
  failures: number
  health_reason: string | null
  health_at: string | null
  heard_at: string | null
  current_concurrent: number
  max_concurrent: number
  today_count: number
  daily_limit: number
  balance: string | null
}

/** What was hidden. */
export interface ChannelKey {
  code: 200
  message: string
  data: RevealedKey
}

/** A key, in full. */
export interface RevealedKey {
  channel_id: string
  api_key: string
}

/** A page of configurations, in the order in which they are taken. */
export interface InfinityConfigList {
  success: true
  configs: InfinityConfig[]
  page: number
  pageSize: number
  total: number
}

/**
 * A configuration, its key masked. One that is being tested (seed 000) is not active. `version` goes into
 * `If-Match`.
 */
export interface InfinityConfig {
  id: string
  tenantId: string
  name: string
  appId: string
  accessKey: string
  api: "form" | "json"
  baseUrl: string | null
  companyCode: string
  region: string
  dialPrefix: string
  timeZone: string
  callerNumber: string | null
  maxConcurrent: number
  currentConcurrent: number
  callTimeout: number
  extensionPolicy: "affinity" | "lru" | "round_robin"
  isActive: boolean
  health: "frozen" | "ok" | "suspended"
  todayCount: number
  version: number
  createdAt: string
  updatedAt: string
}

/** A configuration. */
export interface InfinityConfigAnswer {
  success: true
  config: InfinityConfig
}

/** The call is committed; what becomes of it arrives as events. */
export interface DialAnswer {
  success: true
  callId: string
  message: string
}

/** What an import did; `problems` names the first hundred of the entries that were skipped or are invalid. */
export interface ExtensionImport {
  success: true
  imported: number
  skipped: number
  invalid: number
  problems: ExtensionProblem[]
}

/**
 * An entry, by its line in the file or its place in the list from 1, that was left out: it is no number
 * (`INVALID`), stands there twice (`REPEATED`), or is in the pool already (`EXISTS`).
 */
export interface ExtensionProblem {
  line: number
  extension: string
  reason: "EXISTS" | "INVALID" | "REPEATED"
}

/** What was deleted, and which extensions were not, for they are lent. */
export interface ExtensionsDeleted {
  success: true
  deleted: number
  inUse: string[]
}

/** How many leases were ended. */
export interface Released {
  success: true
  released: number
}

/** The pools of the tenant, by the name of their line. */
export interface PoolStatistics {
  success: true
  pools: PoolView[]
}

/**
 * How much of a pool is used. `usageRate` is the share in use of what is not offline, from 0 to 1; `uses` counts
 * leases since the import.
 */
export interface PoolView {
  lineId: string
  lineName: string
  total: number
  available: number
  inUse: number
  cooling: number
  offline: number
  usageRate: number
  uses: number
}

/** One extension. */
export interface ExtensionAnswer {
  success: true
  extension: ExtensionView
}

/**
 * An extension. While it is lent `userId` and `callId` tell to whom; until `coolUntil` nobody is lent it, for its
 * provider refused it.
 */
export interface ExtensionView {
  id: string
  lineId: string
  lineName: string
  extension: string
  status: "available" | "in_use" | "offline"
  userId: string | null
  userName: string | null
  callId: string | null
  leaseUntil: string | null
  coolUntil: string | null
  lastUsedAt: string | null
  uses: number
  createdAt: string
}

/** A page of extensions, by line and number. */
export interface ExtensionPage {
  success: true
  extensions: ExtensionView[]
  page: number
  pageSize: number
  total: number
}

/** An entry of the list. */
export interface ListingAnswer {
  success: true
  entry: Listing
}

/** A number that is not called. `source` is how it came: by an agent, the API, a file, or a provider. */
export interface Listing {
  id: string
  phone: string
  reason: string
  source: "agent" | "api" | "import" | "provider"
  createdBy: string
  createdAt: string
  expiresAt: string | null
}

/** A page of the list. `nextCursor`, sent with the same parameters, brings the next; null on the last page. */
export interface ListingPage {
  success: true
  entries: Listing[]
  nextCursor: string | null
}

/** What the list says of each number, in the order asked. */
export interface CheckAnswer {
  success: true
  numbers: Checked[]
}

/** What the list says of a number, which stands as it was asked; `entryId` names the entry that forbids it. */
export interface Checked {
  phone: string
  code: "DO_NOT_CALL" | "INVALID_PHONE" | "OK"
  entryId: string | null
}

/**
 * What an import did. `rows` = `added` + `known` + `failed` + `repeated`; `known` stood on the list before.
 *
 * `errors` names the first thousand rows that failed.
 */
export interface ListingImport {
  success: true
  rows: number
  added: number
  known: number
  failed: number
  repeated: number
  errors: RowProblem[]
}

/** A row that is not taken: the line on which it ends, why by code, and in words. */
export interface RowProblem {
  line: number
  code: string
  message: string
}

/** The numbers that lines under test may dial, unmasked: they are no customers'. */
export interface NumbersAnswer {
  success: true
  numbers: TrialNumber[]
}

/** A number (E.164) that a line under test may dial, and whose it is. */
export interface TrialNumber {
  phone: string
  note: string
}

/**
 * What a dial would come to at this moment: `code` is the error that it would be refused with, else null.
 *
 * `deviceId` or `lineId` would carry the call. `lines` are the tenant's, each with what was made of it; an agent is
 * told of those on which it could call. The last place of a line, or its last free extension, may be gone by then.
 */
export interface RoutingAnswer {
  success: true
  callMethod: "cloud" | "mobile"
  code: string | null
  message: string | null
  deviceId: string | null
  lineId: string | null
  lines: Judged[]
}

/** A line and what was made of it. */
export interface Judged {
  lineId: string
  name: string
  reason: "CHOSEN" | "DAY_FULL" | "LATER" | "LINE_FROZEN" | "LINE_OFF" | "LINE_SUSPENDED" | "NOT_ASKED_FOR" | "NO_ROOM" | "NO_SEAT" | "OTHER_CASES" | "OUT_OF_HOURS" | "TEST_NUMBER_ONLY"
}

/**
 * The call to the number by another agent of the tenant that goes on, or else that ended last within half an hour;
 * null: there is none, or it is no number, as one that is still being typed.
 */
export interface LatelyAnswer {
  success: true
  call: LatelyCall | null
}

/** The latest call of a colleague: begun `at`; `outcome` once it has ended, null while it goes on. */
export interface LatelyCall {
  userName: string
  at: string
  status: Status
  outcome: Outcome | null
}

/** The wish is committed. The call ends when its phone says so. */
export interface HangUpAnswer {
  success: true
}

/** The provider did it, or says so. */
export interface ControlAnswer {
  success: true
}

/** A result for each report, in their order. */
export interface ReportsAnswer {
  success: true
  results: ReportResult[]
}

/** What became of one report: committed, or refused for good (`retry` false), or to be sent again. */
export interface ReportResult {
  callId: string
  accepted: boolean
  messageId?: string | null
  code?: string | null
  retry?: boolean | null
}

/**
 * A page of calls. `nextCursor`, sent with the same parameters, brings the next; null on the last page.
 *
 * A page may be short, or empty, and not the last, where few calls are of the kind asked for; `hasMore` tells. With
 * `updatedSince` the cursor is never null: keep it, and ask again with it for what changes later.
 */
export interface CallPage {
  success: true
  calls: CallRecord[]
  nextCursor: string | null
  hasMore: boolean
}

/**
 * A call with all that is known of it (seed 003 §4.2.3); null where it is not.
 *
 * Durations are seconds: `ringDuration` from ringing to the answer or the end, `duration` of talk, told at the end.
 *
 * `record` tells whether the tenant had calls recorded when this one was dialled. `recording` is `awaited` where the
 * phone says that it has one which has not come, `ready` where it can be played at `recordingUrl`, and `failed` where
 * it could not be had; an `expired` or `deleted` one was here once. `hasRecording` and `recordingSize` (bytes) are
 * what the phone says, until a recording is stored: then they are what is so.
 */
export interface CallRecord {
  callId: string
  status: Status
  outcome: Outcome | null
  closedBy: string | null
  evidence: Evidence | null
  connectedEvidence: Evidence | null
  hangupCause: HangupCause | null
  rawCause: string | null
  callMethod: "cloud" | "mobile" | "sip"
  userId: string
  userName: string
  teamId: string | null
  createdBy: string
  deviceId: string | null
  lineId: string | null
  providerCallId: string | null
  providerJobId: string | null
  callerNumber: string | null
  customerPhone: string
  customerId: string | null
  customerName: string | null
  orderId: string | null
  externalId: string | null
  customData: unknown
  createdAt: string
  dialingAt: string | null
  ringingAt: string | null
  connectedAt: string | null
  endedAt: string | null
  ringDuration: number | null
  duration: number | null
  hasRecording: boolean | null
  recordingSize: number | null
  record: boolean
  recording: "awaited" | "deleted" | "expired" | "failed" | "none" | "ready"
  recordingUrl: string | null
  updatedAt: string
  followUp: FollowUp | null
}

/** The agent's record of a call; `doneAt` tells that the next follow-up was made or dropped. */
export interface FollowUp {
  result: string | null
  intention: string | null
  note: string | null
  nextFollowUpAt: string | null
  doneAt: string | null
  recordedAt: string
  recordedBy: string
}

/**
 * The agents by name, how many there are in each state, and the day's calls within reach, of former agents too.
 *
 * `day` is the tenant's day in `timezone`; `timestamp` the server's time, to which `since` is to be compared. The
 * counts of the day may be some seconds old.
 */
export interface BoardAnswer {
  success: true
  agents: BoardAgent[]
  states: States
  today: DayCount
  day: string
  timezone: string
  timestamp: string
}

/**
 * An agent: `talking` or `calling`, `idle` with a page open, or `offline`; `since` when, as far as that is known.
 *
 * `live` are the calls within the asker's reach that the agent is at, an answered one first: who has a phone and a
 * line may be at two, and one that was begun in another team may be out of reach. `phone` tells whether one of the
 * agent's work phones is online, and is null where none is bound.
 */
export interface BoardAgent {
  calls: number
  connected: number
  connectedAssumed: number
  talkSeconds: number
  talkSecondsAssumed: number
  userId: string
  userName: string
  teamId: string | null
  teamName: string | null
  state: "calling" | "idle" | "offline" | "talking"
  since: string | null
  phone: "offline" | "online" | null
  live: BoardCall[]
}

/** A call that an agent is at. */
export interface BoardCall {
  callId: string
  status: string
  callMethod: "cloud" | "mobile" | "sip"
  customerName: string | null
  customerPhone: string
  createdAt: string
  connectedAt: string | null
}

/** How many agents are in each state. */
export interface States {
  talking: number
  calling: number
  idle: number
  offline: number
}

/**
 * Calls made since the day began at the tenant, counted as statistics count: answers that are proven, with their
 * seconds of talk, and apart from them those that somebody said there were.
 */
export interface DayCount {
  calls: number
  connected: number
  connectedAssumed: number
  talkSeconds: number
  talkSecondsAssumed: number
}

/** Tallies by group, in the order of the groups' keys, and of all together; a group without calls has no row. */
export interface StatisticsAnswer {
  success: true
  from: string
  to: string
  timezone: string
  rows: TallyRow[]
  total: Tally
}

/** The tally of one group; it has the fields that were asked for by `groupBy`. */
export interface TallyRow {
  calls: number
  finished: number
  connected: number
  connectedAssumed: number
  unknown: number
  connectRate: number | null
  talkSeconds: number
  talkSecondsAssumed: number
  averageTalkSeconds: number | null
  day?: string
  userId?: string
  userName?: string
  teamId?: string | null
  teamName?: string | null
  lineId?: string | null
  callMethod?: "cloud" | "mobile" | "sip"
}

/**
 * Calls counted. The parts are told, so that any other rate can be computed from them.
 *
 * `finished` are calls that ended, whatever the outcome; of these `connected` were answered as a live signal, a call
 * log or a provider's record proves, `connectedAssumed` are said to have been by a phone that cannot see it, and of
 * `unknown` nobody can tell. What nobody can tell counts neither way: `connectRate` = connected ÷ (finished -
 * connectedAssumed - unknown), null where that is nothing. Talk times are seconds of `connected`, those of
 * `connectedAssumed` stand apart (they include the ringing); the average leaves out calls without a known duration.
 */
export interface Tally {
  calls: number
  finished: number
  connected: number
  connectedAssumed: number
  unknown: number
  connectRate: number | null
  talkSeconds: number
  talkSecondsAssumed: number
  averageTalkSeconds: number | null
}

/** What agents choose from in the quick record, and the hang-up causes in the asker's language. */
export interface OptionsAnswer {
  success: true
  results: string[]
  intentions: string[]
  causes: Cause[]
}

/** What a hang-up cause means, and what to do about it. */
export interface Cause {
  code: HangupCause
  text: string
  advice: string
}

/**
 * One call, what can be done to it now (`hang_up`, `mute`, `transfer`), and its history, oldest first;
 * `eventsTruncated` where there is more of it than is shown.
 */
export interface CallAnswer {
  success: true
  call: CallRecord
  controls: ("hang_up" | "mute" | "transfer")[]
  events: CallEvent[]
  eventsTruncated: boolean
}

/** Something that was said of a call: by whom, what (`kind`, `data`), and what it changed (`effect`). */
export interface CallEvent {
  at: string
  source: string
  kind: string
  effect: string
  data: unknown
}

/**
 * Where a call stands (seed 003 §5.3).
 *
 * `startTime` is when the customer answered. `duration` is seconds of talk: so far while connected, in all once ended,
 * and null where nobody can tell. `controls` is what can be done to the call now: `hang_up`, `mute`, `transfer`.
 */
export interface CallStatusAnswer {
  success: true
  callId: string
  status: Status
  duration: number | null
  startTime: string | null
  endTime: string | null
  outcome: Outcome | null
  hangupCause: HangupCause | null
  evidence: Evidence | null
  controls: ("hang_up" | "mute" | "transfer")[]
  updatedAt: string
}

/** The recording is kept, whole; it is played at `recordingUrl`. */
export interface Stored {
  success: true
  recordingUrl: string
  size: number
  sha256: string
}

/**
 * An upload in parts, each but the last of `partSize` bytes. Where `stored` is true the call has this very
 * recording already, and nothing need be sent.
 */
export interface UploadAnswer {
  success: true
  uploadId: string | null
  partSize: number
  parts: PartState[]
  expiresAt: string | null
  stored: boolean
}

/** A part of an upload: its size in bytes, whether it has arrived, and where to PUT it, if not here. */
export interface PartState {
  number: number
  size: number
  arrived: boolean
  url: string | null
}

/** The part is kept. */
export interface PartAnswer {
  success: true
  number: number
  size: number
}

/** Where a player finds the recording, without a credential, until `expiresAt`. */
export interface LinkAnswer {
  success: true
  url: string
  expiresAt: string
  mediaType: string
  size: number
}

/**
 * What a player draws: `peaks` from 0 to 255 over the whole `duration` (s). Null while `waiting` to be read.
 *
 * An `unreadable` recording is kept and can be downloaded; what is in it, nobody could tell.
 */
export interface WaveformAnswer {
  success: true
  status: "read" | "unreadable" | "waiting"
  source: "agent" | "phone" | "provider"
  mediaType: string
  size: number
  sha256: string
  storedAt: string
  duration: number | null
  codec: string | null
  sampleRate: number | null
  channels: number | null
  peaks: number[] | null
  hold: boolean
  holdReason: string | null
}

/** One customer. */
export interface CustomerAnswer {
  success: true
  customer: Customer
}

/** A customer; `id` is ours, `externalId` the CRM's. */
export interface Customer {
  id: string
  externalId: string | null
  name: string
  phone: string
  tags: string[]
  orderIds: string[]
  createdAt: string
  updatedAt: string
}

/** A page of customers. `nextCursor`, sent with the same parameters, brings the next; null on the last page. */
export interface CustomerPage {
  success: true
  customers: Customer[]
  nextCursor: string | null
}

/**
 * What an import did, or with `dryRun` would do.
 *
 * `rows` = `created` + `updated` + `unchanged` + `failed` + `repeated`; the last are rows whose external id comes
 * again further down, where the last row counts. `errors` names the first thousand rows that failed or are repeated.
 */
export interface ImportAnswer {
  success: true
  dryRun: boolean
  rows: number
  created: number
  updated: number
  unchanged: number
  failed: number
  repeated: number
  errors: RowProblem[]
}

/** One customer as it was saved; `created` tells that it is new. */
export interface SavedAnswer {
  success: true
  customer: Customer
  created: boolean
}

/** What is answered where a request is not carried out. `details` are the values that `message` speaks of. */
export interface ApiError {
  success: false
  code: "BAD_REQUEST" | "INVALID_FIELD" | "INVALID_PHONE" | "NOT_FOUND" | "METHOD_NOT_ALLOWED" | "BODY_TOO_LARGE" | "UNSUPPORTED_MEDIA_TYPE" | "REQUEST_TIMEOUT" | "IDEMPOTENCY_MISMATCH" | "ALREADY_EXISTS" | "VERSION_CONFLICT" | "IN_USE" | "UNAUTHENTICATED" | "TOKEN_EXPIRED" | "BAD_CREDENTIALS" | "REFRESH_REUSED" | "ACCOUNT_LOCKED" | "ACCOUNT_DISABLED" | "TENANT_SUSPENDED" | "PASSWORD_CHANGE_REQUIRED" | "WEAK_PASSWORD" | "FORBIDDEN" | "ROLE_NOT_GRANTABLE" | "SELF_CHANGE" | "LAST_ADMIN" | "ORIGIN_NOT_ALLOWED" | "RATE_LIMITED" | "BIND_TOKEN_INVALID" | "DEVICE_UNBOUND" | "DEVICE_ON_CALL" | "NO_DEVICE" | "DEVICE_OFFLINE" | "DEVICE_BUSY" | "NO_LINE" | "NO_SEAT" | "LINE_BUSY" | "NO_EXTENSION" | "LIMIT_LINE_DAY" | "CALLS_OFF" | "DO_NOT_CALL" | "LIMIT_HOURS" | "TEST_NUMBER_ONLY" | "HANGUP_UNSUPPORTED" | "NOT_SUPPORTED" | "CALL_ENDED" | "CONTROL_REFUSED" | "CONTROL_UNCERTAIN" | "LINE_UNWELL" | "CALL_CHANGED" | "EXPORT_TOO_LARGE" | "TOO_MANY_HOOKS" | "HOOK_DISABLED" | "RECORDING_OFF" | "RECORDING_EXISTS" | "RECORDING_GONE" | "RECORDING_MISSING" | "RECORDING_HELD" | "UPLOAD_IN_PROGRESS" | "UPLOAD_INCOMPLETE" | "CHECKSUM_MISMATCH" | "UNSUPPORTED_AUDIO" | "STORAGE_FULL" | "RANGE_NOT_SATISFIABLE" | "BAD_MESSAGE" | "UNKNOWN_TYPE" | "UNEXPECTED_MESSAGE" | "UNAVAILABLE" | "DRAINING" | "INTERNAL"
  message: string
  details: Record<string, unknown>
  timestamp: string
  requestId: string
}

/** The `data` of each message in the direction `fromPhone`, by its type. */
export interface FromPhone {
  DEVICE_ONLINE: DeviceOnline
  DEVICE_OFFLINE: DeviceOffline
  HEARTBEAT: Heartbeat
  HEARTBEAT_ACK: HeartbeatAck
  ACK: Ack
  CALL_STATUS: CallStatus
  CALL_END: CallEnd
  RECORDING_UPLOAD: RecordingUpload
}

/** The `data` of each message in the direction `fromAgent`, by its type. */
export interface FromAgent {
  HELLO: Hello
  HEARTBEAT: Heartbeat
  HEARTBEAT_ACK: HeartbeatAck
  DIAL: Dial
  HANGUP: HangUp
}

/** The `data` of each message in the direction `toPhone`, by its type. */
export interface ToPhone {
  WELCOME: WelcomePhone
  HEARTBEAT_ACK: HeartbeatAck
  HEARTBEAT: Heartbeat
  ACK: Ack
  ERROR: Error
  DIAL_COMMAND: DialCommand
  CANCEL_DIAL: CancelDial
  DEVICE_UNBIND: DeviceUnbind
  RECONNECT: Reconnect
}

/** The `data` of each message in the direction `toAgent`, by its type. */
export interface ToAgent {
  WELCOME: WelcomeAgent
  HEARTBEAT_ACK: HeartbeatAck
  HEARTBEAT: Heartbeat
  ERROR: Error
  DIAL_ACCEPTED: DialAccepted
  HANGUP_ACCEPTED: HangUpAccepted
  DEVICE_BOUND: DeviceBound
  DEVICE_UNBOUND: DeviceUnbound
  DEVICE_STATUS: DeviceStatus
  CALL_DIALING: CallDialing
  CALL_RINGING: CallRinging
  CALL_CONNECTED: CallConnected
  CALL_ENDED: CallEnded
  RECORDING_READY: RecordingReady
  RESYNC: Resync
  RECONNECT: Reconnect
}

/** Every operation of the API. */
export interface Operations {
  /** Tell that the process runs; it says nothing of what it depends on. Needs: anyone. */
  "GET /healthz": {
    answer: Alive
  }
  /** Tell whether this node should be sent work; DRAINING or UNAVAILABLE with what is missing where not. Needs: anyone. */
  "GET /readyz": {
    answer: Ready
  }
  /** Show Prometheus metrics to who knows METRICS_TOKEN. Needs: anyone. */
  "GET /metrics": {
    answer: Response
  }
  /** Sign in with user name and password. Needs: anyone. */
  "POST /api/v1/auth/login": {
    body: LoginRequest
    answer: SignedIn
  }
  /** Get a new access token, and the refresh token to use next time. Needs: anyone. */
  "POST /api/v1/auth/refresh": {
    body: RefreshRequest
    answer: SignedIn
  }
  /** Sign out: this session's tokens are void and its pages' sockets close. Needs: signed in. */
  "POST /api/v1/auth/logout": {
    answer: Done
  }
  /** Change one's own password, which signs out one's other sessions. Needs: signed in. */
  "POST /api/v1/auth/password": {
    body: PasswordRequest
    answer: Done
  }
  /** Become an agent by API key: a session for a page that a CRM embeds, without a second sign-in. Needs: sessions.exchange. */
  "POST /api/v1/auth/exchange": {
    body: ExchangeRequest
    answer: SignedIn
  }
  /** Get a ticket that opens one WebSocket where headers cannot be set. Needs: anyone. */
  "POST /api/v1/auth/ws-ticket": {
    body?: TicketRequest
    answer: Ticket
  }
  /** Tell who asks, with the tenant whose choices an agent's page offers. Needs: signed in. */
  "GET /api/v1/me": {
    answer: Me
  }
  /** Make a tenant with its first admin. Needs: tenants.manage. */
  "POST /api/v1/admin/tenants": {
    body: NewTenant
    answer: TenantMade
  }
  /** List tenants. Needs: tenants.manage. */
  "GET /api/v1/admin/tenants": {
    query?: {
      page?: number
      pageSize?: number
      search?: string
    }
    answer: TenantList
  }
  /** Tell one tenant. Needs: tenants.manage. */
  "GET /api/v1/admin/tenants/{tenant_id}": {
    path: {
      tenant_id: string
    }
    answer: TenantAnswer
  }
  /** Give a tenant another name, or other hours in which it calls; also such as it may not give itself. Needs: tenants.manage. */
  "PUT /api/v1/admin/tenants/{tenant_id}": {
    path: {
      tenant_id: string
    }
    body?: TenantChange
    answer: TenantAnswer
  }
  /** Suspend a tenant: nobody of it is let in, and its sockets close; its logins and phones wait for the end. Needs: tenants.manage. */
  "POST /api/v1/admin/tenants/{tenant_id}/suspend": {
    path: {
      tenant_id: string
    }
    answer: TenantAnswer
  }
  /** Let a suspended tenant in again. Needs: tenants.manage. */
  "POST /api/v1/admin/tenants/{tenant_id}/resume": {
    path: {
      tenant_id: string
    }
    answer: TenantAnswer
  }
  /** Tell the tenant's own configuration. Needs: signed in. */
  "GET /api/v1/admin/tenant": {
    answer: TenantAnswer
  }
  /** Change the tenant's name, time zone, recording, when it calls, and what agents choose in the quick record. Needs: tenant.configure. */
  "PUT /api/v1/admin/tenant": {
    body?: TenantConfig
    answer: TenantAnswer
  }
  /** Make a team. Needs: teams.manage. */
  "POST /api/v1/admin/teams": {
    body: TeamRequest
    key?: string
    answer: TeamAnswer
  }
  /** List the teams within reach. Needs: users.read. */
  "GET /api/v1/admin/teams": {
    query?: {
      page?: number
      pageSize?: number
    }
    answer: TeamList
  }
  /** Give a team another name. Needs: teams.manage. */
  "PUT /api/v1/admin/teams/{team_id}": {
    path: {
      team_id: string
    }
    body: TeamRequest
    answer: Done
  }
  /** Delete a team that has no users and no calls. Needs: teams.manage. */
  "DELETE /api/v1/admin/teams/{team_id}": {
    path: {
      team_id: string
    }
    answer: Done
  }
  /** List the roles with their permissions. Needs: users.read. */
  "GET /api/v1/admin/roles": {
    answer: RoleList
  }
  /** Make a user. Needs: users.manage. */
  "POST /api/v1/admin/users": {
    body: NewUser
    answer: UserMade
  }
  /** List the users within reach. Needs: users.read. */
  "GET /api/v1/admin/users": {
    query?: {
      page?: number
      pageSize?: number
      search?: string
      role?: string
      teamId?: string
      status?: "active" | "disabled"
      tenantId?: string
    }
    answer: UserList
  }
  /** Make users from a CSV file, in one transaction, row by row: a row that is refused stops no other. Needs: users.manage. */
  "POST /api/v1/admin/users/import": {
    query?: {
      dryRun?: boolean
    }
    body: Blob | string
    answer: Imported
  }
  /** Tell one user. Needs: users.read. */
  "GET /api/v1/admin/users/{user_id}": {
    path: {
      user_id: string
    }
    answer: UserAnswer
  }
  /** Change a user's name, role, team or supervised teams; it holds from the user's next request on. Needs: users.manage. */
  "PUT /api/v1/admin/users/{user_id}": {
    path: {
      user_id: string
    }
    body?: UserChange
    answer: UserAnswer
  }
  /** Disable a user: signs it out everywhere and unbinds its phones; its records stay. Needs: users.manage. */
  "POST /api/v1/admin/users/{user_id}/disable": {
    path: {
      user_id: string
    }
    answer: UserAnswer
  }
  /** Enable a user again; its phones are to be bound anew. Needs: users.manage. */
  "POST /api/v1/admin/users/{user_id}/enable": {
    path: {
      user_id: string
    }
    answer: UserAnswer
  }
  /** Give a user a new password, to be changed at first use; signs it out everywhere and ends a lock-out. Needs: users.manage. */
  "POST /api/v1/admin/users/{user_id}/reset-password": {
    path: {
      user_id: string
    }
    answer: UserMade
  }
  /** End a user's lock-out. Needs: users.manage. */
  "POST /api/v1/admin/users/{user_id}/unlock": {
    path: {
      user_id: string
    }
    answer: UserAnswer
  }
  /** Make an API key. Needs: api_keys.manage. */
  "POST /api/v1/admin/api-keys": {
    body: NewApiKey
    key?: string
    answer: ApiKeyMade
  }
  /** List the tenant's API keys. Needs: api_keys.manage. */
  "GET /api/v1/admin/api-keys": {
    query?: {
      page?: number
      pageSize?: number
    }
    answer: ApiKeyList
  }
  /** Revoke an API key, with the sessions of agents that it was exchanged for. Needs: api_keys.manage. */
  "DELETE /api/v1/admin/api-keys/{key_id}": {
    path: {
      key_id: string
    }
    answer: Done
  }
  /** Make a hook. Needs: hooks.manage. */
  "POST /api/v1/admin/hooks": {
    body: NewHook
    key?: string
    answer: HookMade
  }
  /** List the tenant's hooks. Needs: hooks.manage. */
  "GET /api/v1/admin/hooks": {
    answer: HookList
  }
  /** Tell one hook. Needs: hooks.manage. */
  "GET /api/v1/admin/hooks/{hook_id}": {
    path: {
      hook_id: string
    }
    answer: HookAnswer
  }
  /** Change a hook. One that is enabled again is sent what waits for it. Needs: hooks.manage. */
  "PUT /api/v1/admin/hooks/{hook_id}": {
    path: {
      hook_id: string
    }
    body?: HookChange
    answer: HookAnswer
  }
  /** Delete a hook, with what waits for it. Needs: hooks.manage. */
  "DELETE /api/v1/admin/hooks/{hook_id}": {
    path: {
      hook_id: string
    }
    answer: Done
  }
  /** Give a hook a new secret. For 24 hours messages are signed with the one before, too. Needs: hooks.manage. */
  "POST /api/v1/admin/hooks/{hook_id}/rotate-secret": {
    path: {
      hook_id: string
    }
    answer: HookMade
  }
  /** Send a hook a message of the type `hook.ping`, to see whether it is taken. Needs: hooks.manage. */
  "POST /api/v1/admin/hooks/{hook_id}/ping": {
    path: {
      hook_id: string
    }
    answer: Pinged
  }
  /** Send again what was given up of the events since a time. Needs: hooks.manage. */
  "POST /api/v1/admin/hooks/{hook_id}/resend": {
    path: {
      hook_id: string
    }
    body: ResendFailed
    answer: Resent
  }
  /** Tell the log of a hook, newest first; it goes 30 days back. Needs: hooks.manage. */
  "GET /api/v1/admin/hooks/{hook_id}/deliveries": {
    path: {
      hook_id: string
    }
    query?: {
      state?: "delivered" | "failed" | "waiting"
      event?: "call.connected" | "call.corrected" | "call.created" | "call.ended" | "device.bound" | "device.offline" | "device.online" | "device.unbound" | "recording.deleted" | "recording.expired" | "recording.failed" | "recording.ready" | "hook.ping"
      since?: string
      cursor?: string
      pageSize?: number
    }
    answer: DeliveryList
  }
  /** Send a message again, whatever became of it, with the same id. Needs: hooks.manage. */
  "POST /api/v1/admin/hooks/{hook_id}/deliveries/{delivery_id}/resend": {
    path: {
      hook_id: string
      delivery_id: string
    }
    answer: Done
  }
  /** List the lines of the audit log: the tenant's, or for a system_admin the installation's or a tenant's. Needs: audit.read. */
  "GET /api/v1/admin/audit": {
    query?: {
      cursor?: string
      pageSize?: number
      resource?: string
      resourceId?: string
      actorId?: string
      action?: string
      tenantId?: string
    }
    answer: AuditList
  }
  /** Make a QR code by which a phone binds itself to an agent, once and soon. Needs: signed in. */
  "POST /api/v1/calls/device/bindQRCode": {
    body?: QrRequest
    answer: QrAnswer
  }
  /** Bind the phone that asks to the agent for whom the QR code was made. Needs: anyone. */
  "POST /api/v1/calls/device/bind": {
    body: BindRequest
    answer: BindAnswer
  }
  /** Tell the bound phones within reach. Needs: devices.read. */
  "GET /api/v1/calls/device/list": {
    query?: {
      userId?: string
      onlineStatus?: "offline" | "online"
      page?: number
      pageSize?: number
    }
    answer: ListAnswer
  }
  /** Tell who bound, moved and unbound which phone, the newest first. Needs: devices.manage. */
  "GET /api/v1/calls/device/bind-log": {
    query?: {
      userId?: string
      cursor?: string
      pageSize?: number
    }
    answer: LogAnswer
  }
  /** Unbind a phone: its token is void at once, and its session is closed. Needs: signed in. */
  "DELETE /api/v1/calls/device/{device_id}": {
    path: {
      device_id: string
    }
    query?: {
      force?: boolean
    }
    answer: Done
  }
  /** Tell whether a phone is online. Needs: devices.read. */
  "GET /api/v1/calls/device/{device_id}/status": {
    path: {
      device_id: string
    }
    answer: StatusAnswer
  }
  /** Tell how the asker calls out: by phone or by line, by which of them, and with which parameters. Needs: calls.dial. */
  "GET /api/v1/calls/config": {
    answer: ConfigAnswer
  }
  /** Set how the asker calls out. The default phone is one of the asker's own, the line one on which it can call. Needs: calls.dial. */
  "PUT /api/v1/calls/config": {
    body?: ConfigRequest
    answer: ConfigAnswer
  }
  /** List the tenant's lines; to an agent those on which it has a seat. Needs: lines.read. */
  "GET /api/v1/calls/lines": {
    query?: {
      page?: number
      pageSize?: number
      search?: string
      providerType?: "aliyun" | "custom" | "infinity" | "ronglian" | "tencent" | "tianrun"
      status?: "active" | "inactive" | "testing"
    }
    answer: LineList
  }
  /** Make a line. Needs: lines.manage. */
  "POST /api/v1/calls/lines": {
    body: NewLine
    key?: string
    answer: LineMade
  }
  /** Tell which providers there are, and what to fill in for each. Needs: lines.manage. */
  "GET /api/v1/calls/lines/providers": {
    answer: ProviderList
  }
  /** Try a configuration that is not kept; nothing is dialled. Needs: lines.manage. */
  "POST /api/v1/calls/lines/test": {
    body: LineTrial
    answer: TestAnswer
  }
  /** Tell one line; to who may manage it also how it is set up, and its callback URLs. Needs: lines.read. */
  "GET /api/v1/calls/lines/{line_id}": {
    path: {
      line_id: string
    }
    answer: LineAnswer
  }
  /** Change what is named of a line. A line that was suspended or frozen is in service again. Needs: lines.manage. */
  "PUT /api/v1/calls/lines/{line_id}": {
    path: {
      line_id: string
    }
    body?: LineFields
    answer: LineAnswer
  }
  /** Delete a line: its credentials are erased, and the records of its calls stay. Needs: lines.manage. */
  "DELETE /api/v1/calls/lines/{line_id}": {
    path: {
      line_id: string
    }
    answer: Done
  }
  /** Ask the line's provider something harmless, to see whether the account works; nothing is dialled. Needs: lines.manage. */
  "POST /api/v1/calls/lines/{line_id}/test": {
    path: {
      line_id: string
    }
    answer: TestAnswer
  }
  /** Put a line that was suspended or frozen back into service, once its provider answers a probe. Needs: lines.manage. */
  "POST /api/v1/calls/lines/{line_id}/unfreeze": {
    path: {
      line_id: string
    }
    body?: UnfreezeRequest
    answer: Unfrozen
  }
  /** List who of those within reach has a seat on a line. Needs: lines.read. */
  "GET /api/v1/calls/lines/{line_id}/seats": {
    path: {
      line_id: string
    }
    answer: SeatList
  }
  /** Say who a user is at the line's provider, so that it can call over the line. Needs: lines.manage. */
  "PUT /api/v1/calls/lines/{line_id}/seats/{user_id}": {
    path: {
      line_id: string
      user_id: string
    }
    body?: SeatBody
    answer: Done
  }
  /** Take a user's seat on a line; calls that are under way go on. Needs: lines.manage. */
  "DELETE /api/v1/calls/lines/{line_id}/seats/{user_id}": {
    path: {
      line_id: string
      user_id: string
    }
    answer: Done
  }
  /** List the tenant's Infinity channels. Needs: lines.manage. */
  "GET /api/v1/channel/infinity/list": {
    query?: {
      channel_name?: string
      status?: 0 | 1 | 2
      page?: number
      page_size?: number
    }
    answer: ChannelList
  }
  /** Make a channel, which is off. Needs: lines.manage. */
  "POST /api/v1/channel/infinity": {
    body: NewChannel
    key?: string
    answer: ChannelMade
  }
  /** Tell how one channel is set up. Needs: lines.manage. */
  "GET /api/v1/channel/infinity/{channel_id}": {
    path: {
      channel_id: string
    }
    answer: ChannelShown
  }
  /** Change what is named of a channel, or with `dry_run` tell what would be changed. Needs: lines.manage. */
  "PUT /api/v1/channel/infinity/{channel_id}": {
    path: {
      channel_id: string
    }
    query?: {
      dry_run?: boolean
    }
    body: ChannelFields
    answer: ChannelChanged
  }
  /** Delete a channel: its keys are erased, and its history stays. One that is deleted already stays so. Needs: lines.manage. */
  "DELETE /api/v1/channel/infinity/{channel_id}": {
    path: {
      channel_id: string
    }
    answer: ChannelDone
  }
  /** Turn a channel on or off, or put it under test. Needs: lines.manage. */
  "PUT /api/v1/channel/infinity/{channel_id}/status": {
    path: {
      channel_id: string
    }
    body: ChannelStatus
    answer: ChannelDone
  }
  /** List what was done to a channel, also to one that was deleted, newest first. Needs: lines.manage. */
  "GET /api/v1/channel/infinity/{channel_id}/history": {
    path: {
      channel_id: string
    }
    query?: {
      cursor?: string
      page_size?: number
    }
    answer: ChannelHistory
  }
  /** Tell how a channel does, and how much it is used now. Needs: lines.manage. */
  "GET /api/v1/channel/infinity/{channel_id}/health": {
    path: {
      channel_id: string
    }
    answer: ChannelHealth
  }
  /** Show a channel's key in full, which the audit log keeps with the reason; the secret is never shown. Needs: lines.reveal. */
  "POST /api/v1/channel/infinity/{channel_id}/reveal": {
    path: {
      channel_id: string
    }
    body: Reason
    answer: ChannelKey
  }
  /** Log what somebody did on the console's page. Needs: lines.manage. */
  "POST /api/v1/track": {
    body: Footprint
    answer: Done
  }
  /** List the tenant's Infinity configurations. Needs: lines.manage. */
  "GET /api/v1/infinity/configs": {
    query?: {
      page?: number
      pageSize?: number
    }
    answer: InfinityConfigList
  }
  /** Make a configuration. Needs: lines.manage. */
  "POST /api/v1/infinity/configs": {
    body: NewInfinityConfig
    key?: string
    answer: InfinityConfigAnswer
  }
  /** Sign in with a configuration that is not kept; nothing is dialled. Needs: lines.manage. */
  "POST /api/v1/infinity/configs/test-connection": {
    body: InfinityTrial
    answer: TestAnswer
  }
  /** Tell one configuration. Needs: lines.manage. */
  "GET /api/v1/infinity/configs/id/{config_id}": {
    path: {
      config_id: string
    }
    answer: InfinityConfigAnswer
  }
  /** Tell one configuration; by the id of one's own tenant (seed 001) the one that is taken first. Needs: lines.manage. */
  "GET /api/v1/infinity/configs/{config_id}": {
    path: {
      config_id: string
    }
    answer: InfinityConfigAnswer
  }
  /** Change what is named of a configuration. Needs: lines.manage. */
  "PUT /api/v1/infinity/configs/{config_id}": {
    path: {
      config_id: string
    }
    body?: InfinityConfigFields
    answer: InfinityConfigAnswer
  }
  /** Delete a configuration: its key is erased, and the records of its calls stay. Needs: lines.manage. */
  "DELETE /api/v1/infinity/configs/{config_id}": {
    path: {
      config_id: string
    }
    answer: Done
  }
  /** Turn a configuration on or off. Needs: lines.manage. */
  "POST /api/v1/infinity/configs/{config_id}/toggle": {
    path: {
      config_id: string
    }
    body: Toggle
    answer: InfinityConfigAnswer
  }
  /** Sign in with a configuration as it is kept; nothing is dialled. Needs: lines.manage. */
  "POST /api/v1/infinity/configs/{config_id}/test-connection": {
    path: {
      config_id: string
    }
    answer: TestAnswer
  }
  /** Start a call over one line: the same as a dial with `callMethod` cloud and that line's id. Needs: calls.dial. */
  "POST /api/v1/infinity/make-call": {
    body: MakeCall
    key?: string
    answer: DialAnswer
  }
  /** Put extensions into a line's pool; those that are in it already are skipped. Needs: extensions.manage. */
  "POST /api/v1/infinity/extensions/batch-import": {
    body: BatchImport
    key?: string
    answer: ExtensionImport
  }
  /** Put the extensions of a file into a line's pool: one in the first cell of each line, whatever stands behind. Needs: extensions.manage. */
  "POST /api/v1/infinity/extensions/import/{line_id}": {
    path: {
      line_id: string
    }
    body: Blob | string
    key?: string
    answer: ExtensionImport
  }
  /** Delete extensions, but for those that are lent, which the answer names. Needs: extensions.manage. */
  "POST /api/v1/infinity/extensions/batch-delete": {
    body: BatchDelete
    answer: ExtensionsDeleted
  }
  /** End all leases of an agent by force, though calls may be under way: only if you know that they are not. Needs: extensions.manage. */
  "POST /api/v1/infinity/extensions/force-release-collector/{user_id}": {
    path: {
      user_id: string
    }
    body?: Release
    answer: Released
  }
  /** Tell how much of each line's pool is used now. Needs: extensions.manage. */
  "GET /api/v1/infinity/extensions/statistics/{tenant_id}": {
    path: {
      tenant_id: string
    }
    query?: {
      lineId?: string
    }
    answer: PoolStatistics
  }
  /** Tell one extension. Raises NOT_FOUND. Needs: extensions.manage. */
  "GET /api/v1/infinity/extensions/id/{extension_id}": {
    path: {
      extension_id: string
    }
    answer: ExtensionAnswer
  }
  /** List the extensions of the tenant that the path names, and who has which now. Needs: extensions.manage. */
  "GET /api/v1/infinity/extensions/{extension_id}": {
    path: {
      extension_id: string
    }
    query?: {
      page?: number
      pageSize?: number
      lineId?: string
      status?: "available" | "in_use" | "offline"
      userId?: string
      search?: string
    }
    answer: ExtensionPage
  }
  /** Take an extension out of the pool, or put it back. Needs: extensions.manage. */
  "PUT /api/v1/infinity/extensions/{extension_id}": {
    path: {
      extension_id: string
    }
    body: ExtensionFields
    answer: ExtensionAnswer
  }
  /** Delete an extension. Raises NOT_FOUND, and IN_USE while it is lent. Needs: extensions.manage. */
  "DELETE /api/v1/infinity/extensions/{extension_id}": {
    path: {
      extension_id: string
    }
    answer: Done
  }
  /** End the lease of an extension by force, though its call may be under way: only if you know that it is not. Needs: extensions.manage. */
  "POST /api/v1/infinity/extensions/{extension_id}/release": {
    path: {
      extension_id: string
    }
    body?: Release
    answer: Released
  }
  /** Put a number on the list, at once; one that stands there already is never kept for a shorter time. Needs: do_not_call.add. */
  "POST /api/v1/calls/do-not-call": {
    body?: NewListing
    key?: string
    answer: ListingAnswer
  }
  /** List the numbers that are not called now, the last entered first. Needs: do_not_call.read. */
  "GET /api/v1/calls/do-not-call": {
    query?: {
      cursor?: string
      limit?: number
    }
    answer: ListingPage
  }
  /** Tell which of up to a hundred numbers may not be called; hours are not looked at. Needs: do_not_call.read. */
  "POST /api/v1/calls/do-not-call/check": {
    body: CheckBody
    answer: CheckAnswer
  }
  /** Put the numbers of a CSV file on the list, for good: UTF-8 or GB18030, with a header row. Needs: do_not_call.manage. */
  "POST /api/v1/calls/do-not-call/import": {
    body: Blob | string
    key?: string
    answer: ListingImport
  }
  /** Take a number off the list, for a reason that the audit log keeps. Needs: do_not_call.manage. */
  "POST /api/v1/calls/do-not-call/{entry_id}/lift": {
    path: {
      entry_id: string
    }
    body: LiftBody
    answer: Done
  }
  /** List the numbers that lines in `testing` may dial. Needs: lines.manage. */
  "GET /api/v1/calls/test-numbers": {
    answer: NumbersAnswer
  }
  /** Replace the numbers that lines in `testing` may dial; the next dial goes by them. Needs: lines.manage. */
  "PUT /api/v1/calls/test-numbers": {
    body: NumbersBody
    answer: NumbersAnswer
  }
  /** Start a call on the agent's work phone, or over a line. Needs: calls.dial. */
  "POST /api/v1/calls/dial": {
    body?: DialRequest
    key?: string
    answer: DialAnswer
  }
  /** Tell by which phone or line a dial would go, or why by none; nothing is dialled. Needs: calls.dial. */
  "POST /api/v1/calls/routing/explain": {
    body?: DialRequest
    answer: RoutingAnswer
  }
  /** Tell whether a colleague called a number minutes ago, and how it went. Needs: calls.dial. */
  "POST /api/v1/calls/lately": {
    body?: LatelyRequest
    answer: LatelyAnswer
  }
  /** End a call, or keep it from being dialled; a call that has ended is a success. Needs: calls.control. */
  "POST /api/v1/calls/hangup": {
    body: HangUpRequest
    answer: HangUpAnswer
  }
  /** Mute the agent of a call towards the customer, or no longer. Needs: calls.control. */
  "POST /api/v1/calls/mute": {
    body: MuteRequest
    answer: ControlAnswer
  }
  /** Hand the customer of a call to somebody else. Needs: calls.control. */
  "POST /api/v1/calls/transfer": {
    body: TransferRequest
    answer: ControlAnswer
  }
  /** Take CALL_STATUS from an app over HTTP, one or a batch after an offline spell. Needs: phone. */
  "POST /api/v1/calls/mobile/status": {
    body: AppStatus[] | AppStatus
    answer: ReportsAnswer
  }
  /** Take CALL_END from an app over HTTP, one or a batch after an offline spell. Needs: phone. */
  "POST /api/v1/calls/mobile/end": {
    body: AppEnd[] | AppEnd
    answer: ReportsAnswer
  }
  /** List calls, newest first; with `updatedSince`, follow how calls change. Needs: calls.read. */
  "GET /api/v1/calls": {
    query?: {
      status?: Status
      outcome?: Outcome[]
      recording?: ("awaited" | "deleted" | "expired" | "failed" | "none" | "ready")[]
      callMethod?: "cloud" | "mobile" | "sip"
      userId?: string
      teamId?: string
      deviceId?: string
      customerId?: string
      customerPhone?: string
      orderId?: string
      externalId?: string
      from?: string
      to?: string
      updatedSince?: string
      cursor?: string
      limit?: number
    }
    answer: CallPage
  }
  /** Write calls to a CSV file, newest first, its head in the asker's language. Needs: calls.export. */
  "GET /api/v1/calls/export": {
    query: {
      status?: Status
      outcome?: Outcome[]
      recording?: ("awaited" | "deleted" | "expired" | "failed" | "none" | "ready")[]
      callMethod?: "cloud" | "mobile" | "sip"
      userId?: string
      teamId?: string
      deviceId?: string
      customerId?: string
      customerPhone?: string
      orderId?: string
      externalId?: string
      from: string
      to?: string
    }
    answer: Response
  }
  /** Tell what the agents within reach do now, and what they did today. Needs: calls.board. */
  "GET /api/v1/calls/board": {
    query?: {
      teamId?: string
      limit?: number
    }
    answer: BoardAnswer
  }
  /** Count calls, answers and talk time by day, agent, team, line or method. Needs: calls.statistics. */
  "GET /api/v1/calls/statistics": {
    query?: {
      from?: string
      to?: string
      groupBy?: ("agent" | "day" | "line" | "method" | "team")[]
      userId?: string
      teamId?: string
      callMethod?: "cloud" | "mobile" | "sip"
    }
    answer: StatisticsAnswer
  }
  /** List calls whose next follow-up is due and not done, the longest due first. Needs: calls.read. */
  "GET /api/v1/calls/follow-ups": {
    query?: {
      before?: string
      userId?: string
      cursor?: string
      limit?: number
    }
    answer: CallPage
  }
  /** List ended calls that the agent has not recorded yet, the last ended first. Needs: calls.read. */
  "GET /api/v1/calls/unrecorded": {
    query?: {
      userId?: string
      cursor?: string
      limit?: number
    }
    answer: CallPage
  }
  /** Return the results and intentions to choose from, and what hang-up causes mean. Needs: calls.read. */
  "GET /api/v1/calls/options": {
    answer: OptionsAnswer
  }
  /** Return a call with its history. Needs: calls.read. */
  "GET /api/v1/calls/{call_id}": {
    path: {
      call_id: string
    }
    answer: CallAnswer
  }
  /** Tell where a call stands. Needs: calls.read. */
  "GET /api/v1/calls/{call_id}/status": {
    path: {
      call_id: string
    }
    answer: CallStatusAnswer
  }
  /** Record result, intention, note and the next follow-up of a call. Needs: calls.follow_up. */
  "PUT /api/v1/calls/{call_id}/follow-up": {
    path: {
      call_id: string
    }
    body?: FollowUpBody
    answer: Done
  }
  /** Mark the follow-up planned on a call as done; said again, it changes nothing. Needs: calls.follow_up. */
  "POST /api/v1/calls/{call_id}/follow-up/done": {
    path: {
      call_id: string
    }
    answer: Done
  }
  /** Look up soon what calls a message names, of which nobody knows who sent it. Raises NOT_FOUND. Needs: anyone. */
  "POST /api/v1/calls/webhook/{provider}": {
    path: {
      provider: string
    }
    body: Blob | string
    answer: Response
  }
  /** Keep what a provider sends to the URL of a line. Raises NOT_FOUND, FORBIDDEN. Needs: anyone. */
  "POST /api/v1/calls/webhook/{provider}/{token}": {
    path: {
      provider: string
      token: string
    }
    body: Blob | string
    answer: Response
  }
  /** Keep what a provider says in a query, by GET. Raises NOT_FOUND, FORBIDDEN. Needs: anyone. */
  "GET /api/v1/calls/webhook/{provider}/{token}": {
    path: {
      provider: string
      token: string
    }
    answer: Response
  }
  /** Keep what a provider sends to one of the URLs of a line. Raises NOT_FOUND, FORBIDDEN. Needs: anyone. */
  "POST /api/v1/calls/webhook/{provider}/{kind}/{token}": {
    path: {
      provider: string
      kind: string
      token: string
    }
    body: Blob | string
    answer: Response
  }
  /** Keep what a provider says to one of the URLs of a line, by GET. Raises NOT_FOUND, FORBIDDEN. Needs: anyone. */
  "GET /api/v1/calls/webhook/{provider}/{kind}/{token}": {
    path: {
      provider: string
      kind: string
      token: string
    }
    answer: Response
  }
  /** Take a recording from the phone that made the call. Needs: phone. */
  "POST /api/v1/calls/mobile/recording/upload": {
    body: FormData
    answer: Stored
  }
  /** Begin an upload in parts, or go on with the one of the same file that was cut. Needs: phone. */
  "POST /api/v1/calls/mobile/recording/uploads": {
    body: NewUpload
    answer: UploadAnswer
  }
  /** Tell which parts of an upload have arrived. Raises NOT_FOUND where it is over, or another's. Needs: phone. */
  "GET /api/v1/calls/mobile/recording/uploads/{upload_id}": {
    path: {
      upload_id: string
    }
    answer: UploadAnswer
  }
  /** Drop an upload and its parts. Raises NOT_FOUND where it is over already. Needs: phone. */
  "DELETE /api/v1/calls/mobile/recording/uploads/{upload_id}": {
    path: {
      upload_id: string
    }
    answer: Done
  }
  /** Take a part; one that is sent again replaces the first, unless it is encrypted: then the first stays. Needs: phone. */
  "PUT /api/v1/calls/mobile/recording/uploads/{upload_id}/parts/{number}": {
    path: {
      upload_id: string
      number: string
    }
    body: Blob | string
    answer: PartAnswer
  }
  /** Make the recording of its parts, after reading it back: what was told of it must be true. Needs: phone. */
  "POST /api/v1/calls/mobile/recording/uploads/{upload_id}/complete": {
    path: {
      upload_id: string
    }
    answer: Stored
  }
  /** Attach a recording by hand, where the handset could not bring it (seed 003 §7.4). Needs: recordings.attach. */
  "POST /api/v1/calls/{call_id}/recording": {
    path: {
      call_id: string
    }
    body: FormData
    answer: Stored
  }
  /** Play or download a recording: its bytes, of which a Range may be asked, or a redirect to the bucket. Needs: recordings.listen. */
  "GET /api/v1/calls/{call_id}/recording": {
    path: {
      call_id: string
    }
    query?: {
      download?: boolean
    }
    answer: Response
  }
  /** Delete a recording for good, as when its customer asks for it: it can be heard no more from now on. Needs: recordings.manage. */
  "DELETE /api/v1/calls/{call_id}/recording": {
    path: {
      call_id: string
    }
    query: {
      reason: string
    }
    answer: Done
  }
  /** Make a link for a player that cannot send a credential, such as an audio element; whoever has it may listen. Needs: recordings.listen. */
  "POST /api/v1/calls/{call_id}/recording/link": {
    path: {
      call_id: string
    }
    answer: LinkAnswer
  }
  /** Tell what a player draws of a recording, and what is known of it. Raises NOT_FOUND, RECORDING_GONE. Needs: recordings.listen. */
  "GET /api/v1/calls/{call_id}/recording/waveform": {
    path: {
      call_id: string
    }
    answer: WaveformAnswer
  }
  /** Put a recording under legal hold, or lift it: while held it neither expires nor can be deleted. Needs: recordings.manage. */
  "PUT /api/v1/calls/{call_id}/recording/hold": {
    path: {
      call_id: string
    }
    body: HoldRequest
    answer: Done
  }
  /** Play the recording of a link, which must belong to a tenant that is not suspended. Needs: anyone. */
  "GET /api/v1/recordings/{token}": {
    path: {
      token: string
    }
    answer: Response
  }
  /** Make a customer. Raises ALREADY_EXISTS for an external id that is known, and INVALID_PHONE. Needs: customers.write. */
  "POST /api/v1/customers": {
    body: NewCustomer
    key?: string
    answer: CustomerAnswer
  }
  /** List customers, the newest first. Needs: customers.read. */
  "GET /api/v1/customers": {
    query?: {
      q?: string
      tag?: string
      orderId?: string
      cursor?: string
      limit?: number
    }
    answer: CustomerPage
  }
  /** Make or replace customers from a CSV file, in UTF-8 or GB18030, with a header row. Needs: customers.write. */
  "POST /api/v1/customers/import": {
    query?: {
      dryRun?: boolean
    }
    body: Blob | string
    key?: string
    answer: ImportAnswer
  }
  /** Return a customer. Needs: customers.read. */
  "GET /api/v1/customers/{customer_id}": {
    path: {
      customer_id: string
    }
    answer: CustomerAnswer
  }
  /** Make or replace a customer: by the CRM's id whether or not it is known here, by ours if it is. Needs: customers.write. */
  "PUT /api/v1/customers/{customer_id}": {
    path: {
      customer_id: string
    }
    body: CustomerBody
    answer: SavedAnswer
  }
  /** Forget a customer; calls keep the number and the name they were made with. Needs: customers.write. */
  "DELETE /api/v1/customers/{customer_id}": {
    path: {
      customer_id: string
    }
    answer: Done
  }
}

/** Events that carry `seq`. */
export const SEQUENCED: ReadonlySet<string> = new Set([
  "CALL_CONNECTED",
  "CALL_DIALING",
  "CALL_ENDED",
  "CALL_RINGING",
  "DEVICE_BOUND",
  "DEVICE_STATUS",
  "DEVICE_UNBOUND",
  "RECORDING_READY",
])

/** Error codes after which the same request may succeed. */
export const RETRIED: ReadonlySet<string> = new Set([
  "CALL_CHANGED",
  "CHECKSUM_MISMATCH",
  "DEVICE_BUSY",
  "DEVICE_OFFLINE",
  "DRAINING",
  "INTERNAL",
  "LINE_BUSY",
  "NO_EXTENSION",
  "RATE_LIMITED",
  "REQUEST_TIMEOUT",
  "STORAGE_FULL",
  "UNAVAILABLE",
  "UPLOAD_IN_PROGRESS",
])
