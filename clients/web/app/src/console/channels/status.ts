/** The states of a channel by their numbers (seed 000, 一.7). */
export const STATES = ["inactive", "active", "testing"] as const

export type State = (typeof STATES)[number]
