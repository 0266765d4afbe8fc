/** Calls from a web page; FACE.md tells how it is used. */

export type { Answer, Asked, Beside, JsonOperation, Operation } from "./api.js"
export type { State } from "./connection.js"
export { type Asking, Desk, type Embedded, type EventType, type Told } from "./desk.js"
export { Refused, Stopped, TimedOut, Unreachable } from "./failures.js"
export type * from "./generated.js"
export { newId } from "./ids.js"
export type { Live } from "./live.js"
export { type Keep, type Language, Session, type SessionOptions } from "./session.js"
export { type Timing, USUAL } from "./timing.js"
